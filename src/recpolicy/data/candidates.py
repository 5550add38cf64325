"""The candidates of logged rounds as packed bits: the items that each round could show.

N rounds, A actions (the items of the catalog, in ascending order of their rows), S sets, E excluded items of all
rounds. A set has one bit per action, the most significant bit of the first byte first. Rounds share sets: the rounds of
one event have the same set, and each excludes the items at earlier positions. Masks [n, A] exist for a block of rounds
only, so a round takes some bytes instead of thousands of ids.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.files import ArrayBlocks
from recpolicy.core.types import Bools

ALL_ITEMS = -1
"""Index of a round that could show the whole catalog."""
_CELLS = 1 << 18
"""Cells of masks [n, A] that are in memory at once."""
Packed = NDArray[np.uint8]


@dataclass(frozen=True)
class CandidateSets:
    """The candidates of N rounds: a set each, without the excluded items."""

    actions: int
    """A: the number of items in the catalog."""
    sets: Packed  # [S, ceil(A / 8)]
    index: NDArray[np.int32]  # [N], row of `sets`, or ALL_ITEMS
    excluded_start: NDArray[np.int64]  # [N + 1], where the excluded items of each round begin
    excluded: NDArray[np.int32]  # [E], actions

    def __post_init__(self) -> None:
        start, rounds = self.excluded_start, len(self.index)
        if self.sets.dtype != np.uint8 or self.sets.ndim != 2 or self.sets.shape[1] != packed_width(self.actions):
            expected = f"[S, {packed_width(self.actions)}] of uint8"
            raise DataError(f"sets of candidates {self.sets.shape} of {self.sets.dtype}; expected {expected}")
        if len(start) != rounds + 1 or start[0] != 0 or start[-1] != len(self.excluded) or (np.diff(start) < 0).any():
            raise DataError(f"the start positions of the excluded items do not match {rounds} rounds")
        for name, values, low, high in (
            ("set", self.index, ALL_ITEMS, len(self.sets)), ("excluded action", self.excluded, 0, self.actions)
        ):  # fmt: skip
            if len(values) and not (low <= values.min() and values.max() < high):
                raise DataError(f"candidates: {name} {values.min()}..{values.max()}; expected {low}..{high - 1}")

    def __len__(self) -> int:
        return len(self.index)

    @classmethod
    def from_lists(cls, start: NDArray[np.int64], action: NDArray[np.int32], actions: int) -> "CandidateSets":
        """Return the sets of lists of actions [C] that begin at `start` [N + 1]."""
        sets, index = [np.empty((0, packed_width(actions)), np.uint8)], []
        before = 0
        for rows in blocks(len(start) - 1, actions):
            begin = start[rows.start : rows.stop + 1]
            mask = np.zeros((rows.stop - rows.start, actions), bool)
            mask[np.repeat(np.arange(len(mask)), np.diff(begin)), action[begin[0] : begin[-1]]] = True
            distinct, place = unique_rows(np.packbits(mask, axis=1))
            sets.append(distinct)
            index.append(before + place)
            before += len(distinct)
        return cls.without_exclusions(np.concatenate(sets), np.concatenate([np.empty(0, np.int64), *index]), actions)

    @classmethod
    def without_exclusions(cls, sets: Packed, index: NDArray[np.integer], actions: int) -> "CandidateSets":
        """Return sets [S] and the set of each round [N], with nothing excluded."""
        start = np.zeros(len(index) + 1, np.int64)
        return cls(actions, sets, index.astype(np.int32), start, np.empty(0, np.int32))

    @classmethod
    def all_items(cls, rounds: int, actions: int) -> "CandidateSets":
        """Return the candidates of rounds that could show the whole catalog."""
        nothing = np.empty((0, packed_width(actions)), np.uint8)
        return cls.without_exclusions(nothing, np.full(rounds, ALL_ITEMS), actions)

    @property
    def trivial(self) -> bool:
        """True if every round could show the whole catalog."""
        return not len(self.excluded) and bool((self.index == ALL_ITEMS).all())

    def mask(self, rows: slice) -> Bools:
        """Return a mask [n, A] of the candidates of these rounds."""
        first, last, _ = rows.indices(len(self))
        index, begin = self.index[first:last], self.excluded_start[first : last + 1]
        if len(self.sets):
            packed = self.sets[np.maximum(index, 0)]
            mask = np.unpackbits(packed, axis=1, count=self.actions).view(np.bool_)
            mask[index == ALL_ITEMS] = True
        else:
            mask = np.ones((last - first, self.actions), bool)
        mask[np.repeat(np.arange(last - first), np.diff(begin)), self.excluded[begin[0] : begin[-1]]] = False
        return mask

    def contain(self, action: NDArray[np.integer]) -> Bools:
        """Return a mask [N] of the rounds whose candidates include `action` [N]."""
        contained = self.index == ALL_ITEMS
        if len(self.sets):
            byte = self.sets[np.maximum(self.index, 0), action >> 3]
            contained |= (byte >> (7 - (action & 7)).astype(np.uint8)) & 1 == 1
        length = np.diff(self.excluded_start)
        hit = self.excluded == np.repeat(action, length)
        excluded = np.zeros(len(self), bool)
        excluded[np.repeat(np.arange(len(self)), length)[hit]] = True
        return np.asarray(contained & ~excluded)

    def take(self, rows: slice | NDArray[np.integer]) -> "CandidateSets":
        """Return the candidates of chosen rounds, in their order; the sets stay shared."""
        if isinstance(rows, slice):
            first, last, _ = rows.indices(len(self))
            start = self.excluded_start[first : last + 1]
            excluded, start = self.excluded[start[0] : start[-1]], start - start[0]
        else:
            length = np.diff(self.excluded_start)[rows]
            start = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
            excluded = self.excluded[
                np.repeat(self.excluded_start[:-1][rows] - start[:-1], length) + np.arange(start[-1])
            ]
        return replace(self, index=self.index[rows], excluded_start=start, excluded=excluded)

    def explicit(self) -> "CandidateSets":
        """Return the same candidates without exclusions: each round has a set of its own."""
        packed = [np.packbits(self.mask(rows), axis=1) for rows in blocks(len(self), self.actions)]
        sets = np.concatenate([np.empty((0, packed_width(self.actions)), np.uint8), *packed])
        return CandidateSets.without_exclusions(sets, np.arange(len(self)), self.actions)

    def compact(self) -> "CandidateSets":
        """Return the same candidates without the sets that no round has."""
        used = np.zeros(len(self.sets) + 1, bool)  # the last place is that of ALL_ITEMS
        used[self.index] = True
        place = np.cumsum(used, dtype=np.int32) - 1
        place[-1] = ALL_ITEMS
        return replace(self, sets=self.sets[used[:-1]], index=place[self.index])

    def over(self, place: NDArray[np.integer]) -> "CandidateSets":
        """Return the same candidates over another catalog, without exclusions.

        Args:
            place: [B], the action of each item of the other catalog; -1 for items without one, which are no candidates.

        Raises:
            ValueError: Rounds exclude items.
        """
        if len(self.excluded):
            raise ValueError("only candidates without exclusions can be read over another catalog")
        index = np.where(self.index == ALL_ITEMS, len(self.sets), self.index)
        everything = np.packbits(np.ones((1, self.actions), bool), axis=1)
        sets = np.concatenate([self.sets, everything])
        moved = np.empty((len(sets), packed_width(len(place))), np.uint8)
        for rows in blocks(len(sets), max(self.actions, len(place))):
            bits = np.unpackbits(sets[rows], axis=1, count=self.actions)
            moved[rows] = np.packbits(bits[:, place] * (place >= 0).astype(np.uint8), axis=1)
        return CandidateSets.without_exclusions(moved, index, len(place))

    def lists(self, rows: slice) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return the number of candidates [n] of these rounds, and their actions [C], ascending in each round."""
        mask = self.mask(rows)
        return mask.sum(axis=1), np.nonzero(mask)[1].astype(np.int32)

    def blocks(self) -> Iterator[slice]:
        """Yield consecutive rounds whose masks fit into memory."""
        return blocks(len(self), self.actions)


