import numpy as np
import pytest

from recpolicy.core.errors import DataError
from recpolicy.core.statistics import (
    Interval,
    confidence_sequence_half_width,
    mean_interval,
    paired_difference,
    percentile_interval,
    resampled_means,
)


def rng(seed=0):
    return np.random.default_rng(seed)


def test_means_of_two_users_follow_the_binomial():
    # values 0 and 1, two draws: mean 0, 1/2, 1 with probability 1/4, 1/2, 1/4
    means = resampled_means(np.array([[0.0, 1.0]]), rng(), 8_000)[:, 0]
    shares = [np.mean(means == value) for value in (0, 0.5, 1)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=4 * np.sqrt(0.25 / 8_000))  # 4 standard errors
    assert sum(shares) == 1


def test_spread_of_means_is_the_standard_error():
    values = rng(1).normal(size=400)
    means = resampled_means(values[None], rng(), 4_000)
    assert means.std() == pytest.approx(values.std() / 20, rel=0.05)  # its own error is about 1.1 %


def test_rows_share_their_draws():
    values = rng(1).normal(size=50)
    means = resampled_means(np.stack([values, values, 3 - values]), rng(), 100)
    assert (means[:, 0] == means[:, 1]).all()
    np.testing.assert_allclose(means[:, 2], 3 - means[:, 0])


def test_chunks_do_not_change_the_draws(monkeypatch):
    values = rng(1).normal(size=(2, 33))
    whole = resampled_means(values, rng(), 100)
    monkeypatch.setattr("recpolicy.core.statistics._CELLS", 33 * 7)
    np.testing.assert_allclose(resampled_means(values, rng(), 100), whole, rtol=1e-12)  # sums may round differently


def test_same_seed_same_interval_and_other_seed_another():
    values = rng(1).normal(size=50)
    assert mean_interval(values, rng(3)) == mean_interval(values, rng(3))
    assert mean_interval(values, rng(3)) != mean_interval(values, rng(4))


def test_interval_is_between_the_quantiles():
    # 0..100: 5 % and 95 % quantiles are 5 and 95
    found = percentile_interval(7.0, np.arange(101.0), level=0.9)
    assert (found.value, found.lo, found.hi, found.level) == pytest.approx((7, 5, 95, 0.9))


def test_equal_values_leave_no_doubt():
    assert mean_interval(np.full(20, 3.5), rng()) == Interval(3.5, 3.5, 3.5)


def test_a_higher_level_is_wider():
    values = rng(1).normal(size=50)
    narrow, wide = mean_interval(values, rng(), level=0.5), mean_interval(values, rng(), level=0.99)
    assert wide.lo < narrow.lo < narrow.value < narrow.hi < wide.hi


def test_intervals_cover_the_truth_as_often_as_they_say():
    # 300 data sets of 80 users with true mean 2; .95 within 4 standard errors of sqrt(.95 * .05 / 300) = .0126
    data = rng(5).exponential(2, (300, 80))
    found = [mean_interval(row, rng(seed), 400) for seed, row in enumerate(data)]
    covered = np.mean([interval.lo <= 2 <= interval.hi for interval in found])
    assert 0.90 <= covered <= 0.99


def test_paired_difference_is_sharper_than_two_intervals():
    users = rng(1).normal(3, 1, 200)
    better = users + 0.1 + rng(2).normal(0, 0.05, 200)
    difference = paired_difference(better, users, rng())
    assert 0.08 < difference.lo < difference.value < difference.hi < 0.12
    assert mean_interval(users, rng()).hi > mean_interval(better, rng()).lo


def test_difference_from_oneself_is_zero():
    users = rng(1).normal(size=30)
    assert paired_difference(users, users, rng()) == Interval(0, 0, 0)


def test_interval_reads_as_text():
    assert str(Interval(3.9176, 3.87, 3.9661)) == "3.918 [3.870, 3.966]"


@pytest.mark.parametrize("values", [[], [1.0, np.nan]])
def test_users_without_finite_values_are_refused(values):
    with pytest.raises(DataError, match="finite values of at least one user"):
        mean_interval(np.array(values), rng())


def test_a_level_outside_zero_to_one_is_refused():
    with pytest.raises(DataError, match=r"level 95 .*0\.95 is usual"):
        percentile_interval(0.0, np.zeros(3), level=95)


def test_differences_need_the_same_users():
    with pytest.raises(DataError, match="same users"):
        paired_difference(np.zeros(2), np.zeros(3), rng())


def test_half_width_of_a_confidence_sequence_is_the_normal_mixture_boundary():
    # U = 1000: rho^2 U = 5.991465 + ln(6.991465) = 7.936155 where it is tightest
    # error * sqrt(2 * 8.936155 / 7.936155 * ln(sqrt(8.936155) / .05)) = 3.035209 error
    assert confidence_sequence_half_width(1.0, 1_000) == pytest.approx(3.035209, abs=1e-5)
    both = confidence_sequence_half_width(np.array([0.5, 2.0]), np.array([1_000, 1_000]))
    np.testing.assert_allclose(both, [1.517604, 6.070418], atol=1e-5)


def test_unbounded_interval_contains_everything():
    interval = Interval.unbounded(level=0.9)
    assert (interval.lo, interval.hi, interval.level) == (-np.inf, np.inf, 0.9)
    assert np.isnan(interval.value)
