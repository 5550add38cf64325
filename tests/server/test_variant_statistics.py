"""Anytime-valid comparison: how often it is wrong when looked at all the time, and what it finds."""

import numpy as np
import pytest

from recpolicy.core.statistics import sequence_multiplier
from recpolicy.ope.feedback import Clusters
from recpolicy.ope.intervals import confidence_sequence
from recpolicy.server.rollout.stage_metrics import VariantStats, difference, mean_reward

LOOKS, RUNS = 300, 500


def group_of(values):
    return VariantStats.from_sums(len(values), len(values), values.sum(), (values**2).sum())


def running(values):
    """The groups [RUNS, LOOKS] of users [RUNS, LOOKS, users a look] who come look after look."""
    sums, squares = (part.sum(axis=2).cumsum(axis=1) for part in (values, values**2))
    users = np.broadcast_to(np.arange(1, LOOKS + 1) * values.shape[2], sums.shape)
    return VariantStats.from_sums(users, users, sums, squares)


def ratings(rng, users, ones):
    """Stars of users [RUNS, LOOKS, users]: a share of ones and else fives, or all stars alike where it is None."""
    shape = (RUNS, LOOKS, users)
    return rng.integers(1, 6, shape).astype(float) if ones is None else np.where(rng.random(shape) < ones, 1.0, 5.0)


@pytest.mark.parametrize("ones", [None, 0.1, 0.02])
@pytest.mark.parametrize(("champions", "challengers"), [(18, 2), (5, 5)])
def test_without_a_difference_zero_is_hardly_ever_excluded_at_any_look(champions, challengers, ones):
    """500 runs of 300 looks; the share of wrong runs is at most 5 %. What a t interval would do is far above."""
    rng = np.random.default_rng(challengers)
    first, second = (running(ratings(rng, users, ones)) for users in (champions, challengers))
    found = difference(first, second, 0.95, 30)
    wrong = ((found.lo > 0) | (found.hi < 0)).any(axis=1).mean()
    assert wrong <= 0.05
    error = np.sqrt(first.variance / first.users + second.variance / second.users)
    fixed = (np.abs(found.value) > 1.96 * error) & np.isfinite(found.lo)
    assert fixed.any(axis=1).mean() > 0.2  # so that the test could fail


def test_users_who_come_back_do_not_break_it():
    """200 users a variant of whom some rate again before every look: their means move, their number does not grow."""
    rng, users, runs = np.random.default_rng(3), 200, 200
    taste = rng.normal(0, 0.4, (2, runs, users))
    count, total = np.zeros((2, runs, users)), np.zeros((2, runs, users))
    wrong = np.zeros(runs, bool)
    for _ in range(LOOKS):
        rates = rng.random((2, runs, users)) < 0.1
        total += np.where(rates, taste + rng.normal(0, 1, rates.shape), 0)
        count += rates
        there = count > 0
        mean = np.where(there, total / np.maximum(count, 1), 0)
        one, other = (
            VariantStats.from_sums(t.sum(1), 0, m.sum(1), (m**2).sum(1)) for t, m in zip(there, mean, strict=True)
        )
        found = difference(one, other, 0.95, 30)
        wrong |= (found.lo > 0) | (found.hi < 0)
    assert wrong.mean() <= 0.05


def test_a_true_difference_is_found_and_never_with_the_wrong_sign():
    rng = np.random.default_rng(0)
    champion, challenger = running(rng.normal(3, 1, (100, LOOKS, 10))), running(rng.normal(3.2, 1, (100, LOOKS, 10)))
    found = difference(champion, challenger, 0.95, 30)
    assert (found.lo[:, -1] > 0).mean() > 0.95  # 3,000 users each: 0.2 is 7.7 standard errors
    assert not (found.hi < 0).any()


def test_of_one_group_it_is_the_sequence_of_the_evaluation():
    values = np.random.default_rng(1).normal(3, 1, 400)
    ours = mean_reward(group_of(values), 0.9, 30)
    theirs = confidence_sequence(values, Clusters.from_users(np.arange(400)), 0.9)
    assert (ours.value, ours.lo, ours.hi) == pytest.approx((theirs.value, theirs.lo, theirs.hi), rel=2e-3)


@pytest.mark.parametrize("users", [0, 1, 29])
def test_too_few_users_of_either_variant_say_nothing(users):
    few, many = group_of(np.linspace(1, 5, users)), group_of(np.linspace(1, 5, 30))
    for pair in ((few, many), (many, few)):
        found = difference(*pair, 0.95, 30)
        assert (found.lo, found.hi) == (-np.inf, np.inf)
    assert np.isfinite(difference(many, many, 0.95, 30).hi)


def test_users_who_all_say_the_same_prove_nothing_where_the_range_is_known():
    """Half of 100 users in each group: the half-width is c^2 4 sqrt(2 / (100 * 50)), more than a star."""
    same = group_of(np.full(50, 5.0))
    found = difference(same, same, 0.95, 30, width=4.0)
    assert found.hi == pytest.approx(sequence_multiplier(100) ** 2 * 4 * np.sqrt(2 / 5_000), abs=1e-4)
    assert found.lo < -0.9
    assert mean_reward(same, 0.95, 30, width=4.0).lo < 4


def test_users_who_all_say_the_same_are_no_error():
    same = group_of(np.full(50, 4.1))
    found = difference(same, same, 0.95, 30)
    assert found.value == 0.0
    assert found.lo == pytest.approx(0, abs=1e-5)
