import numpy as np
import pytest

from recpolicy.core.errors import DataError
from recpolicy.core.statistics import (
    MIN_SEQUENCE_SIZE,
    Interval,
    confidence_sequence_half_width,
    expanded_percentile,
    half_sample_interval,
    largest_step,
    mean_interval,
    paired_difference,
    percentile_interval,
    pooled_variance,
    ratio_interval,
    resampled_means,
    student_t,
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


def test_equal_rewards_have_wilsons_limit_and_not_no_width():
    # 100 rewards of 1 in 0..1: c = t(.975; 99) = 1.984217, half-width c^2 / 100; the exact limit is 1 - .025^(1/100)
    found = student_t(1.0, np.ones(100), step=float(largest_step(1.0, 100)))
    assert 1 - found.lo == pytest.approx(0.0393712, abs=1e-6)
    assert 1 - found.lo > 1 - 0.025**0.01
    resampled = expanded_percentile(1.0, np.ones(50), np.ones(100), step=0.01)
    assert resampled.lo == pytest.approx(found.lo)


def test_the_step_adds_little_to_a_usual_interval():
    values = np.random.default_rng(0).random(1_000)
    jackknife = (values.sum() - values) / 999
    plain, wider = student_t(0.5, jackknife), student_t(0.5, jackknife, step=0.001)
    assert 1 < (wider.hi - wider.lo) / (plain.hi - plain.lo) < 1.03


def test_steps_of_a_difference_add_in_quadrature():
    assert largest_step(2.0, 10, 20) == pytest.approx(np.hypot(0.2, 0.1))
    assert largest_step(2.0, 10, 0) == np.inf
    assert largest_step(0.0, 10, 0) == 0
    np.testing.assert_allclose(
        largest_step(1.0, np.array([2.0, 4]), np.array([2.0, 4])), [0.707107, 0.353553], rtol=1e-5
    )


def test_a_sequence_says_nothing_below_its_smallest_size():
    assert confidence_sequence_half_width(1.0, MIN_SEQUENCE_SIZE - 1) == np.inf
    assert confidence_sequence_half_width(1.0, 1_000, size=MIN_SEQUENCE_SIZE - 1) == np.inf
    assert np.isfinite(confidence_sequence_half_width(1.0, MIN_SEQUENCE_SIZE))


@pytest.mark.parametrize("probability", [0.5, 0.1, 0.02])
def test_the_sequence_holds_at_all_sizes_where_rewards_are_rare(probability):
    """200 logs of 3,000 uniform rounds of ten actions, all sizes from 50 effective rounds on: 5 % may be wrong.

    Without the step 3, 8 and 38 % were.
    """
    generator = rng(1)
    weight = 10.0 * (generator.random((200, 3_000)) < 0.1)
    terms = weight * (generator.random((200, 3_000)) < probability)
    users = np.arange(1, 3_001)
    mean = terms.cumsum(axis=1) / users
    variance = (terms**2).cumsum(axis=1) / users - mean**2
    error = np.sqrt(np.maximum(variance, 0) / np.maximum(users - 1, 1))
    size = weight.cumsum(axis=1) ** 2 / np.maximum((weight**2).cumsum(axis=1), 1e-9)
    step = 1 / np.maximum(size, 1e-9)
    half = confidence_sequence_half_width(error, users, step=step, size=size)
    assert (np.abs(mean - probability) > half).any(axis=1).mean() <= 0.05


def test_a_ratio_has_the_jackknifes_interval():
    # users of 1, 1, 2 rounds with sums 0, 1, 2: 3/4; without one 1, 2/3, 1/2; error^2 = 2/3 * 42/324
    found = ratio_interval(np.array([0.0, 1, 2]), np.array([1, 1, 2]), 0.0)
    assert found.value == 0.75
    others = np.array([1, 2 / 3, 1 / 2])
    assert found.hi == student_t(0.75, others).hi
    assert ratio_interval(np.array([3.0]), np.array([2]), 1.0).lo == -np.inf


def test_variances_are_raised_to_the_pooled_one():
    # 11 and 21 users: pooled (10 * 0 + 20 * 3) / 30 = 2
    first, second = pooled_variance([0.0, 3.0], [11, 21])
    assert (first, second) == (pytest.approx(2), 3)
    assert pooled_variance([np.nan, 3.0], [1, 21])[0] == pytest.approx(3)


def test_unbounded_interval_contains_everything():
    interval = Interval.unbounded(level=0.9)
    assert (interval.lo, interval.hi, interval.level) == (-np.inf, np.inf, 0.9)
    assert np.isnan(interval.value)


def test_the_interval_of_half_samples_is_a_t_interval_of_their_spread():
    # Standard deviation of 1, 3 is sqrt(2); the 97.5 % quantile of t with one degree of freedom is 12.7062.
    interval = half_sample_interval(5.0, np.array([1.0, 3.0]))
    assert interval.value == 5
    assert (interval.hi - 5, 5 - interval.lo) == pytest.approx((12.7062 * np.sqrt(2),) * 2, rel=1e-5)
    with pytest.raises(DataError):
        half_sample_interval(5.0, np.array([1.0]))


def test_the_spread_over_half_samples_is_the_standard_error_of_all():
    """400 halves of 60 users: their standard deviation is that of the mean of 60, within 4 of its standard errors."""
    rng = np.random.default_rng(0)
    values = rng.exponential(size=60)
    halves = np.array([rng.permutation(values)[:30].mean() for _ in range(400)])
    assert halves.std(ddof=1) == pytest.approx(values.std(ddof=1) / np.sqrt(60), rel=4 / np.sqrt(2 * 400))
