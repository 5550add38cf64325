"""Cut a ratings table into sessions: runs of a user's ratings with short gaps.

N ratings, M sessions. A session is a user's ratings with no gap of more than `gap_minutes` between one and the next: a
stand-in, for MovieLens records when ratings were entered, not when items were watched. 49 % of the ratings of
MovieLens 100K share their second with another one of the same user (a page of items rated at once), so the order
inside a page is the order of the file, not an order of consumption.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.ratings import Ratings

GAP_MINUTES = 30.0
"""The usual inactivity gap of web sessions."""


@dataclass(frozen=True)
class Sessions:
    """All ratings of a table, put in order and cut into sessions; sessions come by user, then time."""

    rows: NDArray[np.intp]  # [N] rows of the ratings table by user, time and place in the file
    session: NDArray[np.intp]  # [N] number 0..M-1 of the session, in the order of `rows`
    position: NDArray[np.intp]  # [N] place in the session from 0, in the order of `rows`
    user: NDArray[np.int32]  # [M] rows of the users table
    start: NDArray[np.intp]  # [M] where the session begins in `rows`
    length: NDArray[np.intp]  # [M] ratings in the session, >= 1

    def __len__(self) -> int:
        return len(self.length)

    def cut(self, most: int) -> "Sessions":
        """Return the same ratings in sessions of at most `most`: a longer session becomes several."""
        if most < 1:
            raise ConfigError(f"sessions of at most {most} ratings: expected 1 or more")
        return _cut_at(self.rows, self.user[self.session], self.position % most == 0)


def split_into_sessions(ratings: Ratings, gap_minutes: float = GAP_MINUTES) -> Sessions:
    """Cut a table into sessions; raises DataError without timestamps, ConfigError for a gap that is not above
    0."""
    if not gap_minutes > 0:
        raise ConfigError(f"gap_minutes is {gap_minutes!r}; a session needs a gap above 0 minutes")
    if ratings.timestamp is None:
        raise DataError(f"{ratings.name}: sessions need timestamps, which this table does not have")
    rows = np.lexsort((ratings.timestamp, ratings.user))  # stable: ties stay in file order
    user, time = ratings.user[rows], ratings.timestamp[rows]
    first = np.ones(len(rows), bool)
    first[1:] = (np.diff(user) != 0) | (np.diff(time) > 60 * gap_minutes)
    return _cut_at(rows, user, first)


def _cut_at(rows: NDArray[np.intp], user: NDArray[np.int32], first: NDArray[np.bool_]) -> Sessions:
    """Return sessions that begin where `first` [N] is true, in the order of `rows`."""
    start = np.flatnonzero(first)
    session = np.cumsum(first) - 1
    return Sessions(
        rows=rows,
        session=session,
        position=np.arange(len(rows)) - start[session],
        user=user[start],
        start=start,
        length=np.diff(start, append=len(rows)),
    )
