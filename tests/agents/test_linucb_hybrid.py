"""Hybrid LinUCB against the paper's own formulas and against the regression that it is."""

import numpy as np
import pytest
import tensorflow as tf

from recpolicy.agents.linucb_hybrid import HybridLinUCB
from recpolicy.agents.linucb_shared import SharedLinUCB
from recpolicy.agents.observation import Observation
from recpolicy.core.errors import ConfigError
from recpolicy.models.feature_agent_configs import HybridLinUCBConfig, SharedLinUCBConfig
from recpolicy.models.pair_features import PairFeatures

ARMS, WIDTH, RANK, ROWS = 3, 3, 2, 40
D, K = WIDTH + 1, RANK + 2  # of x (with its constant) and of z


def pairs() -> PairFeatures:
    rng = np.random.default_rng(1)
    return PairFeatures(rng.normal(size=(ARMS, RANK)).astype(np.float32), rng.normal(size=ARMS).astype(np.float32))


def rows(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Contexts [N, width], arms [N], rewards [N]."""
    rng = np.random.default_rng(seed)
    context = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    return context, rng.integers(0, ARMS, ROWS).astype(np.int32), rng.normal(size=ROWS).astype(np.float32)


def regressors(context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x [N, D] and z [N, A, K], float64."""
    x = np.concatenate([context, np.ones((len(context), 1))], axis=1)
    return x, pairs().of(tf.constant(context), pairs().all_items).numpy().astype(np.float64)


def trained(**config) -> HybridLinUCB:
    agent = HybridLinUCB(pairs(), ARMS, WIDTH, HybridLinUCBConfig(**config))
    context, arm, reward = rows()
    agent.update(Observation(tf.constant(context), None, None), tf.constant(arm), tf.constant(reward))
    return agent


def estimates(agent, context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    mean, width = agent.estimate(Observation(tf.constant(context), None, None))
    return mean.numpy(), width.numpy()


def paper(context: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Algorithm 2 of Li et al. 2010, line by line, with A0 = I, A_a = I; the prior mean is taken off the rewards."""
    a0, b0 = np.eye(K), np.zeros(K)
    a, b_cross, b = np.stack([np.eye(D)] * ARMS), np.zeros((ARMS, D, K)), np.zeros((ARMS, D))
    prior = np.concatenate([np.ones(RANK), [1.0, 0.0]])
    seen, arms, rewards = rows()
    xs, zs = regressors(seen)
    for x, z_all, arm, reward in zip(xs, zs, arms, rewards, strict=True):
        z = z_all[arm]
        rest = reward - z @ prior
        inverse = np.linalg.inv(a[arm])
        a0 += b_cross[arm].T @ inverse @ b_cross[arm]
        b0 += b_cross[arm].T @ inverse @ b[arm]
        a[arm] += np.outer(x, x)
        b_cross[arm] += np.outer(x, z)
        b[arm] += rest * x
        inverse = np.linalg.inv(a[arm])
        a0 += np.outer(z, z) - b_cross[arm].T @ inverse @ b_cross[arm]
        b0 += rest * z - b_cross[arm].T @ inverse @ b[arm]
    i0 = np.linalg.inv(a0)
    beta = i0 @ b0
    xs, zs = regressors(context)
    mean, square = np.zeros((len(xs), ARMS)), np.zeros((len(xs), ARMS))
    for arm in range(ARMS):
        inverse, cross = np.linalg.inv(a[arm]), b_cross[arm]
        theta = inverse @ (b[arm] - cross @ beta)
        for row, (x, z) in enumerate(zip(xs, zs[:, arm], strict=True)):
            mean[row, arm] = z @ (beta + prior) + x @ theta
            back = inverse @ x
            square[row, arm] = z @ i0 @ z - 2 * z @ i0 @ cross.T @ back + x @ back + back @ cross @ i0 @ cross.T @ back
    return mean, np.sqrt(square)


def test_means_and_widths_are_those_of_the_papers_formulas():
    context = rows(seed=9)[0]
    for ours, theirs in zip(
        estimates(trained(shared_precision=1, arm_precision=1), context), paper(context), strict=True
    ):
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=2e-4)


@pytest.mark.parametrize(("shared", "own"), [(1.0, 1.0), (100.0, 10.0), (0.5, 3.0)])
def test_means_and_widths_are_those_of_ridge_regression_on_both_parts(shared, own):
    """phi = (z, 0..x..0) with precision diag(shared, own) and prior mean (1..1, 1, 0; 0)."""
    context, arms, rewards = rows()

    def phi(x: np.ndarray, z: np.ndarray, arm: int) -> np.ndarray:
        vector = np.zeros(K + ARMS * D)
        vector[:K] = z
        vector[K + arm * D : K + (arm + 1) * D] = x
        return vector

    prior = np.zeros(K + ARMS * D)
    prior[: RANK + 1] = 1
    precision = np.diag([shared] * K + [own] * (ARMS * D))
    xs, zs = regressors(context)
    design = np.stack([phi(x, z[arm], arm) for x, z, arm in zip(xs, zs, arms, strict=True)])
    inverse = np.linalg.inv(precision + design.T @ design)
    weights = inverse @ (precision @ prior + design.T @ rewards)
    fresh = rows(seed=5)[0]
    mean, width = estimates(trained(shared_precision=shared, arm_precision=own), fresh)
    xs, zs = regressors(fresh)
    for arm in range(ARMS):
        wanted = np.stack([phi(x, z[arm], arm) for x, z in zip(xs, zs, strict=True)])
        np.testing.assert_allclose(mean[:, arm], wanted @ weights, atol=2e-4)
        np.testing.assert_allclose(width[:, arm], np.sqrt(np.sum(wanted @ inverse * wanted, axis=1)), atol=2e-4)


def test_it_starts_as_the_rating_model():
    context = rows()[0]
    agent = HybridLinUCB(pairs(), ARMS, WIDTH, HybridLinUCBConfig())
    _, z = regressors(context)
    np.testing.assert_allclose(estimates(agent, context)[0], z[..., :RANK].sum(axis=-1) + z[..., RANK], atol=1e-5)


def test_arms_that_are_certain_of_nothing_being_their_own_leave_the_shared_form():
    """With an enormous arm precision hybrid is LinUCB over the shared features."""
    context, arm, reward = rows()
    shared = SharedLinUCB(pairs(), SharedLinUCBConfig(precision=2.0))
    shared.update(Observation(tf.constant(context), None, None), tf.constant(arm), tf.constant(reward))
    hybrid = trained(shared_precision=2.0, arm_precision=1e6)
    for one, other in zip(estimates(hybrid, context), estimates(shared, context), strict=True):
        np.testing.assert_allclose(one, other, atol=5e-3)


def test_the_shared_form_is_ridge_regression_on_the_features_that_the_observation_brings():
    rng = np.random.default_rng(3)
    z = rng.normal(size=(ROWS, ARMS, K)).astype(np.float32)
    context, arm, reward = rows()
    seen = Observation(tf.constant(context), tf.constant(z), None)
    agent = SharedLinUCB(pairs(), SharedLinUCBConfig(precision=2.0))
    agent.update(seen, tf.constant(arm), tf.constant(reward))
    design = z[np.arange(ROWS), arm].astype(np.float64)
    inverse = np.linalg.inv(2 * np.eye(K) + design.T @ design)
    theta = inverse @ (2 * np.concatenate([np.ones(RANK + 1), [0]]) + design.T @ reward)
    mean, width = agent.estimate(seen)
    np.testing.assert_allclose(mean, z @ theta, atol=2e-4)
    np.testing.assert_allclose(width, np.sqrt(np.einsum("bak,kl,bal->ba", z, inverse, z)), atol=2e-4)


@pytest.mark.parametrize("change", [{"shared_precision": 0.0}, {"arm_precision": -1.0}])
def test_precisions_must_be_positive(change):
    with pytest.raises(ConfigError, match="expected greater than or equal to 0"):
        trained(**change)
