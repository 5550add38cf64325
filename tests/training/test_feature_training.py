"""Agents on a planted world with features: they find what is there, and nothing where nothing is."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from feature_world import ACTIONS, SCHEMA, FeatureWorld, planted_log
from tiny_feature_log import tiny_log, tiny_schema

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.features import schema_from_dict
from recpolicy.models.feature_agent_configs import FEATURE_AGENT_CONFIGS, FeatureTrainConfig
from recpolicy.training.feature_agents import FEATURE_AGENTS, feature_agent
from recpolicy.training.feature_training import learn_feature_policy

ROUNDS = 20_000


@pytest.fixture(scope="module")
def world():
    return FeatureWorld.make()


@pytest.fixture(scope="module")
def log():
    return planted_log(ROUNDS, seed=1)


@pytest.fixture(scope="module")
def fresh():
    return planted_log(2_000, seed=2)


FEW = FeatureTrainConfig(epochs=3)


def test_every_agent_has_its_settings_without_tensorflow():
    assert {name: entry.config for name, entry in FEATURE_AGENTS.items()} == FEATURE_AGENT_CONFIGS
    code = "import sys, recpolicy.models.feature_agent_configs; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def learn(log, agent, config=FEW, schema=SCHEMA, **settings):
    return learn_feature_policy(log, schema, agent, feature_agent(agent).config(**settings), config)


def relative_value(policy, fresh, world):
    """Value of the policy itself, exploration included: 0 as the uniform policy, 1 as the best bilinear one."""
    x = np.stack([fresh.context[f"c{place}"] for place in range(20)], axis=1)
    probability = policy.probabilities_of(fresh).reshape(len(fresh), ACTIONS)
    uniform = world.value(np.full((len(x), ACTIONS), 1 / ACTIONS), x)
    best = world.value(np.eye(ACTIONS)[world.bilinear_scores(x).argmax(axis=1)], x)
    return (world.value(probability, x) - uniform) / (best - uniform)


@pytest.mark.parametrize(
    ("agent", "settings", "at_least"),
    [
        ("squarecb", {"gamma_scale": 100}, 0.8),
        ("squarecb", {"model": "hashed", "gamma_scale": 100}, 0.7),
        ("squarecb", {"model": "neural", "gamma_scale": 100}, 0.7),
        ("linucb_shared", {"alpha": 0.0}, 0.9),
        ("linucb_hybrid", {"alpha": 0.0}, 0.85),
        ("lints", {"scale": 0.1}, 0.85),
        ("eps_greedy", {"normalization": "layer"}, 0.7),
        ("boltzmann", {"temperature": 0.02}, 0.7),
        ("neural_linucb", {"alpha": 0.0, "normalization": "batch"}, 0.7),
    ],
)
def test_every_agent_beats_random_and_the_best_constant_action(log, fresh, world, agent, settings, at_least):
    policy = learn(log, agent, **settings)
    value = relative_value(policy, fresh, world)
    x = world.contexts(2_000, 2)
    constant = max(world.value(np.tile(np.eye(ACTIONS)[action], (len(x), 1)), x) for action in range(ACTIONS))
    uniform = world.value(np.full((len(x), ACTIONS), 1 / ACTIONS), x)
    best = world.value(np.eye(ACTIONS)[world.bilinear_scores(x).argmax(axis=1)], x)
    assert value > at_least
    assert value > (constant - uniform) / (best - uniform) + 0.1


def test_every_agent_is_in_the_planted_test():
    names = {mark.args[1][case][0] for mark in [_planted_cases()] for case in range(len(mark.args[1]))}
    assert names == set(FEATURE_AGENTS)


def _planted_cases():
    return test_every_agent_beats_random_and_the_best_constant_action.pytestmark[0]


def test_permuted_action_features_take_the_gain_away(fresh, world):
    permuted = planted_log(ROUNDS, seed=1, permuted=True)
    policy = learn(permuted, "linucb_shared", alpha=0.0)
    assert abs(relative_value(policy, fresh, world)) < 0.15


def test_products_are_needed_where_the_truth_is_a_product(log, fresh, world):
    policy = learn(log, "linucb_shared", alpha=0.0, schema=replace(SCHEMA, interactions=False))
    assert relative_value(policy, fresh, world) < 0.4


def test_importance_weights_count_actions_alike(world):
    """A misspecified model fits what the logging policy showed, unless rounds are weighted."""
    log = planted_log(ROUNDS, seed=3, sharpness=2.0)
    constant = schema_from_dict({"context": {}, "action": {"id": {"type": "category"}}, "interactions": False})
    truth = world.expected_rewards(world.contexts(50_000, 9)).mean(axis=0)
    errors = []
    for max_weight in (1.0, 100.0):  # 1: all rounds weigh the same
        policy = learn(log, "linucb_shared", FeatureTrainConfig(max_weight=max_weight), schema=constant, precision=1.0)
        actions = [(f"action {number}", {}) for number in range(ACTIONS)]
        _, score = policy.probabilities({}, actions)
        errors.append(np.abs(score - truth).mean())
    assert errors[1] < 0.5 * errors[0]


def test_rewards_in_units_of_their_deviation_give_the_same_scores():
    log = tiny_log(400)
    config = FeatureTrainConfig()
    plain, normalized = (
        learn_feature_policy(log, tiny_schema(), "linucb_shared", feature_agent("linucb_shared").config(), config,
                             normalize=normalize)
        for normalize in (False, True)
    )  # fmt: skip
    assert normalized.reward_std == pytest.approx(log.reward.std())
    np.testing.assert_allclose(normalized.scores_of(log), plain.scores_of(log), atol=1e-9)


def test_the_weight_of_a_round_counts_its_events():
    log = tiny_log(200)
    twice = replace(log, weight=np.where(np.arange(200) < 50, 2.0, 1.0))
    rows = np.concatenate([np.arange(200), np.arange(50)])
    repeated = log.select(rows, "repeated")
    repeated = replace(repeated, event_id=np.array([f"e{row}" for row in range(250)], object))
    scale = {"precision": 1e-6}
    one, other = (learn(part, "linucb_shared", schema=tiny_schema(), **scale) for part in (twice, repeated))
    np.testing.assert_allclose(one.scores_of(log), other.scores_of(log), atol=1e-3)


def test_a_log_without_rewards_is_refused():
    log = tiny_log(20)
    with pytest.raises(DataError, match="tiny: no round has a reward; join rewards first"):
        learn(replace(log, reward=np.full(20, np.nan)), "squarecb", schema=tiny_schema())


def test_a_model_that_is_too_large_names_the_hashed_one():
    wide = tiny_schema(context={"device": {"type": "category", "encoding": "hashed", "size": 2000}})
    with pytest.raises(ConfigError, match="the model `hashed` of squarecb takes any number"):
        learn(tiny_log(20), "squarecb", schema=wide)


def test_settings_that_make_no_sense_are_refused():
    with pytest.raises(ConfigError, match="a linear model over features always has a constant: leave bias out"):
        learn(tiny_log(20), "lints", schema=tiny_schema(), bias=False)
    with pytest.raises(ConfigError, match="no agent of feature policies named 'ucb1'"):
        learn(tiny_log(20), "ucb1", schema=tiny_schema())
