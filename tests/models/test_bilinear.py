"""Linear models by sums equal their definitions: ridge regression, Sherman-Morrison steps, algorithm 2 of LinUCB."""

import numpy as np
import pytest

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.models.bilinear import MAX_WEIGHTS, BilinearModel
from recpolicy.models.hybrid_linear import HybridModel
from recpolicy.models.reward_model import Pairs

N, C, D = 60, 2, 3


@pytest.fixture
def pairs():
    rng = np.random.default_rng(1)
    ids = np.array(["a", "b", 7, "c"], object)
    return Pairs(rng.normal(size=(N, C)), rng.normal(size=(4, D)), ids, np.arange(N), rng.integers(0, 3, N))


@pytest.fixture
def reward(pairs):
    return np.random.default_rng(2).normal(0.5, 1, len(pairs))


@pytest.fixture
def weight(pairs):
    return np.random.default_rng(3).uniform(0.2, 3, len(pairs))


def regressors(pairs, interactions):
    """phi of each pair, written out."""
    x, a = pairs.context[pairs.row], pairs.action[pairs.offer]
    one = np.ones((len(x), 1))
    if not interactions:
        return np.concatenate([one, x, a], axis=1)
    return np.stack(
        [np.kron(left, right) for left, right in zip(np.hstack([one, x]), np.hstack([one, a]), strict=True)]
    )


@pytest.mark.parametrize("interactions", [True, False])
def test_means_and_widths_are_those_of_weighted_ridge_regression(pairs, reward, weight, interactions):
    model = BilinearModel.untrained((C, D), interactions=interactions, precision=2.0, prior_reward=0.5)
    model = model.updated(pairs, reward, weight)
    phi = regressors(pairs, interactions)
    information = 2 * np.eye(phi.shape[1]) + (phi * weight[:, np.newaxis]).T @ phi
    prior = np.eye(phi.shape[1])[0] * 0.5
    theta = np.linalg.solve(information, phi.T @ (weight * reward) + 2 * prior)
    estimate = model.estimate(pairs, widths=True)
    np.testing.assert_allclose(estimate.mean, phi @ theta, atol=1e-10)
    width = np.sqrt(np.einsum("kd,de,ke->k", phi, np.linalg.inv(information), phi))
    np.testing.assert_allclose(estimate.width, width, atol=1e-10)
    np.testing.assert_array_equal(model.estimate(pairs, widths=False).mean, estimate.mean)
    error = np.average((reward - phi @ theta) ** 2, weights=weight)
    assert model.squared_error() == pytest.approx(error, rel=1e-9)


def test_the_order_and_the_parts_of_rounds_make_no_difference(pairs, reward, weight):
    empty = BilinearModel.untrained((C, D), interactions=True, precision=1.0, prior_reward=0.0)
    whole, first = empty.updated(pairs, reward, weight), np.arange(N) < 20
    parts = empty.updated(pairs.take(~first), reward[~first], weight[~first])
    parts = parts.updated(pairs.take(first), reward[first], weight[first])
    np.testing.assert_allclose(parts.theta, whole.theta, atol=1e-12)


def test_a_forgotten_round_counts_less_and_the_prior_stays(pairs, reward, weight):
    empty = BilinearModel.untrained((C, D), interactions=True, precision=1.0, prior_reward=0.0, forgetting=0.9)
    model = empty.updated(pairs.take(np.arange(30)), reward[:30], weight[:30])
    model = model.updated(pairs.take(np.arange(30, N)), reward[30:], weight[30:])
    faded = weight * 0.9 ** np.arange(N - 1, -1, -1)
    plain = BilinearModel.untrained((C, D), interactions=True, precision=1.0, prior_reward=0.0)
    plain = plain.updated(pairs, reward, faded)
    np.testing.assert_allclose(model.theta, plain.theta, atol=1e-12)
    assert np.linalg.eigvalsh(model.covariance).max() <= 1 + 1e-12  # never less certain than the prior


@pytest.mark.parametrize("interactions", [True, False])
def test_the_hybrid_model_is_one_regression_on_shared_and_own_regressors(pairs, reward, weight, interactions):
    model = HybridModel.untrained(
        (C, D), interactions=interactions, precision=2.0, arm_precision=3.0, prior_reward=0.25
    ).updated(pairs, reward, weight)
    # The same posterior from the joint design matrix [z, e_a (x) x], with a prior per block.
    z = regressors(pairs, interactions)
    x = np.hstack([np.ones((N, 1)), pairs.context])[pairs.row]
    own = np.stack([np.kron(np.eye(4)[arm], row) for arm, row in zip(pairs.offer, x, strict=True)])
    phi = np.hstack([z, own])
    prior = np.diag(np.repeat([2.0, 3.0], [z.shape[1], own.shape[1]]))
    information = prior + (phi * weight[:, np.newaxis]).T @ phi
    start = np.zeros(phi.shape[1])
    start[0] = 2 * 0.25
    theta = np.linalg.solve(information, phi.T @ (weight * reward) + start)
    estimate = model.estimate(pairs, widths=True)
    np.testing.assert_allclose(estimate.mean, phi @ theta, atol=1e-9)
    width = np.sqrt(np.einsum("kd,de,ke->k", phi, np.linalg.inv(information), phi))
    np.testing.assert_allclose(estimate.width, width, atol=1e-9)


def test_the_hybrid_model_in_parts_and_with_a_new_action_id(pairs, reward, weight):
    empty = HybridModel.untrained((C, D), interactions=True, precision=1.0, arm_precision=1.0, prior_reward=0.0)
    whole, first = empty.updated(pairs, reward, weight), pairs.offer == 0
    parts = empty.updated(pairs.take(first), reward[first], weight[first])
    assert parts.action_ids == ("a",)
    parts = parts.updated(pairs.take(~first), reward[~first], weight[~first])
    assert set(parts.action_ids) == {"a", "b", 7}
    unseen = Pairs(pairs.context, pairs.action, pairs.action_id, np.arange(4), np.arange(4))
    np.testing.assert_allclose(parts.estimate(unseen, True).mean, whole.estimate(unseen, True).mean, atol=1e-9)
    fresh = Pairs(pairs.context, pairs.action, np.array(["new"] * 4, object), np.arange(4), np.full(4, 3))
    assert (whole.estimate(fresh, True).width > whole.estimate(unseen, True).width[3] - 1e-9).all()


def test_too_many_weights_are_refused():
    with pytest.raises(ConfigError, match=rf"has 10,201 weights; expected at most {MAX_WEIGHTS:,}"):
        BilinearModel.untrained((100, 100), interactions=True, precision=1.0, prior_reward=0.0)


@pytest.mark.parametrize("name", ["gram", "moment"])
def test_saved_sums_of_another_width_are_refused(pairs, reward, weight, name):
    model = BilinearModel.untrained((C, D), interactions=True, precision=1.0, prior_reward=0.0)
    model = model.updated(pairs, reward, weight)
    arrays = {**model.arrays, name: model.arrays[name][1:]}
    with pytest.raises(ArtifactError, match=f"{name}: float64 .*; expected floats"):
        BilinearModel.from_arrays(arrays, model.settings, (C, D))
