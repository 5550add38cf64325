"""The unit of normalized rewards: moments at once, moments in parts, and rewards without two different values."""

import numpy as np
import pytest

from recpolicy.data.reward_scale import Moments, merged_moments, reward_moments, reward_std


def test_moments_of_parts_are_those_of_the_whole():
    rng = np.random.default_rng(1)
    rewards = rng.normal(300, 20, 1000)
    merged = Moments(0.0, 0.0, 0.0)
    for part in np.split(rewards, [1, 5, 700]):
        merged = merged_moments(merged, reward_moments(np.append(part, np.nan)))
    assert merged == pytest.approx((1000, rewards.mean(), rewards.var()))


def test_a_part_without_rewards_changes_nothing():
    some, nothing = reward_moments(np.array([1.0, 4.0])), reward_moments(np.array([np.nan]))
    assert merged_moments(some, nothing) == merged_moments(nothing, some) == some == (2, 2.5, 2.25)


@pytest.mark.parametrize("value", [0.0, 5.0, 0.1, -1e9])
def test_constant_rewards_are_not_divided_by_their_rounding_error(value):
    """The computed variance of seven times .1 is 2e-34, not 0."""
    assert reward_std(np.full(7, value)) == 1.0


@pytest.mark.parametrize("scale", [1e-6, 1.0, 100.0])
def test_the_divisor_is_the_standard_deviation(scale):
    assert reward_std(scale * np.array([1.0, 3.0, np.nan, 1.0, 3.0])) == pytest.approx(scale)
