"""Sessions that are played to be logged: whole, by the probabilities that the log tells."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from session_blocks import environment, make, observations
from synthetic_session_logs import eagerly, uniform

from recpolicy.agents.learner import ExportedPolicy
from recpolicy.core.errors import ConfigError
from recpolicy.inference.action_distributions import HEADS
from recpolicy.inference.reward_estimators import ESTIMATORS, PolicyInput
from recpolicy.training.rollout_sessions import choose, exploring, rollout_sessions, softmax_policy, with_uniform_mix

ROWS, ITEMS, STEPS = 7, 24, 8
LAST = 1.0 - 2.0**-48


def some_mask() -> np.ndarray:
    mask = np.random.default_rng(1).random((ROWS, ITEMS)) < 0.6
    mask[:, :8] = True
    return mask


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), actions=st.integers(1, 40), zeros=st.floats(0, 0.9))
def test_evenly_spread_points_draw_every_action_as_often_as_its_probability_says(seed, actions, zeros):
    rng = np.random.default_rng(seed)
    probability = rng.random(actions) * (rng.random(actions) >= zeros)
    probability[rng.integers(actions)] += 0.1
    probability /= probability.sum()
    count = 2_000
    points = (np.arange(count) + 0.5) / count
    arm, log_probability = choose(tf.constant(np.tile(probability, (count, 1))), tf.constant(points))
    drawn = np.bincount(arm.numpy(), minlength=actions)
    assert np.abs(drawn - count * probability).max() <= 1
    assert (drawn[probability == 0] == 0).all()
    np.testing.assert_allclose(log_probability, np.log(probability[arm.numpy()]), rtol=1e-12)


def test_a_probability_of_0_is_not_drawn_at_the_ends():
    probability = tf.constant([[0.0, 0.0, 1.0, 0.0, 0.0]] * 2, tf.float64)
    arm, log_probability = choose(probability, tf.constant([0.0, LAST], tf.float64))
    assert arm.numpy().tolist() == [2, 2]
    assert log_probability.numpy().tolist() == [0.0, 0.0]


def test_a_tiny_probability_keeps_its_share_of_the_points():
    """Single precision has no point between 1 - 2^-24 and 1."""
    tiny = 1e-9
    probability = tf.constant([[1.0 - tiny, tiny]] * 2, tf.float64)
    arm, log_probability = choose(probability, tf.constant([1.0 - 1.1e-9, 1.0 - 0.9e-9], tf.float64))
    assert arm.numpy().tolist() == [0, 1]
    assert log_probability.numpy()[1] == pytest.approx(np.log(tiny), rel=1e-6)


POLICIES = {
    "ppo": {},
    "a2c": {},
    "reinforce": {},
    "topk_reinforce": {},
    "offpolicy_actor_critic": {},
    "behavior_cloning": {},
    "dqn": {"exploration_initial_eps": 0.4, "exploration_final_eps": 0.4},
    "dueling": {"dueling": True, "exploration_initial_eps": 0.4, "exploration_final_eps": 0.4},
}


@pytest.mark.parametrize("tables", [False, True], ids=["plain", "dot"])
@pytest.mark.parametrize("name", POLICIES)
def test_a_policy_explores_as_its_artifact_says(name, tables):
    agent = make("dqn" if name == "dueling" else name, tables=tables, **POLICIES[name])
    for weight in agent.learner.trainable_variables:
        weight.assign_add(np.random.default_rng(3).normal(0, 0.1, weight.shape).astype(np.float32))
    exported, seen, mask = agent.learner.export(), observations(ROWS), some_mask()
    found = exploring(exported)(tf.constant(seen), tf.constant(mask)).numpy()
    situation = PolicyInput(seen[:, :5], None, None, np.zeros((ROWS, ITEMS)), seen[:, 5:])
    estimate = ESTIMATORS[exported.estimator](exported.arrays, situation)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, HEADS[exported.head](estimate, exported.settings, mask), atol=1e-5)
    np.testing.assert_array_equal(found[~mask], 0)
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-6)
    assert found.std() > 0.01


def test_a_table_is_no_network():
    with pytest.raises(ConfigError, match="a policy of the kind 'session_table' cannot log sessions; use one of ppo"):
        exploring(ExportedPolicy("session_table", "epsilon_greedy_score"))


def test_the_floor_is_shared_by_what_is_allowed():
    mask = some_mask()
    score = np.zeros(ITEMS)
    score[0] = 1_000.0
    found = with_uniform_mix(softmax_policy(score), 0.25)(tf.zeros([ROWS, 1]), tf.constant(mask)).numpy()
    expected = 0.75 * np.eye(ITEMS)[0] + 0.25 * mask / mask.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(found, expected, atol=1e-15)


def played(sessions: int = 500, seed: int = 0, batch: int = 64):
    game = environment(seed, batch)
    return rollout_sessions(game, uniform(game), sessions, seed)


def test_sessions_are_whole():
    with eagerly():
        one = played()
    first = np.diff(one.session, prepend=-1) == 1
    assert first.sum() == 500
    np.testing.assert_array_equal(one.step == 0, first)
    assert (np.diff(one.step)[~first[1:]] == 1).all()
    last = np.append(first[1:], True)
    assert not one.ended[~last].any()
    length = one.step[last] + 1
    cut = ~one.ended[last]
    np.testing.assert_array_equal(length[cut], STEPS)
    assert 0 < cut.sum() < 500
    assert len(np.unique(one.session * ITEMS + one.arm)) == len(one.arm)  # nothing twice in a session
    np.testing.assert_allclose(one.log_propensity, -np.log(ITEMS - one.step), rtol=1e-12)
    assert set(one.user) <= set(environment().world.users)
    np.testing.assert_array_equal(one.reward, one.liked)  # a like earns 1


def test_the_same_seed_plays_the_same_and_fewer_sessions_are_the_first_ones():
    with eagerly():
        one, again, fewer, other = played(100), played(100), played(70), played(100, seed=1)
    for part, same, few in zip(one, again, fewer, strict=True):
        np.testing.assert_array_equal(part, same)
        np.testing.assert_array_equal(part[one.session < 70], few)
    assert not np.array_equal(one.arm[:70], other.arm[:70])


def test_compiled_and_not_it_plays_the_same():
    with eagerly():
        plain = played(64)
    for part, same in zip(played(64), plain, strict=True):
        np.testing.assert_allclose(part, same, rtol=1e-12)


def test_weights_by_the_logged_propensity_have_mean_1_for_every_item():
    """E[1[a] / p(a)] = 1 at the first step; 4,000 sessions, within 5 standard errors."""
    game = environment(0, 500)
    score = np.random.default_rng(2).normal(0, 1, ITEMS)
    with eagerly():
        one = rollout_sessions(game, with_uniform_mix(softmax_policy(score), 0.1), 4_000, 0)
    first = one.step == 0
    probability = 0.9 * np.exp(score) / np.exp(score).sum() + 0.1 / ITEMS
    np.testing.assert_allclose(np.exp(one.log_propensity[first]), probability[one.arm[first]], rtol=1e-9)
    mean = np.bincount(one.arm[first], np.exp(-one.log_propensity[first]), ITEMS) / 4_000
    error = np.sqrt((1 / probability - 1) / 4_000)
    assert (np.abs(mean - 1) < 5 * error).all()
