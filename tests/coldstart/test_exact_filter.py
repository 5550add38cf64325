"""The exact filter: the worked example, brute-force conditioning, limits, order and merging of traces."""

import numpy as np
import pytest

from recpolicy.coldstart.filter import Belief, ExactFilter, ItemStatistics, Whitening
from recpolicy.core.errors import DataError
from recpolicy.core.seeds import generator

MEAN = np.array([0.5, 0.4, 0.3])
SIGMA = np.array([[0.04, 0.03, 0.02], [0.03, 0.05, 0.03], [0.02, 0.03, 0.06]])
V = np.array([[0.25, 0.10, 0.05], [0.10, 0.24, 0.10], [0.05, 0.10, 0.21]])
OUTCOMES = np.array([[1.0, 1, 0], [1, 0, np.pi], [0, np.pi, np.pi]])  # pi: not observed, must not count
OBSERVED = np.array([3, 2, 1])
FILTER = ExactFilter.from_covariances(SIGMA, V)


def statistics_of(outcomes: np.ndarray, observed: np.ndarray, item: np.ndarray | None = None) -> ItemStatistics:
    item = np.zeros(len(outcomes), int) if item is None else item
    return ItemStatistics.from_traces(item, outcomes, observed, int(item.max(initial=0)) + 1, FILTER.whitening)


