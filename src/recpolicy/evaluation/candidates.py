"""The candidates of the held-out choice: for every user the items that the user rated in the test part.

N test ratings of U' users, sorted by user and then item, so that no result depends on the order of a file. A user's
rows are neighbours; per-user sums and maxima are `reduceat` over the first row of each user, with no loop over users.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.data.ratings import Ratings

Scalar = TypeVar("Scalar", bound=np.generic)


@dataclass(frozen=True)
class Candidates:
    """Rated items of U' users, each user with at least one."""

    user: NDArray[np.int32]  # [N], rows of the users table, ascending
    item: NDArray[np.int32]  # [N], rows of the items table, ascending within a user
    rating: NDArray[np.float64]  # [N]
    start: NDArray[np.intp]  # [U'], where each user's rows begin

    @cached_property
    def size(self) -> NDArray[np.intp]:
        """Number of candidates of each user [U']."""
        return np.diff(self.start, append=len(self.user))

    def look_up(self, table: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the entries [N] of a table [U, I] at the candidates."""
        return table[self.user, self.item]

    def total(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Sum values [N] within each user [U']."""
        return np.add.reduceat(values.astype(np.float64), self.start)

    def highest(self, values: NDArray[np.floating]) -> NDArray[np.floating]:
        """Return the largest of values [N] within each user [U']."""
        return np.maximum.reduceat(values, self.start)

    def spread(self, per_user: NDArray[Scalar]) -> NDArray[Scalar]:
        """Repeat values of users [U'] for each of their candidates [N]."""
        return np.repeat(per_user, self.size)


def find_candidates(test: Ratings, at_least: int = 2) -> Candidates:
    """Return the candidates of every user with `at_least` ratings in `test`; raises DataError when there is none.

    With a single candidate there is nothing to choose and nothing to rank, hence two by default.
    """
    order = np.lexsort((test.item, test.user))
    count = np.bincount(test.user, minlength=len(test.users))  # [U]
    order = order[count[test.user[order]] >= at_least]
    if not len(order):
        raise DataError(
            f"{test.name}: no user has {at_least} or more ratings in the test part ({len(test)} ratings in all); "
            "choose a split that holds out more ratings of each user"
        )
    user = test.user[order]
    start = np.flatnonzero(np.diff(user, prepend=-1))
    return Candidates(user, test.item[order], test.rating[order].astype(np.float64), start)
