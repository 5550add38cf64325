import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_rounds import vectors

from recpolicy.core.errors import DataError
from recpolicy.core.statistics import (
    Interval,
    degrees_of_freedom,
    expanded_percentile,
    jackknife_error,
    percentile_interval,
    student_t,
)
from recpolicy.ope import resampling
from recpolicy.ope.feedback import Clusters
from recpolicy.ope.intervals import (
    Bounds,
    bernstein_margin,
    confidence_sequence,
    empirical_bernstein,
)
from recpolicy.ope.resampling import (
    beta_statistic,
    corrected_ratio_statistic,
    mean_statistic,
    ratio_statistic,
    resample,
)


def single(rounds: int) -> Clusters:
    return Clusters.from_users(np.arange(rounds))


def rng(seed=0):
    return np.random.default_rng(seed)


def without(statistic, clusters):
    """The estimate without each user in turn."""
    return resample([statistic], clusters, rng(), 1)[0].jackknife


def bootstrap(statistics, clusters, generator, resamples):
    return [found.bootstrap for found in resample(statistics, clusters, generator, resamples)]


def t_of(terms, clusters, level=0.95):
    """The t interval of a mean."""
    return student_t(float(terms.mean()), without(mean_statistic(terms), clusters), level)


def covers(interval: Interval, truth: float) -> bool:
    return interval.lo <= truth <= interval.hi


def test_with_one_round_a_user_the_t_interval_is_students():
    # 1, 2, 3, 4: mean 2.5, standard error sqrt(5/3) / 2 = .645497, t(.975; 3) = 3.182446
    found = t_of(np.array([1.0, 2, 3, 4]), single(4))
    assert (found.value, found.lo, found.hi) == pytest.approx((2.5, 2.5 - 2.054260, 2.5 + 2.054260), abs=1e-5)


def test_rounds_of_a_user_count_as_one_when_they_are_copies():
    terms = rng().normal(size=30)
    once = t_of(terms, single(30))
    copied = t_of(np.repeat(terms, 5), Clusters.from_users(np.repeat(np.arange(30), 5)))
    assert (copied.lo, copied.hi) == pytest.approx((once.lo, once.hi))
    assert t_of(np.repeat(terms, 5), single(150)).hi < once.hi  # as if they were news


def test_the_jackknife_counts_what_a_user_does_to_the_sum_of_the_weights():
    # weights 1, 1, 2 and rewards 0, 1, 1: 3/4; without one after the other 1, 2/3, 1/2, mean 13/18
    # error^2 = 2/3 ((5/18)^2 + (1/18)^2 + (4/18)^2) = 2/3 * 42/324
    weight, reward = np.array([1.0, 1, 2]), np.array([0.0, 1, 1])
    found = without(ratio_statistic(weight, reward), single(3))
    np.testing.assert_allclose(found, [1, 2 / 3, 1 / 2])
    assert jackknife_error(found) == pytest.approx(np.sqrt(2 / 3 * 42 / 324))


def test_a_user_with_many_rounds_leaves_with_all_of_them():
    found = without(mean_statistic(np.array([1.0, 2, 3, 10])), Clusters.from_users(np.array([0, 0, 0, 1])))
    np.testing.assert_allclose(found, [10, 2])


def test_degrees_of_freedom_fall_where_one_user_decides():
    # nine 0 and one 1: fourth moment (.1 * .9^4 + .9 * .1^4) / .09^2 = 8.1111, excess 5.1111; 1 / (1/9 + 5.1111/20)
    assert degrees_of_freedom(np.append(np.zeros(9), 1.0)) == pytest.approx(1 / (1 / 9 + 5.111111 / 20))
    assert degrees_of_freedom(np.tile([0.0, 1], 5)) == pytest.approx(9)  # excess -2: never more than U - 1
    assert degrees_of_freedom(np.ones(10)) == pytest.approx(9)


def test_expanded_percentiles_lie_as_far_out_as_the_t_interval():
    # ten values without excess: t(.975; 9) = 2.262157, times sqrt(10/9) = 2.384526 standard deviations of a normal
    drawn = rng().normal(size=200_000)
    found = expanded_percentile(0.0, drawn, np.tile([0.0, 1], 5))
    assert (found.lo, found.hi) == pytest.approx((-2.384526, 2.384526), abs=0.03)  # 2 standard errors
    plain = percentile_interval(0.0, drawn)
    assert found.lo < plain.lo < plain.hi < found.hi
    many = expanded_percentile(0.0, drawn, np.tile([0.0, 1], 50_000))
    assert (many.lo, many.hi) == pytest.approx((plain.lo, plain.hi), abs=0.001)