def concatenate(parts: Sequence[CandidateSets]) -> CandidateSets:
    """Return the candidates of rounds one part after the other; all parts have the same catalog."""
    sets_before = np.cumsum([0, *(len(part.sets) for part in parts)])
    excluded_before = np.cumsum([0, *(len(part.excluded) for part in parts)])
    index = [
        np.where(part.index == ALL_ITEMS, ALL_ITEMS, part.index + before).astype(np.int32)
        for part, before in zip(parts, sets_before, strict=False)
    ]
    start = [part.excluded_start[:-1] + before for part, before in zip(parts, excluded_before, strict=False)]
    return CandidateSets(
        parts[0].actions, np.concatenate([part.sets for part in parts]), np.concatenate(index),
        np.append(np.concatenate(start), excluded_before[-1]), np.concatenate([part.excluded for part in parts]),
    )  # fmt: skip


def digest_parts(candidates: CandidateSets, action_items: NDArray[np.int32]) -> tuple[NDArray[np.int64], ArrayBlocks]:
    """Return the start [N + 1] and the item rows [C] of the candidates, block by block, for a digest.

    action_items: [A], item rows of the actions.
    """
    count = [candidates.mask(rows).sum(axis=1) for rows in candidates.blocks()]
    start = np.concatenate([[0], np.cumsum(np.concatenate([np.empty(0, np.int64), *count]))]).astype(np.int64)

    def item_rows() -> Iterator[NDArray[np.int32]]:
        return (action_items[candidates.lists(rows)[1]] for rows in candidates.blocks())

    return start, ArrayBlocks(np.dtype(np.int32), (int(start[-1]),), item_rows)


def packed_width(actions: int) -> int:
    """Return the number of bytes of a set over A actions."""
    return (actions + 7) // 8


def unique_rows(packed: Packed) -> tuple[Packed, NDArray[np.intp]]:
    """Return the distinct rows of packed sets [n, W], and the place of each row among them [n]."""
    whole = np.ascontiguousarray(packed).view(np.dtype((np.void, packed.shape[1])))[:, 0]
    _, first, place = np.unique(whole, return_index=True, return_inverse=True)
    return packed[first], place


def blocks(rounds: int, actions: int) -> Iterator[slice]:
    """Yield slices of rounds whose masks [n, A] fit into memory."""
    step = max(1, _CELLS // max(actions, 1))
    return (slice(first, min(first + step, rounds)) for first in range(0, rounds, step))
