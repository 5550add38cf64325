"""Files of format version 2 are read with the current names, and equal what version 0 said."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.inference.predictor import load_policy
from recpolicy.registry.aliases import STATE, Routing
from recpolicy.registry.audit_log import AUDIT
from recpolicy.registry.model_registry import Registry
from recpolicy.workflows.artifacts import policy_digest
from recpolicy.workflows.evaluation_files import read_candidate_evaluation
from recpolicy.workflows.gating import gate_evaluation, read_gate, register
from recpolicy.workflows.interaction_logs import read_rounds
from recpolicy.workflows.policy_estimation import read_evaluation_log
from recpolicy.workflows.slate_logs import read_slate_log

V0, V2 = (Path(__file__).parent / name for name in ("v0", "v2"))
EXPECTED = json.loads((V0 / "expected.json").read_text())
LINUCB = EXPECTED["policies"]["linucb"]["content"]


@pytest.fixture
def registry(tmp_path):
    return Registry(shutil.copytree(V2 / "registry", tmp_path / "registry"))


def test_policy():
    policy, old = load_policy(V2 / "policy"), load_policy(V0 / "policies" / "linucb-slates")
    assert policy.metadata == old.metadata
    assert policy.metadata["policy_digest"] == policy_digest(policy.artifact)
    assert len(policy.metadata["slate_digest"]) == 64
    assert not {"content", "pages"} & policy.metadata.keys()
    np.testing.assert_array_equal(policy.artifact.action_items, old.artifact.action_items)
    np.testing.assert_array_equal(policy.predict([1, 7]).rating, old.predict([1, 7]).rating)


def test_registry(registry):
    first, second = registry.versions()
    assert first.policy_digest == load_policy(V2 / "policy").metadata["policy_digest"] == first.lineage["policy_digest"]
    assert first.gate["policy"]["policy_digest"] == LINUCB
    assert second.lineage["parents"][0].keys() == {"policy_digest", "log"}
    assert registry.routing() == Routing(champion=1, challenger=2, traffic_fraction=0.25)


def test_registry_keeps_its_audit(registry):
    lines = registry.audit()
    assert (lines[-1]["change"], lines[-1]["traffic_fraction"]) == ("set_traffic_fraction", 0.25)
    registry.set_traffic_fraction(0.25)  # no change: the old line is known, under its new name
    assert registry.audit() == lines
    registry.set_traffic_fraction(0.5)
    assert len(registry.audit()) == len(lines) + 1
    assert (registry.folder / AUDIT).read_bytes().startswith((V2 / "registry" / AUDIT).read_bytes())
    state = json.loads((registry.folder / STATE).read_text())
    assert "share" not in state
    assert state["traffic_fraction"] == 0.5


def test_registry_knows_its_policy(registry):
    assert registry.register(V2 / "policy").number == 1


def test_gate_and_evaluation(tmp_path):
    assert read_gate(V2 / "gate.json") == read_gate(V0 / "evaluation" / "gate.json")
    assert read_gate(V2 / "gate.json")["policy"]["policy_digest"] == LINUCB
    assert {"train", "test"} < read_gate(V2 / "gate.json")["inputs"].keys()
    evaluation = read_candidate_evaluation(V2 / "evaluation.json")
    assert evaluation == read_candidate_evaluation(V0 / "evaluation" / "judgement.json")
    assert evaluation["policy"]["policy_digest"] == LINUCB
    assert "fit" not in evaluation["inputs"]
    assert gate_evaluation(V2 / "evaluation.json", {"margin": 100.0}).verdict != "pass"
    assert register(V0 / "policies" / "linucb", V2 / "gate.json", tmp_path / "registered").policy_digest == LINUCB


def test_logs():
    policy = load_policy(V2 / "policy")
    ids = IdVocabulary.from_policy(policy)
    rounds = read_rounds(V2 / "rounds" / "evaluation.parquet", ids)
    old = read_rounds(V0 / "logs" / "slates-rounds" / "evaluation.parquet", ids)
    assert (rounds.digest, rounds.slate_digest) == (old.digest, old.slate_digest)
    assert rounds.slate_digest is not None
    np.testing.assert_array_equal(rounds.action_items, old.action_items)
    assert read_slate_log(V2 / "slates.parquet", ids).digest == EXPECTED["slates"]["digest"]
    sessions = read_evaluation_log(load_policy(V0 / "policies" / "ppo"), V2 / "sessions.parquet")
    assert sessions.digest == EXPECTED["sessions"]["digest"]
    assert len(sessions.action_items) == EXPECTED["sessions"]["catalogue"]
