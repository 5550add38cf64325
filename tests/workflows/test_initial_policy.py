"""Trainings that start from a policy: their start, their lineage, their limit, and policies that do not fit."""

from dataclasses import replace

import numpy as np
import pytest
from synthetic_session_logs import eagerly
from trained_policies import miniature_split, trained

from recpolicy.agents import AGENTS, SESSION_AGENTS
from recpolicy.cli import training as cli
from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.data.splits import split
from recpolicy.registry.model_registry import Registry
from recpolicy.training import tensorflow_export
from recpolicy.workflows import policy_training
from recpolicy.workflows.initial_policy import LIMITED, LIMITS, read_initial_policy
from recpolicy.workflows.policy_training import train
from recpolicy.workflows.session_logs import simulate_session_log
from recpolicy.workflows.session_settings import SessionTrainConfig, make_worlds
from recpolicy.workflows.session_training import train_sessions

TRAIN = {"rating_model": "svd", "rank": 5, "max_episode_steps": 8, "batch_size": 32, "view": "last_item"}
NETWORK = {"layers": (8,), "temperature": 0.3}
SHORT = {"total_timesteps": 256, "batch_size": 8, "log_rows": 2, "checkpoint_every_steps": 128}


@pytest.fixture(scope="module", autouse=True)
def without_compiling():
    """Which takes longer than these trainings do."""
    with eagerly():
        yield


@pytest.fixture(scope="module", autouse=True)
def without_saved_models():
    """Their bytes are TensorFlow's affair."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tensorflow_export, "write_saved_models", lambda agent, *_: release(agent))
        yield


def release(agent) -> None:
    if hasattr(agent.learner, "release"):
        agent.learner.release()


@pytest.fixture(scope="module")
def worlds():
    return make_worlds(miniature_split(), SessionTrainConfig(**TRAIN), 0)


@pytest.fixture(scope="module")
def log(tmp_path_factory, worlds):
    out = tmp_path_factory.mktemp("logs") / "popular"
    return simulate_session_log(
        miniature_split(), out, logging_policy="popular", config={"sessions": 60}, train=TRAIN, worlds=worlds
    )


@pytest.fixture(scope="module")
def clone(tmp_path_factory, log):
    """A clone of that log's policy, and its folder."""
    out = tmp_path_factory.mktemp("clones") / "clone"
    return train("behavior_cloning", miniature_split(), out, config=TRAIN, agent_config=NETWORK, log=log), out


def continued(agent, out, clone, worlds, config=None, agent_config=None, **options):
    return train_sessions(
        agent, miniature_split(), out, config=SHORT | (config or {}), agent_config=agent_config, worlds=worlds,
        init_from=clone[1], **options,
    )  # fmt: skip


def test_the_policy_begins_as_the_initial_one_with_its_settings_and_lineage(tmp_path, clone, worlds, log):
    policy = continued("a2c", tmp_path / "policy", clone, worlds, agent_config={"learning_rate": 1e-9})
    old = clone[0].artifact
    for name in ("kernel_0", "bias_0", "kernel_1", "value/kernel_1"):
        np.testing.assert_allclose(policy.artifact.policy[name], old.policy[name], atol=1e-6)
    settings = policy.metadata["config"]
    assert (settings["train"]["view"], settings["train"]["rank"], settings["agent"]["layers"]) == ("last_item", 5, [8])
    assert settings["agent"]["temperature"] == 0.3
    assert policy.metadata["init_from"] == {
        "agent": "behavior_cloning", "policy_digest": old.metadata["policy_digest"],
    }  # fmt: skip
    assert policy.metadata["parents"] == [
        {"policy_digest": old.metadata["policy_digest"], "log": log.digest, "learned_events": len(log)}
    ]
    np.testing.assert_array_equal(policy.artifact.learned_events, old.learned_events)
    assert "reference_kl" not in policy.metadata["training"]


def test_a_training_that_reaches_its_limit_ends_and_says_so(tmp_path, clone, worlds, capsys):
    limit = {"learning_rate": 0.001, "max_reference_kl": 0.0002}
    long = {"total_timesteps": 2_000}
    policy = continued("a2c", tmp_path / "policy", clone, worlds, config=long, agent_config=limit)
    training = policy.metadata["training"]
    assert training["stopped_at_limit"]
    assert 0 < training["reference_kl"] < 0.0004
    assert training["total_timesteps"] < long["total_timesteps"]
    cli._print_divergence(policy.metadata)
    assert "nats (limit 0.0002; the training ended at the limit)" in capsys.readouterr().out


def test_a_training_on_a_log_that_reaches_its_limit_ends(tmp_path, clone, log, caplog):
    policy = train(
        "topk_reinforce", miniature_split(), tmp_path / "policy", config={"epochs": 5, "batch_size": 8}, log=log,
        agent_config={"learning_rate": 0.01, "max_reference_kl": 1e-4}, init_from=clone[1],
    )  # fmt: skip
    assert policy.metadata["training"]["stopped_at_limit"]
    assert "reached its limit of divergence" in caplog.text


