"""Policies that learned from slates, evaluated, compared and gated in sessions of slates; on the miniature."""

import json
from dataclasses import replace

import numpy as np
import pytest
from randomized_policies import policy, settings
from synthetic_session_logs import eagerly
from tiny_session_policies import led_by, tiny_session_artifact, write_tiny_sessions
from trained_policies import miniature_split

from recpolicy.core.errors import ConfigError
from recpolicy.evaluation.gate import GateConfig
from recpolicy.inference.predictor import Policy
from recpolicy.workflows.gating import gate_candidate
from recpolicy.workflows.session_comparison import compare_in_sessions
from recpolicy.workflows.session_evaluation import evaluate_or_read_sessions, evaluate_sessions
from recpolicy.workflows.session_log_evaluation import compare_on_sessions
from recpolicy.workflows.session_retraining import retrain_sessions
from recpolicy.workflows.session_settings import make_worlds
from recpolicy.workflows.slate_evaluation import evaluate_slates

SIZE, SLATES = 3, 3
TABLES = ["random", "most_popular", "highest_mean", "rating_model"]


@pytest.fixture(scope="module", autouse=True)
def without_compiling():
    """Which takes longer than these sessions do."""
    with eagerly():
        yield


def of_slates(size: int = SIZE, slates: int = SLATES, metadata: dict | None = None) -> Policy:
    """A policy of the miniature as if it had learned from slates of so many items."""
    artifact = policy("topk_reinforce", "last_n").artifact
    config = artifact.metadata["config"]
    train = {**config["train"], "slate_size": size, "max_episode_steps": slates, "continuation_probability": 0.7}
    known = {**artifact.metadata, "config": {**config, "train": train}, **(metadata or {})}
    return Policy(replace(artifact, metadata=known, policy={**artifact.policy, "steps": np.array(size * slates)}))


@pytest.fixture(scope="module")
def worlds():
    return make_worlds(miniature_split(), replace(settings("last_n"), max_episode_steps=SLATES), 0)


@pytest.fixture(scope="module")
def evaluated(worlds):
    return evaluate_sessions({"slates": of_slates()}, miniature_split(), worlds=worlds)


def test_sessions_of_slates_are_those_of_evaluate_slates(evaluated, worlds):
    """Two programs; likes per session to the last bit, for the policy and the baselines on the same slates."""
    assert list(evaluated.evaluation_world) == ["slates", *TABLES]  # none knows the fatigue
    for name, world in (("training_world", worlds.training_world), ("evaluation_world", worlds.evaluation_world)):
        expected = evaluate_slates(
            {"slates": of_slates()}, miniature_split(), world, slate_size=SIZE, continuation_probability=0.7
        )
        for each, returns in getattr(evaluated, name).items():
            assert returns.reward.value == expected[each].reward.value
            assert returns.length == expected[each].length <= SLATES
            assert returns.reward.value == pytest.approx(returns.length * returns.like_share)  # a slate pays one like


def test_the_report_says_slates(evaluated, capsys):
    assert evaluated.as_dict()["slate_size"] == SIZE
    assert {"slates", "likes per slate"} <= set(evaluated.table().columns)
    evaluated.show()
    assert "Simulated sessions of slates of 3 items" in capsys.readouterr().out


def test_a_policy_of_rounds_shows_slates_beside_one_of_slates(worlds):
    """As in `compare`; a policy that scores by the rating model earns what the rating model does."""
    artifact = replace(of_slates().artifact, agent="greedy", estimator="rating_model", policy={}, head="greedy")
    several = {"slates": of_slates(), "rounds": Policy(artifact)}
    result = evaluate_sessions(several, miniature_split(), worlds=worlds, sessions=60)
    assert result.evaluation_world["rounds"].gain.value == 0
    assert result.slate_size == SIZE


def test_worlds_of_an_ensemble_show_slates():
    result = evaluate_sessions({"slates": of_slates()}, miniature_split(), ensemble=2, sessions=60)
    assert list(result.ensemble) == ["slates", *TABLES]
    assert all(0 <= value <= SLATES for each in result.ensemble.values() for value in each.by_world)


@pytest.mark.parametrize(
    ("make", "setting"),
    [(lambda: policy("topk_reinforce", "last_n"), "max_episode_steps"), (lambda: of_slates(2), "slate_size")],
)
def test_slates_of_other_sizes_are_not_compared(worlds, make, setting):
    other = make()
    with pytest.raises(ConfigError, match=f"were trained with different {setting}"):
        evaluate_sessions({"slates": of_slates(), "other": other}, miniature_split(), worlds=worlds)
    with pytest.raises(ConfigError, match=f"were trained with different {setting}"):
        compare_in_sessions(of_slates(), other, miniature_split())


def test_stored_sessions_of_single_items_do_not_stand_for_slates(evaluated, tmp_path, monkeypatch):
    """Without TensorFlow the stored figures are shown, if they are of slates."""
    from recpolicy.core.errors import MissingExtraError
    from recpolicy.workflows import session_evaluation as module

    def fail(*_, **__):
        raise MissingExtraError("no TensorFlow")

    monkeypatch.setattr(module, "evaluate_sessions", fail)
    stored = {"test_digest": miniature_split().test.digest, "seed": 0, "sessions": evaluated.as_dict()}
    shown, _ = evaluate_or_read_sessions(of_slates(), miniature_split(), tmp_path, 0, stored)
    assert shown.slate_size == SIZE
    assert json.loads((tmp_path / "metrics.json").read_text())["sessions"]["slate_size"] == SIZE
    del stored["sessions"]["slate_size"]
    assert evaluate_or_read_sessions(of_slates(), miniature_split(), tmp_path, 0, stored)[0] is None


def test_the_gate_judges_slates(tmp_path):
    result = gate_candidate(of_slates(), miniature_split(), None, None, GateConfig(), out=tmp_path)
    title = "gain over the greedy rating model per simulated session of slates of 3, lower bound"
    assert title in [criterion.name for criterion in result.criteria]
    sessions = json.loads((tmp_path / "evaluation.json").read_text())["sessions"]
    assert sessions["slate_size"] == SIZE
    assert sessions["reward"]["value"] <= sessions["length"] <= SLATES  # a slate pays one like at most


def test_an_incumbent_of_rounds_shows_slates():
    artifact = replace(of_slates().artifact, agent="greedy", estimator="rating_model", policy={}, head="greedy")
    comparison = compare_in_sessions(of_slates(), Policy(artifact), miniature_split())
    against_ratings = compare_in_sessions(of_slates(), None, miniature_split())
    assert comparison.gain == against_ratings.gain
    assert comparison.slate_size == SIZE


def test_a_log_of_single_items_is_no_evidence_on_slates(tmp_path):
    single = Policy(tiny_session_artifact())
    config = {"train": {"slate_size": SIZE}, "agent": {}}
    slates, log = Policy(tiny_session_artifact(metadata={"config": config})), led_by(single, sessions=5)
    with pytest.raises(ConfigError, match="has one item a step, but the policy shows slates of 3; leave the log out"):
        compare_on_sessions(slates, None, log)
    with pytest.raises(ConfigError, match="has one item a step, but the incumbent shows slates of 3"):
        compare_on_sessions(single, slates, log)
    config["train"] |= {"rating_model": "svd"}
    with pytest.raises(ConfigError, match="has one item a step, but topk_reinforce shows slates of 3"):
        retrain_sessions(write_tiny_sessions(tmp_path / "old", metadata={"config": config}), log, tmp_path / "new")
    assert not (tmp_path / "new").exists()
