"""Candidates as packed bits: masks, parts and joins against plain boolean tables."""

import numpy as np
import pytest

from recpolicy.core.errors import DataError
from recpolicy.data import candidates as module
from recpolicy.data.candidates import ALL_ITEMS, CandidateSets, concatenate, packed_width


def some_sets(rounds=40, actions=21, seed=0):
    """Candidates of some rounds, and the same as a mask [N, A]."""
    rng = np.random.default_rng(seed)
    listed = rng.random((6, actions)) < 0.7
    index = rng.integers(ALL_ITEMS, 6, rounds)
    count = rng.integers(0, 4, rounds)
    excluded = [rng.choice(actions, size, replace=False) for size in count]
    mask = np.where(index[:, np.newaxis] == ALL_ITEMS, True, listed[index])
    for row, actions_of_row in zip(mask, excluded, strict=True):
        row[actions_of_row] = False
    start = np.concatenate([[0], np.cumsum(count)]).astype(np.int64)
    sets = CandidateSets(
        actions, np.packbits(listed, axis=1), index.astype(np.int32), start, np.concatenate(excluded).astype(np.int32)
    )
    return sets, mask


@pytest.mark.parametrize("actions", [1, 7, 8, 9, 21])
def test_masks_and_membership_are_those_of_the_table(actions):
    sets, mask = some_sets(actions=max(actions, 4))
    np.testing.assert_array_equal(sets.mask(slice(0, 40)), mask)
    np.testing.assert_array_equal(sets.mask(slice(7, 9)), mask[7:9])
    assert sets.mask(slice(5, 5)).shape == (0, sets.actions)
    for action in range(sets.actions):
        np.testing.assert_array_equal(sets.contain(np.full(40, action)), mask[:, action])


def test_parts_and_their_join_keep_the_candidates():
    sets, mask = some_sets()
    order = np.random.default_rng(1).permutation(40)[:17]
    np.testing.assert_array_equal(sets.take(order).mask(slice(0, 17)), mask[order])
    np.testing.assert_array_equal(sets.take(slice(3, 11)).mask(slice(0, 8)), mask[3:11])
    other, other_mask = some_sets(12, seed=2)
    whole = CandidateSets.all_items(2, 21)
    joined = concatenate([sets.take(slice(0, 5)).compact(), whole, other])
    expected = np.concatenate([mask[:5], np.ones((2, 21), bool), other_mask])
    np.testing.assert_array_equal(joined.mask(slice(0, 19)), expected)
    assert whole.trivial
    assert not joined.trivial


def test_sets_that_no_round_has_are_dropped():
    sets, mask = some_sets()
    rows = np.flatnonzero(np.isin(sets.index, [ALL_ITEMS, 2, 5]))
    few = sets.take(rows).compact()
    assert len(few.sets) == 2
    np.testing.assert_array_equal(few.mask(slice(0, len(rows))), mask[rows])
    assert len(CandidateSets.all_items(3, 21).compact().sets) == 0


def test_candidates_over_another_catalog_are_those_of_the_items_in_both(monkeypatch):
    monkeypatch.setattr(module, "_CELLS", 20)
    rng = np.random.default_rng(2)
    mask = rng.random((9, 13)) < 0.5
    sets = CandidateSets.without_exclusions(np.packbits(mask, axis=1), np.array([*range(9), ALL_ITEMS]), 13)
    place = np.array([12, -1, 0, 5, *range(6, 12)])
    found = sets.over(place)
    expected = np.where(place >= 0, np.vstack([mask, np.ones(13, bool)])[:, place], False)
    np.testing.assert_array_equal(found.mask(slice(None)), expected)
    excluding = CandidateSets(13, sets.sets, sets.index, np.array([0, *[1] * 10]), np.array([3], np.int32))
    with pytest.raises(ValueError, match="without exclusions"):
        excluding.over(place)


def test_lists_are_packed_block_by_block_and_rows_of_one_list_share_a_set(monkeypatch):
    monkeypatch.setattr(module, "_CELLS", 50)  # two rounds of 21 actions
    lists = [[3, 1, 20], [1, 3, 20], [0], [], [1, 20, 3]]
    start = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    sets = CandidateSets.from_lists(start, np.concatenate(lists).astype(np.int32), 21)
    expected = [[action in one for action in range(21)] for one in lists]
    np.testing.assert_array_equal(sets.mask(slice(0, 5)), expected)
    assert sets.index[0] == sets.index[1]
    count, listed = sets.lists(slice(0, 5))
    assert count.tolist() == [3, 3, 1, 0, 3]
    assert listed.tolist() == [1, 3, 20, 1, 3, 20, 0, 1, 3, 20]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sets": np.zeros((1, 2), np.uint8)}, r"sets of candidates \(1, 2\) of uint8; expected \[S, 3\] of uint8"),
        ({"index": np.array([0, 1], np.int32)}, r"candidates: set 0\.\.1; expected -1\.\.0"),
        ({"excluded_start": np.array([0, 0, 2])}, "the start positions of the excluded items do not match 2 rounds"),
        ({"excluded": np.array([21], np.int32)}, r"candidates: excluded action 21\.\.21; expected 0\.\.20"),
    ],
)
def test_what_is_no_set_is_refused(change, message):
    good = {
        "actions": 21, "sets": np.zeros((1, packed_width(21)), np.uint8), "index": np.array([0, ALL_ITEMS], np.int32),
        "excluded_start": np.array([0, 0, 1]), "excluded": np.array([4], np.int32),
    }  # fmt: skip
    CandidateSets(**good)
    with pytest.raises(DataError, match=message):
        CandidateSets(**(good | change))
