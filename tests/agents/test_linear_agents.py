"""LinUCB and linear Thompson sampling: the arithmetic of one linear model per arm."""

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from recpolicy.agents import linear_posterior as linear
from recpolicy.agents.lints import LinTS
from recpolicy.agents.linucb import LinUCB, LinUCBConfig
from recpolicy.agents.observation import Observation
from recpolicy.core.errors import ConfigError
from recpolicy.models import recursive_regression
from recpolicy.models.feature_agent_configs import LinTSConfig

ARMS, WIDTH, ROWS = 3, 4, 24
Batch = tuple[np.ndarray, np.ndarray, np.ndarray]


def learner(prior: np.ndarray | None = None, **config) -> LinUCB:
    prior = np.zeros((ARMS, WIDTH), np.float32) if prior is None else prior.astype(np.float32)
    return LinUCB(prior, LinUCBConfig(**({"bias": False, "precision": 1.0} | config)), "linucb")


def batch(seed: int = 0, rows: int = ROWS) -> Batch:
    """Arms [N], contexts [N, D], rewards [N]."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, WIDTH)).astype(np.float32)
    return rng.integers(0, ARMS, rows).astype(np.int32), x, rng.uniform(1, 5, rows).astype(np.float32)


def see(x: np.ndarray) -> Observation:
    return Observation(tf.constant(x, tf.float32), None, None)


def learn(agent: LinUCB, rows: Batch) -> float:
    arm, x, reward = rows
    return float(agent.update(see(x), tf.constant(arm), tf.constant(reward)))


def compiled_update(agent: LinUCB) -> Callable[..., tf.Tensor]:
    """Return the update as one compiled function of arms [N], contexts [N, D] and rewards [N]."""
    return tf.function(lambda a, x, r: agent.update(Observation(x, None, None), a, r), jit_compile=True)


def posterior(agent: LinUCB) -> tuple[np.ndarray, np.ndarray]:
    arrays = agent.export().arrays
    return arrays["theta"], arrays["covariance"]


def ridge(rows: Batch, arm: int, prior: np.ndarray, precision: float) -> tuple[np.ndarray, np.ndarray]:
    """theta and inverse covariance of one arm, in closed form."""
    arms, x, reward = rows
    mine = x[arms == arm].astype(np.float64)
    inverse = np.linalg.inv(precision * np.eye(x.shape[1]) + mine.T @ mine)
    return inverse @ (precision * prior + mine.T @ reward[arms == arm]), inverse


def test_the_published_oracle():
    """Seen ([1,0],1), ([1,1],0), ([0,1],1): A = [[3,1],[1,3]], theta = [.25,.25]; at [1,2] mean .75, width 1.1726."""
    agent = learner(np.zeros((1, 2)))
    x = np.array([[1, 0], [1, 1], [0, 1]], np.float32)
    learn(agent, (np.zeros(3, np.int32), x, np.array([1, 0, 1], np.float32)))
    theta, covariance = posterior(agent)
    np.testing.assert_allclose(np.linalg.inv(covariance[0]), [[3, 1], [1, 3]], atol=1e-5)
    np.testing.assert_allclose(theta, [[0.25, 0.25]], atol=1e-6)
    mean, width = agent.estimate(see(np.array([[1, 2]])))
    assert float(mean[0, 0]) == pytest.approx(0.75, abs=1e-6)
    assert float(width[0, 0]) == pytest.approx(1.172604, abs=1e-6)


@settings(max_examples=8)
@given(seed=st.integers(0, 10_000), precision=st.floats(0.1, 20))
def test_sherman_morrison_is_the_inverse_and_the_warm_prior_is_shrunk_to(seed, precision):
    prior = np.random.default_rng(seed + 1).normal(3, 1, (ARMS, WIDTH))
    agent = learner(prior, precision=precision)
    learn(agent, batch(seed))
    theta, covariance = posterior(agent)
    for arm in range(ARMS):
        expected_theta, expected_inverse = ridge(batch(seed), arm, prior[arm], precision)
        np.testing.assert_allclose(covariance[arm], expected_inverse, atol=2e-4 / min(precision, 1))
        np.testing.assert_allclose(theta[arm], expected_theta, atol=5e-3)


def test_before_any_data_it_is_its_prior():
    prior = np.random.default_rng(0).normal(size=(ARMS, WIDTH))
    mean, width = learner(prior, precision=4.0).estimate(see(np.eye(WIDTH)))
    np.testing.assert_allclose(mean, prior.T, rtol=1e-6)
    np.testing.assert_allclose(width, 0.5)  # 1 / sqrt(precision)


@settings(max_examples=15)
@given(x=arrays(np.float32, (6, WIDTH), elements=st.floats(-3, 3, width=32)))
def test_the_width_never_grows_in_a_direction_that_was_just_seen(x):
    agent = learner(np.zeros((1, WIDTH)))
    for row in x:
        before = float(agent.estimate(see(row[np.newaxis])).width[0, 0])
        learn(agent, (np.zeros(1, np.int32), row[np.newaxis], np.ones(1, np.float32)))
        after = float(agent.estimate(see(row[np.newaxis])).width[0, 0])
        assert after <= before + 1e-6
        # x'P'x = s / (1 + s) with s = x'Px, whatever came before.
        assert after == pytest.approx(np.sqrt(before**2 / (1 + before**2)), abs=1e-3)


def test_alpha_zero_is_greedy_ridge_and_alpha_counts_the_width():
    rows, x = batch(3), batch(4)[1]
    greedy, bold = learner(alpha=0.0), learner(alpha=1e4)
    for agent in (greedy, bold):
        learn(agent, rows)
    theta = np.stack([ridge(rows, arm, np.zeros(WIDTH), 1.0)[0] for arm in range(ARMS)])
    expected = x @ theta.T  # [N, A]
    chosen = np.take_along_axis(
        expected, greedy.behavior_probabilities(see(x)).numpy().argmax(axis=1)[:, np.newaxis], axis=1
    )
    np.testing.assert_allclose(chosen[:, 0], expected.max(axis=1), atol=1e-4)
    np.testing.assert_array_equal(greedy.behavior_probabilities(see(x)), greedy.greedy_probabilities(see(x)))
    width = bold.estimate(see(x)).width.numpy()
    chosen = np.take_along_axis(
        width, bold.behavior_probabilities(see(x)).numpy().argmax(axis=1)[:, np.newaxis], axis=1
    )
    np.testing.assert_allclose(chosen[:, 0], width.max(axis=1), atol=2e-3)


def test_permuting_the_arms_permutes_everything():
    arm, x, reward = batch(5)
    order = np.array([2, 0, 1])
    plain, permuted = learner(), learner()
    learn(plain, (arm, x, reward))
    learn(permuted, (order[arm].astype(np.int32), x, reward))
    for part, other in zip(plain.estimate(see(x)), permuted.estimate(see(x)), strict=True):
        np.testing.assert_array_equal(part, tf.gather(other, order, axis=1))


def test_a_batch_is_its_rows_one_after_the_other():
    arm, x, reward = batch(6)
    together, apart = learner(forgetting=0.9), learner(forgetting=0.9)
    learn(together, (arm, x, reward))
    for row in range(ROWS):
        learn(apart, (arm[row : row + 1], x[row : row + 1], reward[row : row + 1]))
    for one, other in zip(posterior(together), posterior(apart), strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_reported_loss_is_the_squared_error_before_the_update():
    rows = batch(7)
    assert learn(learner(), rows) == pytest.approx(np.mean(rows[2] ** 2), rel=1e-5)


def test_forgetting_is_the_posterior_of_weights_that_walk():
    """theta_t = theta_{t-1} + w_t with cov(w_t) = (1 - f) (P_0 - P): the mean of the last weights given all rewards.

    The covariance of weights i and j is P_0 + the sum of cov(w_k) to min(i, j), so the rewards are jointly normal.
    """
    forgetting, rows, width = 0.8, 12, 3
    rng = np.random.default_rng(8)
    x, reward, prior = rng.normal(size=(rows, width)), rng.normal(3, 1, rows), rng.normal(size=width)
    agent = learner(prior[np.newaxis], forgetting=forgetting, precision=2.0)
    learn(agent, (np.zeros(rows, np.int32), x.astype(np.float32), reward.astype(np.float32)))
    start = np.eye(width) / 2.0
    walked, last = [start], start
    for row in x:
        before = forgetting * last + (1 - forgetting) * start
        walked.append(walked[-1] + before - last)
        last = np.linalg.inv(np.linalg.inv(before) + np.outer(row, row))
    common = [[walked[min(i, j) + 1] for j in range(rows)] for i in range(rows)]
    gram = np.array([[x[i] @ common[i][j] @ x[j] for j in range(rows)] for i in range(rows)]) + np.eye(rows)
    cross = np.stack([walked[j + 1] @ x[j] for j in range(rows)], axis=1)  # [D, N], the last weights and the rewards
    theta, covariance = posterior(agent)
    np.testing.assert_allclose(theta[0], prior + cross @ np.linalg.solve(gram, reward - x @ prior), rtol=1e-4)
    np.testing.assert_allclose(covariance[0], walked[-1] - cross @ np.linalg.solve(gram, cross.T), atol=1e-5)


def test_without_forgetting_nothing_returns_to_the_prior():
    """The factor 1 leaves out the step towards the prior: the bits are those of the plain recursion."""
    rows = batch(12)
    agent, covariance = learner(), tf.constant(np.eye(WIDTH, dtype=np.float32))
    assert recursive_regression.forget(covariance, 1.0, 4.0) is covariance
    learn(agent, rows)
    theta, plain = np.zeros((ARMS, WIDTH), np.float32), np.tile(np.eye(WIDTH, dtype=np.float32), (ARMS, 1, 1))
    for a, x, r in zip(*rows, strict=True):
        step = recursive_regression.recursive_step(*(tf.constant(part) for part in (theta[a], plain[a], x, r)))
        theta[a], plain[a] = (part.numpy() for part in step)
    for mine, other in zip(posterior(agent), (theta, plain), strict=True):
        np.testing.assert_array_equal(mine, other)


def assert_within_prior(covariance: np.ndarray, precision: float) -> None:
    """Finite, symmetric, positive definite and at most the prior, I / precision."""
    assert np.isfinite(covariance).all()
    values = np.linalg.eigvalsh(covariance.astype(np.float64))
    assert values.min() > 0
    assert values.max() <= (1 + 1e-4) / precision
    np.testing.assert_allclose(covariance, np.swapaxes(covariance, -1, -2), atol=1e-3 / precision)


@pytest.mark.parametrize(("forgetting", "directions"), [(0.9, 1), (0.99, 1), (0.5, 3), (0.999, 3)])
def test_forgetting_stays_within_the_prior_over_a_million_rounds(forgetting, directions):
    """Contexts in few directions of many: the others are never excited, and must not grow."""
    rounds, width, precision = 1_000_000 if directions == 1 else 100_000, 6, 100.0
    rng = np.random.default_rng(directions)
    seen = rng.normal(size=(directions, width)).astype(np.float32)
    x = seen[rng.integers(0, directions, rounds)]
    reward = rng.integers(1, 6, rounds).astype(np.float32)
    agent = learner(np.zeros((1, width)), forgetting=forgetting, precision=precision)
    compiled_update(agent)(tf.zeros(rounds, tf.int32), tf.constant(x), tf.constant(reward))
    theta, covariance = posterior(agent)
    assert_within_prior(covariance, precision)
    assert np.isfinite(theta).all()
    assert np.abs(seen @ theta[0]).max() < 10


def test_after_a_change_forgetting_follows_and_the_plain_posterior_stays():
    """1,000 rewards of 1, then 100 of 5, all at one context: f = .97 ends near 5, f = 1 near the mean of all."""
    x = np.ones((1_100, 1), np.float32)
    reward = np.repeat([1.0, 5.0], [1_000, 100]).astype(np.float32)
    ends = {}
    for forgetting in (1.0, 0.97):
        agent = learner(np.zeros((1, 1)), forgetting=forgetting)
        compiled_update(agent)(tf.zeros(1_100, tf.int32), tf.constant(x), tf.constant(reward))
        ends[forgetting] = float(posterior(agent)[0][0, 0])
    assert ends[1.0] == pytest.approx(1_500 / 1_101, abs=1e-3)
    assert ends[0.97] > 4.9


def test_the_inverse_stays_an_inverse_over_many_updates():
    """20,000 float32 steps: still symmetric, positive, and within 1 % of the exact inverse."""
    arm, x, reward = batch(9, rows=20_000)
    agent = learner()
    compiled_update(agent)(tf.constant(arm), tf.constant(x), tf.constant(reward))
    covariance = posterior(agent)[1]
    for a in range(ARMS):
        exact = ridge((arm, x, reward), a, np.zeros(WIDTH), 1.0)[1]
        np.testing.assert_allclose(covariance[a], covariance[a].T, atol=1e-3 * covariance[a].max())
        assert np.abs(covariance[a] - exact).max() < 0.01 * np.abs(exact).max()


def test_the_bias_is_a_constant_regressor():
    agent = learner(np.zeros((ARMS, WIDTH + 1)), bias=True)
    np.testing.assert_array_equal(agent.features(see(np.zeros((2, WIDTH)))), [[0, 0, 0, 0, 1]] * 2)


def test_thompson_sampling_has_the_same_posterior_and_scales_its_width():
    prior = np.zeros((ARMS, WIDTH), np.float32)
    sampler, bound = LinTS(prior, LinTSConfig(bias=False, precision=1.0, scale=1e-4), "lints"), learner()
    for agent in (sampler, bound):
        learn(agent, batch(10))
    x = see(batch(11)[1])
    for one, other in zip(sampler.estimate(x), bound.estimate(x), strict=True):
        np.testing.assert_array_equal(one, other)
    # With next to no width it is greedy.
    np.testing.assert_array_equal(
        sampler.behavior_probabilities(x).numpy().argmax(axis=1), sampler.greedy_probabilities(x).numpy().argmax(axis=1)
    )


def test_widths_are_never_nan_where_rounding_makes_a_square_negative():
    width = linear.widths(tf.constant([[[-1e-9]]]), tf.constant([[1.0]]))
    np.testing.assert_array_equal(width, [[0]])


@pytest.mark.parametrize("config", [{"precision": 0.0}, {"forgetting": 0.0}, {"forgetting": 1.1}])
def test_settings_out_of_range_are_refused(config):
    with pytest.raises(ConfigError, match=next(iter(config))):
        learner(**config)
