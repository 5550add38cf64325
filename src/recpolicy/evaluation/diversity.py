"""Diversity of the suggestions: within one user's list, over the catalog, and over a policy's best items.

U users, I items, A arms, D a description of items. Ties are shared, as in ranking.py: numbers are exact expectations
over all orders of equal scores.

- Intra-list diversity@k: mean over pairs of a user's k best items of 1 - cosine of their directions, then mean over
  users (Ziegler, McNee, Konstan & Lausen 2005; Smyth & McClave 2001). 0: all alike, 1: nothing in common. Directions
  are genres or embeddings. An item without a direction (no genres) is unlike every other.
- Gini of exposure: 0 where all I items stand in equally many lists, near 1 where few items take all places.
- Diversity of actions: exp(entropy of how often each arm is the best) / A, the number of arms that ever are, and the
  fraction of the most frequent one. A collapsed policy has 1/A. The source (Pinterest 2025, DRL-PUT) names the figure
  without a formula; this formula is our choice.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.types import Array

_BLOCK = 1024  # users ranked at once


@dataclass(frozen=True)
class ActionDiversity:
    """The spread of a policy's best items over its A items."""

    diversity: float
    """exp(entropy) / A, in (0, 1]."""
    distinct: int
    """ItemFeatures that are the best, or share that place, at least once."""
    modal_share: float
    """Share of the arm that is the best most often."""
    actions: int
    """A."""


def action_diversity(share: NDArray[np.floating]) -> ActionDiversity:
    """Describe how often each arm is the best [A], >= 0 and up to a factor; raises DataError where none ever is."""
    total = float(share.sum(dtype=np.float64))
    if not total > 0 or (share < 0).any():
        raise DataError(f"diversity of actions: shares sum to {total:g}; expected 0 or more each, and some above 0")
    taken = share[share > 0].astype(np.float64) / total
    entropy = -float(taken @ np.log(taken))
    return ActionDiversity(float(np.exp(entropy) / len(share)), len(taken), float(taken.max()), len(share))


def gini(exposure: NDArray[np.floating]) -> float:
    """Return the Gini coefficient of exposures [I], >= 0: half the mean difference over the mean; 0 where nothing is
    shown."""
    total = float(exposure.sum(dtype=np.float64))
    if total == 0:
        return 0.0
    items = len(exposure)
    rank = 2 * np.arange(1, items + 1) - items - 1
    return float(rank @ np.sort(exposure.astype(np.float64)) / (items * total))


def unit_rows(table: NDArray[np.floating]) -> Array:
    """Return rows [I, D] of length 1, so that products are cosines; rows of zeros stay."""
    length = np.sqrt(np.square(table, dtype=np.float64).sum(axis=1, keepdims=True))
    return np.divide(table, length, out=np.zeros(table.shape), where=length > 0)


def list_diversity(
    score: NDArray[np.floating], rated: NDArray[np.bool_], directions: Mapping[str, Array], k: int
) -> dict[str, float | None]:
    """Return the intra-list diversity of the users' k best items not rated, by each description of items.

    score [U, I], finite; rated [U, I]; directions by name, [I, D] with rows of length 1 or 0 (unit_rows). None where no
    user has two items to suggest, and for a description without any direction, such as genres that nobody knows.
    """
    sums, users = dict.fromkeys(directions, 0.0), 0
    for first in range(0, len(score), _BLOCK):
        block = slice(first, first + _BLOCK)
        lists = _lists(np.where(rated[block], -np.inf, score[block]), k)
        several = lists.pairs > 0
        users += int(several.sum())
        for name, direction in directions.items():
            alike = lists.similarity(direction)[several] / lists.pairs[several]
            sums[name] += float((1 - alike).sum())
    return {name: total / users if users and directions[name].any() else None for name, total in sums.items()}


@dataclass(frozen=True)
class _Lists:
    """The k best of B users: items that are surely in, and tied ones that share the places left."""

    surely: Array  # [B, I], 0 or 1
    tied: Array  # [B, I], 0 or 1
    single: Array  # [B], probability that a tied item is in
    both: Array  # [B], probability that two tied items are in
    pairs: Array  # [B], how many pairs a list has

    def similarity(self, direction: Array) -> Array:
        """Return the expected sum of cosines over all pairs of a list [B]."""
        square = np.square(direction).sum(axis=1)  # [I]
        inside, among = self.surely @ direction, self.tied @ direction  # [B, D]
        pairs_inside = (np.square(inside).sum(axis=1) - self.surely @ square) / 2
        pairs_among = (np.square(among).sum(axis=1) - self.tied @ square) / 2
        return np.asarray(pairs_inside + self.single * (inside * among).sum(axis=1) + self.both * pairs_among)


def _lists(score: Array, k: int) -> _Lists:
    """Return the lists of scores [B, I]; -inf is never suggested."""
    threshold = np.partition(score, -k, axis=1)[:, -k, None]
    surely = score > threshold
    tied = (score == threshold) & (score > -np.inf)
    certain, ties = surely.sum(axis=1), tied.sum(axis=1)
    room = np.minimum(k - certain, ties).astype(np.float64)
    single = room / np.maximum(ties, 1)
    size = certain + room
    return _Lists(
        surely.astype(np.float64), tied.astype(np.float64), single, single * (room - 1) / np.maximum(ties - 1, 1),
        size * (size - 1) / 2,
    )  # fmt: skip
