"""Means weighted by 1 / propensity are those of all users, whoever was shown what."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_logs import ACTION_ITEMS, linear_log

from recpolicy.core.errors import DataError
from recpolicy.data.bandit_log import BanditLog
from recpolicy.training.ipw_means import IPWMeans, merge

SUMS = ("weight", "square", "reward")


def hand_log(**changes) -> BanditLog:
    """Item 0 pays 5 where it is shown with probability 1/2, and 1 where with 1/8; item 2 pays 3 twice."""
    log = linear_log(4)
    told = {
        "item": ACTION_ITEMS[[0, 0, 1, 1]], "log_propensity": np.log([1 / 2, 1 / 8, 1 / 4, 1 / 4]),
        "reward": np.array([5.0, 1.0, 3.0, 3.0]),
    }  # fmt: skip
    return dataclasses.replace(log, **(told | changes))


def test_means_and_effective_rounds_by_hand():
    """Weights 2 and 8: (2 * 5 + 8 * 1) / 10 = 1.8, from 10^2 / 68 rounds; equal weights: 3, from 2."""
    found = IPWMeans.from_log(hand_log(), ACTION_ITEMS)
    np.testing.assert_allclose(found.mean, [1.8, 3, 0, 0, 0, 0, 0])
    np.testing.assert_allclose(found.effective, [100 / 68, 2, 0, 0, 0, 0, 0])


@given(propensity=st.lists(st.floats(0.01, 1), min_size=4, max_size=4))
def test_a_mean_lies_among_the_rewards_and_equal_rewards_are_their_own_mean(propensity):
    found = IPWMeans.from_log(hand_log(log_propensity=np.log(propensity)), ACTION_ITEMS)
    assert 1 <= found.mean[0] <= 5
    assert found.mean[1] == pytest.approx(3)
    assert (found.effective[:2] <= 2 + 1e-9).all()


@given(cut=st.integers(0, 300))
def test_two_parts_of_a_log_merged_are_the_whole(cut):
    log = linear_log(300)
    whole = IPWMeans.from_log(log, ACTION_ITEMS)
    halves = merge(*(IPWMeans.from_log(log.take(*ends, "part"), ACTION_ITEMS) for ends in ((0, cut), (cut, 300))))
    for name in SUMS:
        np.testing.assert_allclose(getattr(halves, name), getattr(whole, name), rtol=1e-10)


def test_choices_of_the_logging_policy_do_no_harm():
    """Half of the users pay 5 and are shown item 0 with probability .9, the others pay 1, with .05: 3 on average.

    The plain mean says 4.8. 20,000 rounds of item 0 or 2; the standard error of the weighted mean is about .06.
    """
    rng, number = np.random.default_rng(0), 20_000
    user = np.arange(number, dtype=np.int32) % 2
    first = np.where(user == 0, 0.9, 0.05)
    arm = (rng.random(number) > first).astype(np.int32)
    reward = np.where(arm == 1, 3.5, np.where(user == 0, 5.0, 1.0))
    log = dataclasses.replace(
        linear_log(number), user=user, item=ACTION_ITEMS[arm], reward=reward,
        log_propensity=np.log(np.where(arm == 0, first, 1 - first)),
    )  # fmt: skip
    found = IPWMeans.from_log(log, ACTION_ITEMS)
    assert log.reward[arm == 0].mean() > 4.7
    np.testing.assert_allclose(found.mean[:2], [3.0, 3.5], atol=0.25)
    assert found.effective[0] < 0.3 * (arm == 0).sum()  # the weights are uneven, and it says so


def test_a_propensity_too_small_for_a_float_leaves_numbers_finite():
    found = IPWMeans.from_log(hand_log(log_propensity=np.array([-2000.0, -1.0, -1.0, -1.0])), ACTION_ITEMS)
    assert np.isfinite([found.weight, found.square, found.mean, found.effective]).all()
    np.testing.assert_allclose(found.mean[:2], [5, 3])


def test_other_arms_are_refused():
    one, other = IPWMeans.from_log(hand_log(), ACTION_ITEMS), IPWMeans.from_log(hand_log(), ACTION_ITEMS[:2])
    with pytest.raises(DataError, match="means of 7 and of 2 arms cannot be merged"):
        merge(one, other)
