"""Returns and advantages against plain recursions and the numbers worked out for three steps."""

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from recpolicy.agents.returns import discounted_sums, explained_variance, generalized_advantages, standardize, td_errors

REWARD, VALUE = [1.0, 0.0, 2.0], [0.5, 0.4, 0.3]
GAMMA = 0.9


def column(values: list) -> tf.Tensor:
    """One session [T, 1]."""
    return tf.constant(values)[:, tf.newaxis]


def three_steps(
    gae_lambda: float, last_value: float = 123.0, *, terminated: bool = True, truncated: bool = False
) -> list:
    """Advantages of three steps, after which a value of `last_value` is claimed."""
    found = generalized_advantages(
        column(REWARD), column(VALUE), column([*VALUE[1:], last_value]), column([False, False, terminated]),
        column([False, False, truncated]), GAMMA, gae_lambda,
    )  # fmt: skip
    np.testing.assert_allclose(found.target, found.advantage + column(VALUE), rtol=1e-6)
    return found.advantage.numpy()[:, 0].tolist()


@pytest.mark.parametrize(
    ("gae_lambda", "expected"),
    [
        (0.8, [1.64768, 1.094, 1.7]),  # 1.7; -.13 + .72 1.7; .86 + .72 1.094
        (1.0, [2.12, 1.4, 1.7]),  # 1 + .81 2 - .5; .9 2 - .4; 2 - .3
        (0.0, [0.86, -0.13, 1.7]),  # 1 + .9 .4 - .5; .9 .3 - .4; 2 - .3
    ],
)
def test_three_steps_to_a_termination(gae_lambda, expected):
    assert three_steps(gae_lambda) == pytest.approx(expected, abs=1e-6)


def test_termination_does_not_bootstrap():
    assert three_steps(0.8, last_value=0.0) == three_steps(0.8, last_value=50.0)


def test_truncation_bootstraps():
    """As termination with the discounted value added to the last reward: 1.7 + .9 10, and on by .72 a step."""
    extra = 9.0
    expected = [1.64768 + 0.72**2 * extra, 1.094 + 0.72 * extra, 1.7 + extra]
    assert three_steps(0.8, last_value=10.0, terminated=False, truncated=True) == pytest.approx(expected, rel=1e-6)


def test_the_end_of_a_block_bootstraps_like_a_truncation():
    cut = three_steps(0.8, last_value=10.0, terminated=False, truncated=True)
    assert three_steps(0.8, last_value=10.0, terminated=False, truncated=False) == pytest.approx(cut, rel=1e-6)


def test_one_step_is_temporal_difference_learning():
    """n = 1: the target is r + gamma V(s')."""
    rng = np.random.default_rng(0)
    reward, value, following = (tf.constant(rng.normal(size=(1, 6)), tf.float32) for _ in range(3))
    nobody = tf.zeros([1, 6], tf.bool)
    target = generalized_advantages(reward, value, following, nobody, nobody, GAMMA, 1.0).target
    np.testing.assert_allclose(target, reward + GAMMA * following, rtol=1e-5)


def test_a_whole_session_is_monte_carlo():
    """n >= T: the target is the discounted sum of rewards, whatever the critic says."""
    rng = np.random.default_rng(0)
    reward = rng.normal(size=(7, 6)).astype(np.float32)
    terminated = np.zeros((7, 6), bool)
    terminated[-1] = True
    nonsense = tf.constant(rng.normal(size=(8, 6)) * 5, tf.float32)
    target = generalized_advantages(
        tf.constant(reward), nonsense[:-1], nonsense[1:], tf.constant(terminated), tf.zeros([7, 6], tf.bool), GAMMA, 1.0
    ).target
    powers = GAMMA ** np.arange(7)
    np.testing.assert_allclose(target[0], powers @ reward, atol=1e-4)
    np.testing.assert_allclose(target[4], powers[:3] @ reward[4:], atol=1e-4)


