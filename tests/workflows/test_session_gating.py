"""The gate of session policies: evaluated in simulated sessions, alone and against either kind of incumbent."""

import json

import pytest
from randomized_policies import policy
from trained_policies import loaded, miniature_split

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.evaluation.gate import GateConfig
from recpolicy.workflows.candidate_evaluation import evaluate_candidate
from recpolicy.workflows.gating import gate_candidate


def test_a_session_policy_is_gated_without_a_log(tmp_path):
    result = gate_candidate(
        policy("ppo", "last_n"), miniature_split(), None, loaded("random"), GateConfig(), out=tmp_path
    )
    names = [criterion.name for criterion in result.criteria]
    assert any("per simulated session" in name for name in names)
    assert "users in simulated sessions" in names
    assert {"bias of rating estimates", "diversity of best items", "latency, 99th percentile (ms)"} <= set(names)
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written["sessions"]["users"] == 30
    assert written["sessions"]["gain"]["lo"] <= written["sessions"]["gain"]["value"]
    assert "off_policy" not in written
    assert result.verdict == "no_verdict"  # 30 users are fewer than the gate needs


def test_a_single_round_candidate_meets_a_session_champion_in_sessions():
    evaluation = evaluate_candidate(loaded("linucb"), miniature_split(), None, policy("ppo", "last_n"))
    assert evaluation.sessions is not None
    assert evaluation.sessions.baseline.startswith("incumbent ")
    assert evaluation.figures()["session_gain"] == evaluation.sessions.gain.value


def test_evidence_of_the_wrong_kind_is_refused():
    with pytest.raises(ConfigError, match="linucb is a policy of single rounds: the gate needs logged rounds"):
        gate_candidate(loaded("linucb"), miniature_split(), None, None, GateConfig())
    with pytest.raises(DataError, match="give a log of sessions, or the split of its training"):
        evaluate_candidate(policy("ppo", "last_n"), None, None)
