"""The prior by EM: exact likelihood, monotone passes, planted parameters, attributes, faulty traces."""

import numpy as np
import pytest
from scipy.stats import multivariate_normal

from recpolicy.coldstart.prior import ItemMoments, ItemPrior, em_pass, fit_prior, log_likelihood
from recpolicy.core.errors import DataError
from recpolicy.core.seeds import generator

MEAN = np.array([0.5, 0.4, 0.3])
SIGMA = np.array([[0.04, 0.03, 0.02], [0.03, 0.05, 0.03], [0.02, 0.03, 0.06]])
V = np.array([[0.25, 0.10, 0.05], [0.10, 0.24, 0.10], [0.05, 0.10, 0.21]])
PLANTED = ItemPrior(MEAN[np.newaxis], SIGMA, V)


def planted_traces(
    items: int, most: int, seed: int = 0, means: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return items [N] and outcomes [N, 3] of 1 to `most` traces an item."""
    rng = generator(seed, "planted")
    theta = (MEAN if means is None else means) + rng.multivariate_normal(np.zeros(3), SIGMA, items)
    item = np.repeat(np.arange(items), rng.integers(1, most + 1, items))
    return item, theta[item] + rng.multivariate_normal(np.zeros(3), V, len(item))


def test_the_likelihood_is_that_of_all_traces_jointly() -> None:
    item, outcomes = planted_traces(4, 5)
    expected = 0.0
    for a in range(4):
        rows = outcomes[item == a]
        covariance = np.kron(np.eye(len(rows)), V) + np.kron(np.ones((len(rows), len(rows))), SIGMA)
        expected += multivariate_normal.logpdf(rows.ravel(), np.tile(MEAN, len(rows)), covariance)
    found = log_likelihood(PLANTED, ItemMoments.from_traces(item, outcomes, 4), np.ones((4, 1)))
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("ridge", [0.0, 1.0])
def test_the_objective_never_falls_and_ends_at_its_top(ridge: float) -> None:
    design = np.column_stack([np.ones(60), generator(2, "design").normal(size=(60, 2))])
    item, outcomes = planted_traces(60, 6)
    moments = ItemMoments.from_traces(item, outcomes, 60)
    fitted = fit_prior(moments, design, ridge=ridge, tolerance=1e-8, max_passes=20_000)
    assert fitted.converged
    assert (np.diff(fitted.objective) >= -1e-9).all()
    assert len(fitted.objective) > 10
    if ridge:
        return
    best = log_likelihood(fitted.prior, moments, design)
    rng = generator(3, "neighbors")
    for _ in range(50):  # no neighbor is likelier
        sigma, v = (
            move @ matrix @ move.T
            for matrix in (fitted.prior.item_covariance, fitted.prior.trace_covariance)
            for move in [np.eye(3) + 0.02 * rng.normal(size=(3, 3))]
        )
        beta = fitted.prior.coefficients + 0.02 * rng.normal(size=(3, 3))
        assert log_likelihood(ItemPrior(beta, sigma, v), moments, design) < best


def test_the_fit_finds_the_planted_prior() -> None:
    item, outcomes = planted_traces(3_000, 20)
    fitted = fit_prior(ItemMoments.from_traces(item, outcomes, 3_000))
    # Standard errors: means .24 / sqrt(3000) = .005, (co)variances of Sigma about .06 sqrt(2 / 3000) = .002.
    np.testing.assert_allclose(fitted.prior.coefficients[0], MEAN, atol=0.016)
    np.testing.assert_allclose(fitted.prior.item_covariance, SIGMA, atol=0.007)
    np.testing.assert_allclose(fitted.prior.trace_covariance, V, atol=0.007)


def test_equal_numbers_of_traces_have_the_solution_of_the_analysis_of_variance() -> None:
    # With n traces each, V = S / (N - I) and Sigma = between - V / n where that is positive definite.
    rng = generator(5, "balanced")
    item = np.repeat(np.arange(50), 40)
    theta = MEAN + rng.multivariate_normal(np.zeros(3), SIGMA, 50)
    outcomes = theta[item] + rng.multivariate_normal(np.zeros(3), V, len(item))
    moments = ItemMoments.from_traces(item, outcomes, 50)
    prior = fit_prior(moments, tolerance=1e-10, max_passes=50_000).prior
    center = moments.mean - moments.mean.mean(axis=0)
    within = moments.scatter / (len(item) - 50)
    np.testing.assert_allclose(prior.coefficients[0], moments.mean.mean(axis=0), atol=1e-9)
    np.testing.assert_allclose(prior.trace_covariance, within, atol=1e-6)
    np.testing.assert_allclose(prior.item_covariance, center.T @ center / 50 - within / 40, atol=1e-5)


def test_attributes_move_the_means_of_items() -> None:
    rng = generator(6, "attributes")
    design = np.column_stack([np.ones(800), rng.normal(size=800)])
    effects = np.array([MEAN, [0.2, -0.1, 0.3]])
    item, outcomes = planted_traces(800, 10, means=design @ effects)
    moments = ItemMoments.from_traces(item, outcomes, 800)
    fitted = fit_prior(moments, design, ridge=1.0)
    np.testing.assert_allclose(fitted.prior.coefficients, effects, atol=0.04)  # 4 standard errors of .009
    np.testing.assert_allclose(fitted.prior.item_covariance, SIGMA, atol=0.015)
    without = fit_prior(moments)
    assert np.trace(without.prior.item_covariance) > 1.5 * np.trace(fitted.prior.item_covariance)
    np.testing.assert_allclose(fitted.prior.means(np.array([[1.0, 2.0]])), [effects[0] + 2 * effects[1]], atol=0.1)
    shrunk = fit_prior(moments, design, ridge=1e6).prior
    assert np.abs(shrunk.coefficients[1]).max() < 0.01


def test_a_pass_of_em_is_that_of_the_textbook() -> None:
    item, outcomes = planted_traces(5, 4)
    moments, design = ItemMoments.from_traces(item, outcomes, 5), np.ones((5, 1))
    after = em_pass(PLANTED, moments, design)
    theta, spread = np.empty((5, 3)), np.empty((5, 3, 3))
    for a in range(5):
        rows = outcomes[item == a]
        spread[a] = np.linalg.inv(np.linalg.inv(SIGMA) + len(rows) * np.linalg.inv(V))
        theta[a] = spread[a] @ (np.linalg.solve(SIGMA, MEAN) + np.linalg.solve(V, rows.sum(axis=0)))
    mean = theta.mean(axis=0)
    np.testing.assert_allclose(after.coefficients[0], mean, atol=1e-12)
    sigma = sum(spread[a] + np.outer(theta[a] - mean, theta[a] - mean) for a in range(5)) / 5
    np.testing.assert_allclose(after.item_covariance, sigma, atol=1e-12)
    deviation = outcomes - theta[item]
    np.testing.assert_allclose(after.trace_covariance, (deviation.T @ deviation + spread[item].sum(axis=0)) / len(item))


def test_weights_stand_for_repeated_traces() -> None:
    item, outcomes = planted_traces(6, 4)
    weight = np.arange(len(item)) % 3 + 1
    once = ItemMoments.from_traces(item, outcomes, 6, weight.astype(float))
    rows = np.repeat(np.arange(len(item)), weight)
    repeated = ItemMoments.from_traces(item[rows], outcomes[rows], 6)
    np.testing.assert_allclose(once.count, repeated.count)
    np.testing.assert_allclose(once.mean, repeated.mean, atol=1e-12)
    np.testing.assert_allclose(once.scatter, repeated.scatter, atol=1e-12)


def test_faulty_traces_are_one_line() -> None:
    item, outcomes = planted_traces(30, 5)

    def moments(rows: np.ndarray) -> ItemMoments:
        return ItemMoments.from_traces(item[rows], rows_of[rows], int(item[rows].max()) + 1)

    rows_of = outcomes
    with pytest.raises(DataError, match="1 finished items; expected at least 2"):
        fit_prior(moments(item == 0))
    with pytest.raises(DataError, match="at least one of each"):
        fit_prior(ItemMoments(np.array([3.0, 0]), np.zeros((2, 3)), np.eye(3)))
    with pytest.raises(DataError, match="a horizon of 3 days needs at least 5"):
        fit_prior(ItemMoments(np.array([1.0, 1]), np.zeros((2, 3)), np.eye(3)))
    rows_of = outcomes * [1, 1, 0]
    with pytest.raises(DataError, match=r"on day 3 all traces of each item .* choose a horizon of 2"):
        fit_prior(moments(item >= 0))
