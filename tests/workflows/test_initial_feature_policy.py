"""`train --init-from` on a log with features: a network starts as the network of another policy."""

import numpy as np
import pytest
from tiny_feature_log import SCHEMA, tiny_log, tiny_schema

from recpolicy.core.errors import ConfigError
from recpolicy.inference.feature_artifact import read_feature_policy
from recpolicy.inference.feature_policy import chosen_pairs
from recpolicy.registry.model_registry import Registry
from recpolicy.workflows.feature_training import train_feature_policy

FAST = {"epochs": 2, "batch_size": 50}
FROZEN = {"learning_rate": 1e-12}


@pytest.fixture(scope="module")
def logs():
    return tiny_log(200), tiny_log(120, seed=7)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("policies")


def trained(folder, log, normalization):
    settings = {"layers": (6, 5), "normalization": normalization, "learning_rate": 0.01}
    train_feature_policy(log, tiny_schema(), "eps_greedy", folder, config=FAST, agent_config=settings)
    return folder


@pytest.fixture(scope="module")
def first(folder, logs):
    return trained(folder / "first", logs[0], "none")


def scores(folder, log):
    policy = read_feature_policy(folder)
    return policy.model.estimate(chosen_pairs(policy.encoder, False, log), widths=False).mean * policy.reward_std


@pytest.mark.parametrize(("normalization", "reward"), [("none", None), ("layer", {"normalize": True}), ("batch", None)])
def test_without_learning_the_rewards_are_those_of_the_first_policy(logs, tmp_path, normalization, reward):
    first, out = trained(tmp_path / "first", logs[0], normalization), tmp_path / "next"
    new = train_feature_policy(
        logs[1], None, "boltzmann", out, config=FAST, agent_config=FROZEN, reward=reward, init_from=first, seed=3
    )
    np.testing.assert_allclose(scores(out, logs[1]), scores(first, logs[1]), atol=2e-6)
    old = read_feature_policy(first)
    assert new.metadata["init_from"] == {"agent": "eps_greedy", "policy_digest": old.policy_digest}
    assert [parent["policy_digest"] for parent in new.metadata["parents"]] == [old.policy_digest]
    assert new.metadata["learned_events"] == len(logs[1])
    assert len(new.learned_events) == len({*logs[0].event_id, *logs[1].event_id})  # neither log can evaluate it


def test_learning_goes_on_from_there(first, logs, tmp_path):
    start, fresh = tmp_path / "start", tmp_path / "fresh"
    settings = {"layers": (6, 5), "normalization": "none", "learning_rate": 1e-4}
    train_feature_policy(
        logs[1], None, "squarecb", start, config=FAST, agent_config={"learning_rate": 1e-4}, init_from=first
    )
    train_feature_policy(logs[1], tiny_schema(), "eps_greedy", fresh, config=FAST, agent_config=settings)
    moved = np.abs(scores(start, logs[1]) - scores(first, logs[1])).max()
    assert 1e-6 < moved < np.abs(scores(fresh, logs[1]) - scores(first, logs[1])).max()


def test_a_registry_gives_its_champion(first, logs, tmp_path):
    registry = Registry(tmp_path / "registry")
    registry.promote(registry.register(first).number, ungated=True)
    new = train_feature_policy(
        logs[1], None, "eps_greedy", tmp_path / "next", config=FAST, agent_config=FROZEN, init_from=registry.folder
    )
    assert new.metadata["init_from"]["policy_digest"] == read_feature_policy(first).policy_digest


def test_neural_linucb_starts_from_its_own_encoder(folder, logs, tmp_path):
    settings = {"layers": (6,), "encoding_dim": 4, "learning_rate": 0.01}
    old_folder, fast = folder / "encoded", {"config": FAST, "init_from": folder / "encoded"}
    old = train_feature_policy(logs[0], tiny_schema(), "neural_linucb", old_folder, config=FAST, agent_config=settings)
    new = train_feature_policy(logs[0], None, "neural_linucb", tmp_path / "next", agent_config=FROZEN, **fast)
    np.testing.assert_allclose(new.model.layers["kernel_0"], old.model.layers["kernel_0"], atol=1e-6)
    with pytest.raises(ConfigError, match="from which neural_linucb can start, not eps_greedy"):
        train_feature_policy(logs[0], None, "eps_greedy", tmp_path / "x", **fast)


@pytest.mark.parametrize(
    ("agent", "schema", "settings", "words"),
    [
        ("eps_greedy", None, {"layers": (7, 5)}, r"bias_0 is \(6,\) there, \(7,\) here"),
        ("eps_greedy", None, {"normalization": "batch"}, "cannot start from another"),
        ("linucb_shared", None, {}, "linucb_shared trains no network"),
        ("squarecb", None, {"model": "hashed"}, "squarecb trains no network"),
        ("eps_greedy", tiny_schema(action={"size": SCHEMA["action"]["size"]}), {}, "another schema"),
    ],
)
def test_a_policy_that_does_not_fit_is_refused_in_one_line(first, logs, tmp_path, agent, schema, settings, words):
    with pytest.raises(ConfigError, match=words) as error:
        train_feature_policy(
            logs[1], schema, agent, tmp_path / "next", config=FAST, agent_config=settings, init_from=first
        )
    assert str(error.value).startswith(f"--init-from {first}: ")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "next").exists()
