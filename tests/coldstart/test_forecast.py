"""Forecasts of stickiness: intervals that cover, their narrowing, and the spread of users."""

import numpy as np

from recpolicy.coldstart.filter import ItemStatistics
from recpolicy.coldstart.forecast import forecast
from recpolicy.coldstart.prior import ItemPrior
from recpolicy.core.seeds import generator

DAYS = 12
LAG = np.abs(np.subtract.outer(np.arange(DAYS), np.arange(DAYS)))
PRIOR = ItemPrior(np.full((1, DAYS), 0.4), 0.02 * 0.9**LAG, 0.2 * 0.5**LAG)


def simulate(items: int, traces: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return true stickiness [I] and outcomes [I, traces, J]."""
    rng = generator(seed, "forecast")
    theta = 0.4 + rng.multivariate_normal(np.zeros(DAYS), PRIOR.item_covariance, items)
    noise = rng.multivariate_normal(np.zeros(DAYS), PRIOR.trace_covariance, (items, traces))
    return theta.sum(axis=1), theta[:, np.newaxis] + noise


def after(outcomes: np.ndarray, days: int) -> ItemStatistics:
    items, traces = outcomes.shape[:2]
    return ItemStatistics.from_traces(
        np.repeat(np.arange(items), traces), outcomes.reshape(-1, DAYS), np.full(items * traces, days), items,
        PRIOR.filter().whitening,
    )  # fmt: skip


def test_intervals_cover_and_narrow_with_days() -> None:
    truth, outcomes = simulate(2_000, 10)
    means, widths, errors = PRIOR.means(np.ones((len(truth), 1))), [], []
    for days in (0, 3, 6, 12):
        result = forecast(PRIOR, means, after(outcomes, days))
        covered = np.mean((result.lo <= truth) & (truth <= result.hi))
        assert abs(covered - 0.95) < 0.02, days  # 4 standard errors of .005
        widths.append(float((result.hi - result.lo).mean()))
        errors.append(float(np.abs(result.belief.mean - truth).mean()))
        assert result.traces.tolist() == [10.0 if days else 0.0] * 2_000
        assert result.observed_days[0] == days
    assert (np.diff(widths) < 0).all()
    assert (np.diff(errors) < 0).all()
    assert errors[-1] < errors[0] / 2


def test_the_share_of_explained_variance_and_the_spread_of_users() -> None:
    _, outcomes = simulate(3, 10)
    means = PRIOR.means(np.ones((3, 1)))
    before, result = forecast(PRIOR, means, ItemStatistics.empty(3, DAYS)), forecast(PRIOR, means, after(outcomes, 6))
    np.testing.assert_allclose(before.explained, 0, atol=1e-12)
    assert (result.explained > 0.3).all()
    np.testing.assert_allclose(result.explained, 1 - result.belief.variance / before.belief.variance)
    spread = PRIOR.trace_covariance.sum()
    np.testing.assert_allclose(result.user_std**2, result.belief.variance + spread)


def test_the_interval_stays_within_the_days() -> None:
    wide = ItemPrior(PRIOR.coefficients, 100 * PRIOR.item_covariance, PRIOR.trace_covariance)
    result = forecast(wide, wide.means(np.ones((1, 1))), ItemStatistics.empty(1, DAYS))
    assert (result.lo[0], result.hi[0]) == (0, DAYS)
