"""The gate of session policies: evaluated in simulated sessions, alone and against either kind of incumbent."""

import json
from dataclasses import replace

import numpy as np
import pytest
from randomized_policies import policy
from trained_policies import loaded, miniature_split

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.evaluation.gate import GateConfig
from recpolicy.inference.predictor import Policy
from recpolicy.models.own_like_model import read_like_model
from recpolicy.workflows import session_comparison
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


def trained_with(mine, name, digest):
    """The policy, as if it had been trained in a world of this like model."""
    metadata = {**mine.metadata, "like_model": {"name": name, "digest": digest}}
    return Policy(replace(mine.artifact, metadata=metadata))


def everything(user, item, history):
    return np.full(len(user), 1.0)


def test_a_policy_of_your_own_world_is_gated_in_it_and_the_record_says_so(tmp_path):
    """Everything is liked there, but for test ratings that are none: a session earns nearly its length."""
    digest = read_like_model(everything, miniature_split().train).digest
    mine = trained_with(policy("ppo", "last_n"), "my:everything", digest)
    with pytest.raises(ConfigError, match="was trained with the like model my:everything, so it is compared in that"):
        gate_candidate(mine, miniature_split(), None, None, GateConfig())
    result = gate_candidate(mine, miniature_split(), None, None, GateConfig(), out=tmp_path, like_model=everything)
    sessions = json.loads((tmp_path / "evaluation.json").read_text())["sessions"]
    assert sessions["reward"]["value"] == pytest.approx(sessions["length"], rel=0.05)
    assert "everything as like model on" in sessions["world"]
    note = f"everything (digest {digest[:12]}), as in the training."
    assert json.loads((tmp_path / "gate.json").read_text())["notes"] == list(result.notes)
    assert result.notes[-1].endswith(note)


def test_a_gate_says_if_the_worlds_like_model_is_not_that_of_the_training():
    mine, split = policy("ppo", "last_n"), miniature_split()
    other, world_model = trained_with(mine, "my:like", "other"), session_comparison._world_model
    assert world_model(other, split, everything)[1][0].endswith("the training had other probabilities.")
    assert world_model(mine, split, everything)[1][0].endswith("was trained with the fitted one.")
    own, notes = world_model(other, split, "fitted")
    assert own is None
    assert "trained with my:like" in notes[0]
    assert world_model(mine, split, None) == (None, ())
    with pytest.raises(ConfigError, match=r"like model 'no_such_module:like' cannot be imported: ModuleNotFoundError"):
        gate_candidate(other, split, None, None, GateConfig(), like_model="no_such_module:like")
    with pytest.raises(ConfigError, match="is that of simulated sessions, and there are none here"):
        evaluate_candidate(loaded("linucb"), split, None, like_model=everything)