def test_a_bandit_starts_from_the_network_of_another(tmp_path):
    source = trained("eps_greedy")
    limit = {"learning_rate": 1e-9, "max_reference_kl": 0.5}
    policy = train(
        "boltzmann", miniature_split(), tmp_path / "policy", init_from=source, agent_config=limit,
        config={"mode": "offline", "world": "item_knn"},
    )  # fmt: skip
    old = read_initial_policy(source, "boltzmann", miniature_split()).artifact.policy
    np.testing.assert_allclose(policy.artifact.policy["kernel_2"], old["kernel_2"], atol=1e-5)
    training = policy.metadata["training"]
    assert training["reference_kl"] == pytest.approx(0.0, abs=1e-4)
    assert not training["stopped_at_limit"]


def test_exploration_stays_the_agents_own_and_squarecb_takes_its_neural_model():
    source, here = trained("boltzmann"), {"config": {"items": 30}}
    for agent, own in (("eps_greedy", {}), ("squarecb", {"model": "neural"})):
        found = read_initial_policy(source, agent, miniature_split(), **here)
        assert found.agent == {"layers": [64, 64], "head": "plain", **own}
    with pytest.raises(ConfigError, match=r"agent\.model is 'neural' there, not 'linear'"):
        read_initial_policy(source, "squarecb", miniature_split(), agent_config={"model": "linear"}, **here)


def test_of_a_registry_the_champion_is_taken(tmp_path, clone):
    registry = Registry(tmp_path / "registry")
    registry.create()
    with pytest.raises(ConfigError, match="no version has the alias champion"):
        read_initial_policy(registry.folder, "ppo", miniature_split())
    version = registry.register(clone[1])
    registry.promote(version.number, ungated=True)
    found = read_initial_policy(registry.folder, "ppo", miniature_split())
    assert found.artifact.metadata["policy_digest"] == clone[0].metadata["policy_digest"]


@pytest.mark.parametrize(
    ("agent", "options", "message"),
    [
        ("dqn", {}, "holds a policy of behavior_cloning, from which ppo, .* can start, not dqn"),
        ("linucb", {}, "linucb is no agent with a network; those are ppo"),
        ("ppo", {"agent_config": {"layers": (64, 64)}}, r"agent\.layers is \[8\] there, not \(64, 64\)"),
        ("ppo", {"agent_config": {"head": "plain"}}, r"agent\.head is 'dot' there, not 'plain'"),
        ("ppo", {"config": {"items": 30}}, r"train\.items is 0 there, not 30"),
        ("ppo", {"config": {"view": "interest"}}, r"train\.view is 'last_item' there, not 'interest'"),
        ("ppo", {"seed": 1}, "trained with the seed 0, not 1"),
    ],
)
def test_a_policy_that_does_not_fit_is_one_line_before_tensorflow(
    tmp_path, monkeypatch, clone, agent, options, message
):
    monkeypatch.setattr(policy_training, "silence_libraries", lambda: pytest.fail("TensorFlow is imported"))
    with pytest.raises(ConfigError, match=message) as error:
        train(agent, miniature_split(), tmp_path / "policy", init_from=clone[1], **options)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_other_ratings_another_catalog_and_a_missing_policy_are_one_line(tmp_path, clone):
    parts = miniature_split()
    other = split(replace(parts.train, timestamp=None), "random")
    with pytest.raises(ConfigError, match=r"trained on the split u1 of .*, not on random"):
        train("ppo", other, tmp_path / "policy", init_from=clone[1])
    items = parts.train.items.assign(item_id=parts.train.items["item_id"].astype(str) + "x")
    renamed = replace(parts, train=replace(parts.train, items=items))
    with pytest.raises(ConfigError, match="another catalog"):
        train("ppo", renamed, tmp_path / "policy", init_from=clone[1])
    with pytest.raises(ArtifactError, match="no such folder"):
        train("ppo", parts, tmp_path / "policy", init_from=tmp_path / "nothing")


def test_a_limit_of_an_agent_that_has_none_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"linucb: max_reference_kl limits .* but linucb has no such limit; .*, dqn"):
        train("linucb", miniature_split(), tmp_path / "policy", agent_config={"max_reference_kl": 0.1})
    assert {name for name, entry in (AGENTS | SESSION_AGENTS).items() if hasattr(entry.config, LIMITS[0])} == set(
        LIMITED
    )


def test_a_limit_without_an_initial_policy_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="ppo: max_reference_kl limits the divergence from the initial policy"):
        train_sessions("ppo", miniature_split(), tmp_path / "policy", agent_config={"max_reference_kl": 0.1})