def brute_force(outcomes: np.ndarray, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and covariance by conditioning on every observed number jointly."""
    blocks = [np.eye(3)[:seen] for seen in observed]
    design = np.concatenate(blocks)
    noise = np.zeros((len(design), len(design)))
    place = 0
    for seen in observed:
        noise[place : place + seen, place : place + seen] = V[:seen, :seen]
        place += seen
    values = np.concatenate([row[:seen] for row, seen in zip(outcomes, observed, strict=True)])
    gain = SIGMA @ design.T @ np.linalg.inv(design @ SIGMA @ design.T + noise)
    return MEAN + gain @ (values - design @ MEAN), SIGMA - gain @ design @ SIGMA


def day_mean_belief(
    mean: np.ndarray, item_covariance: np.ndarray, trace_covariance: np.ndarray, count: np.ndarray, day_mean: np.ndarray
) -> Belief:
    """Return the belief about one item from the means of its days alone, as in the article of 2023.

    It is the exact posterior given these means. Traces of unequal lengths hold more, which `ExactFilter` uses.

    Args:
        mean: [J]. item_covariance: [J, J]. trace_covariance: [J, J].
        count: [J], traces with day j observed, not rising. day_mean: [J], mean outcome of these traces.
    """
    seen = int((count > 0).sum())
    noise = trace_covariance[:seen, :seen] / np.maximum.outer(count[:seen], count[:seen])
    gain = np.linalg.solve(item_covariance[:seen, :seen] + noise, item_covariance[:seen])  # [k, J]
    posterior = mean + (day_mean[:seen] - mean[:seen]) @ gain
    covariance = item_covariance - item_covariance[:, :seen] @ gain
    return Belief(np.asarray(posterior.sum()), np.asarray(covariance.sum()))


def test_the_inverse_factor_is_that_of_the_worked_example() -> None:
    expected = [[2, 0, 0], [-0.894427, 2.236068, 0], [-0.09759, -0.9759, 2.43975]]
    np.testing.assert_allclose(Whitening.from_covariance(V).inverse, expected, atol=5e-6)


def test_partly_observed_traces_give_the_exact_posterior() -> None:
    posterior = FILTER.posterior(MEAN, statistics_of(OUTCOMES, OBSERVED))
    np.testing.assert_allclose(posterior.mean[0], [0.534961, 0.393627, 0.187920], atol=5e-7)
    mean, covariance = brute_force(OUTCOMES, OBSERVED)
    np.testing.assert_allclose(posterior.mean[0], mean, atol=1e-14)
    np.testing.assert_allclose(posterior.covariance[0], covariance, atol=1e-14)
    belief = FILTER.belief(MEAN, statistics_of(OUTCOMES, OBSERVED))
    assert belief.mean[0] == pytest.approx(1.116509, abs=5e-7)
    assert belief.variance[0] == pytest.approx(0.198856, abs=5e-7)
    assert belief.mean[0] == pytest.approx(mean.sum(), abs=1e-14)
    assert belief.std[0] == pytest.approx(np.sqrt(covariance.sum()), abs=1e-14)


def test_the_filter_of_2023_loses_information_on_staggered_traces_only() -> None:
    belief = day_mean_belief(MEAN, SIGMA, V, np.array([3.0, 2, 1]), np.array([2 / 3, 1 / 2, 0]))
    assert belief.mean == pytest.approx(1.244089, abs=5e-7)
    assert belief.variance == pytest.approx(0.201751, abs=5e-7)
    exact = FILTER.belief(MEAN, statistics_of(OUTCOMES, OBSERVED))
    assert belief.variance > exact.variance[0]
    cohort = np.array([[1.0, 1, 0], [1, 0, 0]])
    same = day_mean_belief(MEAN, SIGMA, V, np.array([2.0, 2, 0]), cohort.mean(axis=0))
    of_cohort = FILTER.belief(MEAN, statistics_of(cohort, np.array([2, 2])))
    assert same.mean == pytest.approx(of_cohort.mean[0], abs=1e-12)
    assert same.variance == pytest.approx(of_cohort.variance[0], abs=1e-12)


def test_a_scalar_example_by_hand() -> None:
    # Prior N(0, 4), V = 2, n = 4, mean 3: precision 1/4 + 4/2 = 2.25, mean (4/2 * 3) / 2.25 = 2.6667.
    scalar = ExactFilter.from_covariances(np.array([[4.0]]), np.array([[2.0]]))
    traces = ItemStatistics.from_traces(np.zeros(4, int), np.full((4, 1), 3.0), np.ones(4, int), 1, scalar.whitening)
    belief = scalar.belief(np.zeros(1), traces)
    assert belief.mean[0] == pytest.approx(8 / 3, abs=1e-12)
    assert belief.variance[0] == pytest.approx(4 / 9, abs=1e-12)


def test_without_traces_the_belief_is_the_prior() -> None:
    nothing = ItemStatistics.from_traces(np.zeros(0, int), np.zeros((0, 3)), np.zeros(0, int), 2, FILTER.whitening)
    for statistics in (ItemStatistics.empty(2, 3), nothing, statistics_of(OUTCOMES, np.zeros(3, int))):
        belief, posterior = FILTER.belief(MEAN, statistics), FILTER.posterior(MEAN, statistics)
        np.testing.assert_allclose(belief.mean, 1.2, atol=1e-15)
        np.testing.assert_allclose(belief.variance, 0.31, atol=1e-15)
        np.testing.assert_allclose(posterior.mean, np.broadcast_to(MEAN, posterior.mean.shape), atol=1e-15)
        np.testing.assert_allclose(posterior.covariance[0], SIGMA, atol=1e-15)


@pytest.mark.parametrize(("days", "variance", "share"), [(1, 0.1075, 0.653), (2, 0.041818, 0.865), (3, 0.0, 1.0)])
def test_endless_traces_of_the_first_days_leave_the_rest_of_the_variance(
    days: int, variance: float, share: float
) -> None:
    count = np.where(np.arange(3) < days, 1e9, 0.0)[np.newaxis]
    belief = FILTER.belief(MEAN, ItemStatistics(count, count * (FILTER.whitening.inverse @ MEAN)))
    assert belief.variance[0] == pytest.approx(variance, abs=1e-6)
    assert 1 - belief.variance[0] / 0.31 == pytest.approx(share, abs=5e-4)


def test_the_first_day_correlates_with_the_total_as_worked_out() -> None:
    # cov(theta_1, sum) / sqrt(var(theta_1) var(sum)) = .09 / sqrt(.04 * .31); 65.3 % of the variance is its square.
    correlation = SIGMA[0].sum() / np.sqrt(SIGMA[0, 0] * SIGMA.sum())
    assert correlation == pytest.approx(0.8082, abs=5e-5)
    count = np.array([[1e9, 0, 0]])
    belief = FILTER.belief(MEAN, ItemStatistics(count, count * (FILTER.whitening.inverse @ MEAN)))
    assert 1 - belief.variance[0] / 0.31 == pytest.approx(correlation**2, abs=1e-6)


@pytest.mark.parametrize(
    ("rho", "traces", "shares"),
    [
        (0.5, 20.0, (0.039, 0.071, 0.268, 0.497)), (0.9, 20.0, (0.192, 0.243, 0.492, 0.742)),
        (0.9, 1e9, (0.231, 0.274, 0.522, 0.771)),
    ],
)  # fmt: skip
def test_explained_shares_of_autoregressive_priors(rho: float, traces: float, shares: tuple[float, ...]) -> None:
    days = np.arange(30)
    sigma = 0.05 * rho ** np.abs(days[:, np.newaxis] - days)
    autoregressive = ExactFilter.from_covariances(sigma, 0.2 * np.eye(30))
    count = np.stack([np.where(days < seen, traces, 0.0) for seen in (1, 2, 8, 15)])
    belief = autoregressive.belief(np.zeros(30), ItemStatistics(count, np.zeros_like(count)))
    np.testing.assert_allclose(1 - belief.variance / sigma.sum(), shares, atol=6e-4)


def random_traces(count: int, items: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = generator(0, "traces")
    return rng.integers(items, size=count), (rng.random((count, 3)) < 0.4).astype(float), rng.integers(4, size=count)


def test_the_order_of_traces_does_not_matter_and_parts_add_up_to_the_whole() -> None:
    item, outcomes, observed = random_traces(2_000, 5)
    item[:5] = range(5)
    whole = FILTER.posterior(MEAN, statistics_of(outcomes, observed, item))
    order = generator(1, "order").permutation(len(item))
    shuffled = FILTER.posterior(MEAN, statistics_of(outcomes[order], observed[order], item[order]))
    np.testing.assert_allclose(shuffled.mean, whole.mean, atol=1e-12)
    np.testing.assert_allclose(shuffled.covariance, whole.covariance, atol=1e-12)
    parts = [
        ItemStatistics.from_traces(item[rows], outcomes[rows], observed[rows], 5, FILTER.whitening)
        for rows in (slice(0, 700), slice(700, 701), slice(701, None))
    ]
    merged = FILTER.posterior(MEAN, parts[0] + parts[1] + parts[2])
    np.testing.assert_allclose(merged.mean, whole.mean, atol=1e-12)
    np.testing.assert_allclose(merged.covariance, whole.covariance, atol=1e-12)


def test_days_that_arrive_later_add_to_earlier_ones() -> None:
    item, outcomes, observed = random_traces(300, 2)
    item[:2] = range(2)
    later = np.minimum(observed + 1, 3)
    first, second = (statistics_of(outcomes, days, item) for days in (observed, later))
    assert (second.count >= first.count).all()
    belief, after = (FILTER.belief(MEAN, statistics) for statistics in (first, second))
    assert (after.variance < belief.variance).all()


def test_a_row_may_stand_for_several_equal_traces() -> None:
    once = ItemStatistics.from_traces(
        np.zeros(3, int), OUTCOMES, OBSERVED, 1, FILTER.whitening, weight=np.array([2.0, 1, 3])
    )
    rows = np.array([0, 0, 1, 2, 2, 2])
    repeated = statistics_of(OUTCOMES[rows], OBSERVED[rows])
    np.testing.assert_allclose(once.count, repeated.count)
    np.testing.assert_allclose(once.whitened_sum, repeated.whitened_sum, atol=1e-12)


def test_a_belief_is_the_weighted_total_of_the_posterior() -> None:
    item, outcomes, observed = random_traces(200, 4)
    item[:4] = range(4)
    statistics, weights = statistics_of(outcomes, observed, item), np.array([1.0, 0.5, 2.0])
    means = MEAN + np.arange(4)[:, np.newaxis] / 10  # each item has its prior mean
    posterior, belief = FILTER.posterior(means, statistics), FILTER.belief(means, statistics, weights)
    np.testing.assert_allclose(belief.mean, posterior.mean @ weights, atol=1e-12)
    np.testing.assert_allclose(belief.variance, posterior.covariance @ weights @ weights, atol=1e-12)


def test_a_singular_covariance_of_items_is_no_obstacle() -> None:
    ones = np.ones((3, 3)) * 0.05  # items differ by one number
    belief = ExactFilter.from_covariances(ones, V).belief(MEAN, statistics_of(OUTCOMES, OBSERVED))
    limit = ExactFilter.from_covariances(ones + 1e-9 * np.eye(3), V).belief(MEAN, statistics_of(OUTCOMES, OBSERVED))
    assert belief.mean[0] == pytest.approx(limit.mean[0], abs=1e-6)
    assert belief.variance[0] == pytest.approx(limit.variance[0], abs=1e-6)


def test_faulty_statistics_are_one_line() -> None:
    with pytest.raises(DataError, match="not positive definite"):
        Whitening.from_covariance(np.array([[1.0, 2], [2, 1]]))
    with pytest.raises(DataError, match="expected equal"):
        ItemStatistics.empty(2, 3) + ItemStatistics.empty(3, 3)