def test_where_few_users_decide_the_intervals_cover_more_often_than_students_and_plain_percentiles():
    # 400 logs of 100 users, weights exp(.8 z - .32) of mean 1 (53 effective), rewards z + noise: the target's is .8
    # over 1,000 logs t .941, Student's .887; bootstrap .919, plain percentiles .908
    held = {"t": [], "Student's t": [], "bootstrap": [], "plain": []}
    generator = rng(5)
    for _ in range(400):
        z = generator.normal(size=100)
        statistic = beta_statistic(np.exp(0.8 * z - 0.32), z + generator.normal(size=100))
        drawn, others = resample([statistic], single(100), generator, 200)[0]
        error = statistic.terms.std(ddof=1) / 10
        held["t"].append(covers(student_t(statistic.value, others), 0.8))
        held["Student's t"].append(abs(statistic.value - 0.8) <= 1.984217 * error)  # t(.975; 99)
        held["bootstrap"].append(covers(expanded_percentile(statistic.value, drawn, others), 0.8))
        held["plain"].append(covers(percentile_interval(statistic.value, drawn), 0.8))
    share = {kind: float(np.mean(found)) for kind, found in held.items()}
    assert 0.9 <= share["t"] <= 0.98  # 3.5 standard errors of .012
    assert share["t"] > share["Student's t"] + 0.03
    assert share["bootstrap"] > share["plain"]


@pytest.mark.parametrize(
    ("rounds", "bernstein", "hoeffding"), [(50, 0.332, 0.192), (200, 0.114, 0.096), (1000, 0.038, 0.043)]
)
def test_empirical_bernstein_of_rare_successes_has_the_width_of_the_formula(rounds, bernstein, hoeffding):
    # mean of both sides over 400 samples of Bernoulli(.1), both sides together at level .95
    samples = (rng().random((400, rounds)) < 0.1).astype(float)
    margins = [bernstein_margin(sample, 1, 0.025) for sample in samples]
    assert np.mean(margins) == pytest.approx(bernstein, abs=0.003)
    assert np.sqrt(np.log(2 / 0.05) / (2 * rounds)) == pytest.approx(hoeffding, abs=5e-4)
    assert (np.mean(margins) < hoeffding) == (rounds == 1000)  # sharper than Hoeffding from about 480 rounds


def test_bernstein_margin_by_hand():
    # 0, 1: V = 1/2, U = 2, ln(2/.05) = 3.688879: sqrt(2 * .5 * 3.688879 / 2) + 7 * 3.688879 / 3
    assert bernstein_margin(np.array([0.0, 1]), 1, 0.05) == pytest.approx(1.358102 + 8.607385, abs=1e-5)


@pytest.mark.parametrize("rounds", [50, 1000])
def test_empirical_bernstein_covers_at_least_as_often_as_it_says(rounds):
    samples = (rng(1).random((1_000, rounds)) < 0.1).astype(float)
    found = [empirical_bernstein(s.mean(), Bounds(s, s, 1, (0, 1)), single(rounds)) for s in samples]
    assert np.mean([covers(one, 0.1) for one in found]) >= 0.995  # .9997 and more was measured


def test_bounds_chosen_among_many_are_wider():
    sample = rng().random(500)
    one, eight = (
        empirical_bernstein(0.5, Bounds(sample, sample, 1, (0, 1), candidates), single(500)) for candidates in (1, 8)
    )
    assert eight.lo < one.lo < one.hi < eight.hi


def test_empirical_bernstein_counts_users_and_the_most_rounds_of_one():
    terms, wide = rng().random(60), (-9.0, 9.0)

    def interval(values, clusters):
        found = empirical_bernstein(float(values.mean()), Bounds(values, values, 1, wide), clusters)
        return found.lo, found.hi

    thrice = np.repeat(terms, 3), Clusters.from_users(np.repeat(np.arange(60), 3))
    assert interval(*thrice) == pytest.approx(interval(terms, single(60)))
    # users of 1 and 3 rounds in turn: sums * 60 / 120, each of a span of 3 / 2
    size = np.tile([1, 3], 30)
    values = np.repeat(terms, size)
    margin = bernstein_margin(terms * size / 2, 1.5, 0.025)
    expected = (values.mean() - margin, values.mean() + margin)
    assert interval(values, Clusters.from_users(np.repeat(np.arange(60), size))) == pytest.approx(expected)


def test_empirical_bernstein_stays_within_the_range_of_rewards():
    sample = np.array([0.0, 1])
    found = empirical_bernstein(0.5, Bounds(sample, sample, 1, (0.25, 0.75)), single(2))
    assert (found.lo, found.hi) == (0.25, 0.75)


def test_bounds_of_a_difference_turn_the_other_side_round():
    low, high = np.array([1.0]), np.array([2.0])
    found = Bounds(low, high, 3, (0, 5), 2) - Bounds(10 * low, 10 * high, 4, (0, 5), 3)
    assert (found.lower[0], found.upper[0], found.width) == (-19, -8, 7)
    assert (found.value_range, found.candidates) == ((-5, 5), 6)


def draws_of_clustered_users(seed):
    """200 logs of 60 users with mean 2 and a common part; 1 to 9 rounds each."""
    generator = rng(seed)
    for _ in range(200):
        size = generator.integers(1, 10, 60)
        user = np.repeat(np.arange(60), size)
        yield 2 + generator.normal(size=60)[user] + generator.exponential(1, len(user)) - 1, Clusters.from_users(user)


