"""The state of one user under one policy: the posterior after the ratings of the store, folded in their order.

A user has one rating of an item, the latest. The first one of an item updates the posterior, and a later one revises it
by the difference. So any order of the same latest ratings ends at the same posterior up to rounding, and the same order
repeats it bit for bit.
"""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.inference.user_vectors import LearnedUser, UserVectors
from recpolicy.models.user_posterior import UserPosterior, pack, packed_size, rate, unpack
from recpolicy.server.db.user_ratings import RatingRow, Stamp

_FLOAT, _ROW = 8, 4
_OVERHEAD = 560
"""Bytes of a cached state beyond its data: objects, and the entry of the cache."""


@dataclass(frozen=True, slots=True)
class UserState:
    """A user's posterior in little memory. D directions, T = D (D + 1) / 2 entries of a triangle, n rated items."""

    data: bytes
    """The packed posterior [D + T] and the ratings [n], float64, then the item rows [n], int32."""
    ratings: int
    """n, the items whose ratings moved the posterior."""
    stamp: Stamp
    """The stamp of the user's rows in the store."""
    last: int
    """The number of the last row."""
    database: int = 0
    """The number of the opening of the database that has the rows: another file may have the stamp for other rows."""

    @property
    def size(self) -> int:
        """Approximate bytes in memory."""
        return len(self.data) + _OVERHEAD

    def posterior(self, rank: int) -> UserPosterior:
        """Return the posterior of D = `rank` directions."""
        return unpack(np.frombuffer(self.data, np.float64, packed_size(rank)), rank)

    def rated(self, rank: int) -> tuple[NDArray[np.int32], NDArray[np.float64]]:
        """Return the rows of the rated items [n] and their ratings [n]."""
        start = _FLOAT * packed_size(rank)
        ratings = np.frombuffer(self.data, np.float64, self.ratings, start)
        return np.frombuffer(self.data, np.int32, self.ratings, start + _FLOAT * self.ratings), ratings


def fold(vectors: UserVectors, user: Hashable, rows: Sequence[RatingRow], before: UserState | None = None) -> UserState:
    """Return the state of a user after further rows of the store.

    Leaves out items that the policy does not know, ratings off its scale, and items of which its training has the
    user's rating: that one is in the posterior already.

    Args:
        vectors: The policy.
        user: The user.
        rows: The rows, in their order.
        before: The state after the rows before them; None: these are all rows.
    """
    posterior, known, stamp, last = _begin(vectors, user, before)
    trained = vectors.trained_rows(user) if rows else frozenset[int]()
    for row in rows:
        item = vectors.item_row(row.item, row.rating)
        if item is not None and item not in trained:
            posterior = rate(posterior, vectors.items, item, row.rating, known.get(item))
            known[item] = row.rating
        stamp, last = Stamp(stamp.rows + 1, stamp.total + row.seq), row.seq
    ratings, items = np.array(list(known.values()), np.float64), np.array(list(known), np.int32)
    return UserState(pack(posterior).tobytes() + ratings.tobytes() + items.tobytes(), len(known), stamp, last)


def describe(vectors: UserVectors, user: Hashable, state: UserState) -> LearnedUser:
    """Return the input of a prediction for a user in a state."""
    return vectors.describe(user, state.posterior(vectors.rank), *state.rated(vectors.rank))


def _begin(
    vectors: UserVectors, user: Hashable, before: UserState | None
) -> tuple[UserPosterior, dict[int, float], Stamp, int]:
    """Return the posterior, the ratings by item row, the stamp and the last row of a state; None: before any row."""
    if before is None:
        return vectors.start(user), {}, Stamp(), 0
    items, ratings = before.rated(vectors.rank)
    known = dict(zip(items.tolist(), ratings.tolist(), strict=True))
    return before.posterior(vectors.rank), known, before.stamp, before.last