def plain_advantages(reward, value, following, terminated, truncated, gamma, gae_lambda) -> np.ndarray:
    """The same by the definition, one step of one session at a time, in float64."""
    steps, batch = reward.shape
    found = np.zeros((steps, batch))
    for b in range(batch):
        later = 0.0
        for t in reversed(range(steps)):
            ahead = 0.0 if terminated[t, b] else float(following[t, b])
            error = float(reward[t, b]) + gamma * ahead - float(value[t, b])
            later = error + (0.0 if terminated[t, b] or truncated[t, b] else gamma * gae_lambda * later)
            found[t, b] = later
    return found


@settings(max_examples=60)
@given(seed=st.integers(0, 10**6), steps=st.integers(1, 12), gamma=st.floats(0, 1), gae_lambda=st.floats(0, 1))
def test_sessions_in_one_block_do_not_leak_into_each_other(seed, steps, gamma, gae_lambda):
    rng = np.random.default_rng(seed)
    reward, value, following = rng.normal(size=(3, steps, 4)).astype(np.float32)
    terminated = rng.random((steps, 4)) < 0.3
    truncated = ~terminated & (rng.random((steps, 4)) < 0.3)
    parts = (reward, value, following, terminated, truncated)
    found = generalized_advantages(*map(tf.constant, parts), gamma, gae_lambda)
    expected = plain_advantages(*parts, gamma, gae_lambda)
    np.testing.assert_allclose(found.advantage, expected, atol=2e-5)
    np.testing.assert_allclose(found.target, expected + value, atol=2e-5)


@pytest.mark.parametrize("steps", range(1, 71))
def test_sums_by_doubling_are_the_recursion(steps):
    rng = np.random.default_rng(steps)
    term, go_on = rng.normal(size=(steps, 3)), rng.random((steps, 3))
    expected, later = np.zeros_like(term), np.zeros(3)
    for t in reversed(range(steps)):
        expected[t] = later = term[t] + go_on[t] * later
    np.testing.assert_allclose(discounted_sums(tf.constant(term), tf.constant(go_on)), expected, rtol=1e-9)


def test_one_step_errors():
    error = td_errors(column([1.0, 1.0]), column([0.5, 0.5]), column([2.0, 2.0]), column([True, False]), 0.5)
    assert error.numpy()[:, 0].tolist() == [0.5, 1.5]


def test_a_constant_reward_is_no_advantage_once_standardized():
    np.testing.assert_array_equal(standardize(tf.fill([40], 0.7)), 0.0)


def test_standardized_values_have_mean_0_and_deviation_1():
    values = standardize(tf.constant(np.random.default_rng(0).gamma(2.0, size=500), tf.float32)).numpy()
    assert values.mean() == pytest.approx(0, abs=1e-5)
    assert values.std() == pytest.approx(1, abs=1e-4)


def test_entries_of_weight_0_do_not_count():
    """(1, 3) alone have mean 2 and deviation 1."""
    values = standardize(tf.constant([1.0, 3.0, 500.0]), tf.constant([1.0, 1.0, 0.0]))
    np.testing.assert_allclose(values[:2], [-1, 1], rtol=1e-6)


@pytest.mark.parametrize(
    ("predicted", "expected"),
    [
        ([1.0, 2.0, 3.0], 1.0),
        ([11.0, 12.0, 13.0], 1.0),  # a constant error is no variance
        ([7.0, 7.0, 7.0], 0.0),
        ([-1.0, -2.0, -3.0], -3.0),  # Var(2 target) = 4 Var(target)
    ],
)
def test_explained_variance(predicted, expected):
    assert float(explained_variance(tf.constant(predicted), tf.constant([1.0, 2.0, 3.0]))) == pytest.approx(expected)


def test_explained_variance_of_a_constant_target_is_0():
    assert float(explained_variance(tf.constant([1.0, 2.0]), tf.constant([3.0, 3.0]))) == 0.0