def test_t_covers_the_truth_of_alike_rounds_and_counting_rounds_does_not():
    by_user, by_round = [], []
    for terms, clusters in draws_of_clustered_users(2):
        by_user.append(covers(t_of(terms, clusters), 2))
        by_round.append(covers(t_of(terms, single(len(terms))), 2))
    assert 0.89 <= np.mean(by_user) <= 0.99  # 4 standard errors of .0154 below .95
    assert np.mean(by_round) < 0.85


def test_the_bootstrap_covers_the_truth_of_alike_rounds():
    found = []
    for seed, (terms, clusters) in enumerate(draws_of_clustered_users(3)):
        values = bootstrap([mean_statistic(terms)], clusters, rng(seed), 300)[0]
        found.append(covers(percentile_interval(terms.mean(), values), 2))
    assert 0.88 <= np.mean(found) <= 0.99


def test_the_sequence_covers_at_every_size_at_once_and_repeated_t_does_not():
    # 300 streams looked at 20 times between 200 and 4,000 rounds
    looks = np.arange(200, 4_001, 200)
    always, repeated = [], []
    for stream in rng(4).exponential(1, (300, 4_000)):
        always.append(all(covers(confidence_sequence(stream[:n], single(n)), 1) for n in looks))
        repeated.append(all(covers(t_of(stream[:n], single(n)), 1) for n in looks))
    assert np.mean(always) >= 0.95
    assert np.mean(repeated) < 0.85


def test_the_sequence_is_the_normal_mixture_boundary():
    # +-1 in turn: U = 1000, s = sqrt(1000/999); rho^2 U = 5.991465 + ln(6.991465) = 7.936155 at its sharpest
    # s sqrt(2 * 8.936155 / (1000 * 7.936155) * ln(sqrt(8.936155) / .05)) = 1.000500 * .095982
    found = confidence_sequence(np.tile([1.0, -1.0], 500), single(1_000))
    assert found.hi == pytest.approx(0.096030, abs=2e-6)


@given(terms=vectors(12), shift=st.floats(-5, 5), level=st.floats(0.5, 0.99))
def test_intervals_hold_their_value_move_with_it_and_widen_with_the_level(terms, shift, level):
    clusters = Clusters.from_users(np.repeat(np.arange(4), 3))
    for make in (t_of, confidence_sequence):
        found, moved, wider = (
            make(terms, clusters, level),
            make(terms + shift, clusters, level),
            make(terms, clusters, 0.995),
        )
        assert found.lo <= found.value <= found.hi
        assert (moved.lo, moved.hi) == pytest.approx((found.lo + shift, found.hi + shift), abs=1e-6)
        assert wider.lo <= found.lo + 1e-12
        assert wider.hi >= found.hi - 1e-12


def test_a_single_user_leaves_no_interval_at_all():
    for make in (t_of, confidence_sequence):
        with pytest.raises(DataError, match="at least two"):
            make(np.arange(5.0), Clusters.from_users(np.zeros(5, int)))


def test_the_bootstrap_takes_a_ratio_again_on_every_resample():
    # users with (weight, reward) (1, 0) and (3, 1): resamples give 0, 3/4, 1, never the 1/2 or 3/2 of linear terms
    weight, reward = np.array([1.0, 3]), np.array([0.0, 1])
    values = bootstrap([ratio_statistic(weight, reward)], single(2), rng(), 200)[0]
    assert set(values.round(12)) == {0, 0.75, 1}


def test_what_the_others_say_is_not_lost_beside_a_user_who_outweighs_them():
    weight, reward = np.array([20.0, 1e-17, 1e-17]), np.array([0.0, 0, 1])
    assert without(ratio_statistic(weight, reward), single(3)) == pytest.approx([0.5, 0, 0])


def test_resamples_without_weight_have_no_ratio():
    weight = np.array([0.0, 2])
    values = bootstrap([ratio_statistic(weight, np.ones(2))], single(2), rng(), 200)[0]
    assert np.isnan(values).any()
    assert set(values[~np.isnan(values)]) == {1}


def test_forms_share_their_resamples():
    terms = rng().normal(size=50)
    corrected = corrected_ratio_statistic(rng(1).normal(size=50), terms**2, terms, np.zeros(50))
    four = [mean_statistic(terms), mean_statistic(terms.copy()), mean_statistic(terms + 1), corrected]
    one, same, moved, ratio = bootstrap(four, single(50), rng(2), 50)
    np.testing.assert_array_equal(one, same)
    np.testing.assert_allclose(moved, one + 1)
    np.testing.assert_allclose(ratio, bootstrap([corrected], single(50), rng(2), 50)[0])


def test_many_users_are_resampled_in_groups_with_the_same_spread(monkeypatch):
    monkeypatch.setattr(resampling, "_MAX_GROUPS", 2_000)
    terms = np.sort(rng().normal(size=20_000))  # neighbours are alike: groups must be dealt at random
    values = bootstrap([mean_statistic(terms)], single(20_000), rng(1), 1_000)[0]
    assert values.mean() == pytest.approx(terms.mean(), abs=4 * terms.std() / np.sqrt(20_000 * 1_000))
    assert values.std() == pytest.approx(terms.std() / np.sqrt(20_000), rel=0.11)  # 4 standard errors of 2.7 %
