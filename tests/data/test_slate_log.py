"""Logged slates in memory: what makes a log, what is refused, what a slot could have shown."""

import numpy as np
import pytest
from hand_logs import ACTION_ITEMS
from hand_slates import SHELVES, hand_slates

from recpolicy.core.errors import DataError
from recpolicy.data.slate_log import open_to


def test_a_log_knows_its_slots_and_the_places_of_its_items():
    log = hand_slates()
    assert (len(log), log.slots) == (8, 2)
    np.testing.assert_array_equal(ACTION_ITEMS[log.arm], log.slate)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"user": np.zeros(7, np.int32)}, r"columns of different lengths: \[7, 8\]"),
        ({"slate": np.zeros((8, 3), np.int32)}, r"slates \(8, 3\) and log-propensities \(8, 2\)"),
        ({"action_items": ACTION_ITEMS[::-1]}, "ascending order"),
        ({"shelves": SHELVES[:3]}, r"shelves \(3,\)"),
        ({"log_propensity": np.full((8, 2), 0.1)}, r"slate 0 \('e0'\): a log-propensity"),
        ({"log_propensity": np.full((8, 2), np.nan)}, "a log-propensity"),
        ({"reward": np.full(8, 3.0)}, r"its reward is not within 0\.\.2"),
        ({"reward": np.full(8, np.nan)}, r"its reward is not within"),
        ({"slot_reward": np.full((8, 2), 0.3)}, "not the sum of its slots"),
        ({"slate": np.tile(np.array([3, 1], np.int32), (8, 1))}, "not in the catalog"),
        ({"slate": np.tile(np.array([1, 0], np.int32), (8, 1))}, "does not belong to its slot's shelf"),
        ({"slate": np.tile(np.array([5, 5], np.int32), (8, 1)), "shelves": None}, "occurs twice in the slate"),
    ],
)
def test_what_makes_no_log_is_refused(changes, message):
    with pytest.raises(DataError, match=message):
        hand_slates(**changes)


def test_the_digest_is_of_all_that_was_logged_but_the_name():
    log = hand_slates()
    assert hand_slates(name="other").digest == log.digest
    others = [
        {"user": 3 - log.user}, {"time": log.time + 1}, {"slot_reward": None}, {"scale": (0.0, 3.0)}, {"shelves": None},
        {"log_propensity": log.log_propensity * 2}, {"slate": np.tile(np.array([0, 1], np.int32), (8, 1))},
    ]  # fmt: skip
    assert len({log.digest, *(hand_slates(**other).digest for other in others)}) == len(others) + 1


def test_a_slot_can_show_the_items_of_its_shelf_on_every_page():
    arms, fresh = open_to(1, hand_slates().arm, SHELVES, 5)
    assert arms.tolist() == [1, 3, 4]
    assert fresh is None


def test_without_shelves_a_slot_can_show_what_does_not_stand_above_it():
    above = np.array([[2, 0, 4], [1, 3, 0]])
    arms, fresh = open_to(2, above, None, 5)
    assert arms.tolist() == [0, 1, 2, 3, 4]
    assert fresh.tolist() == [[False, True, False, True, True], [True, False, True, False, True]]
    assert open_to(0, above, None, 5)[1].all()
