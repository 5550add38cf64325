"""The second reward of a session log: days until the user's next session, censored where the log ends before one.

M sessions. Days count from the last event of a session to the first request of the user's next one, which need not be
in the log; a session that was cut goes on after its last step in the log. A session without a return has the days that
its user was followed without one.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.types import Ints

DAYS, RETURNED = "days_to_return", "returned"
"""Columns of a session log, equal in all steps of a session; both or neither."""
DAY_MS = 86_400_000
_TOLERANCE_MS = 1_000
"""Days are rounded where somebody wrote them as text."""


@dataclass(frozen=True)
class SessionReturns:
    """Return times of M sessions."""

    days: NDArray[np.float64]  # [M], >= 0 and finite; without a return the days that the user was followed
    returned: NDArray[np.bool_]  # [M], False: censored

    def select(self, mask: NDArray[np.bool_]) -> "SessionReturns":
        """Return those of the sessions for which mask [M] is true."""
        return SessionReturns(self.days[mask], self.returned[mask])

    def without_return(self, user: NDArray[Any]) -> int:
        """Return the number of users of sessions [M] none of which has a return."""
        return len(np.setdiff1d(user, user[self.returned]))


def wrong_days(days: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return True [n] for days that are no number, infinite, or before the end of the session."""
    return ~(np.isfinite(days) & (days >= 0))


def describe_wrong_days(day: float) -> str:
    """Return the message about one of the `wrong_days`."""
    found = f"{DAYS} is {day:g}"
    if day < 0:
        return f"{found}: a return before the end of its session; expected 0 or more"
    return f"{found}: expected days, of a session without a return those without one ({RETURNED} is false)"


def check_returns(
    returns: SessionReturns, user: Ints, first: Ints, last: Ints, session: NDArray[np.object_], name: str
) -> None:
    """Raise DataError for days of a wrong number, or later than the user's next session in the log.

    Args:
        returns: Of M sessions.
        user: [M].
        first: [M] milliseconds at the first step. last: [M], at the last one.
        session: [M] ids.
        name: Name of the log.
    """
    if not len(returns.days) == len(returns.returned) == len(user):
        raise DataError(f"{name}: return times of {len(returns.days)} sessions; the log has {len(user)}")
    wrong = wrong_days(returns.days)
    if wrong.any():
        place = int(wrong.argmax())
        raise DataError(f"{name}: session {session[place]!r}: {describe_wrong_days(float(returns.days[place]))}")
    following = next_starts(user, last, user, first)
    gap = (first[following] - last).astype(np.float64)
    late = (following >= 0) & (returns.days * DAY_MS > gap + _TOLERANCE_MS)
    if late.any():
        place = int(late.argmax())
        raise DataError(
            f"{name}: session {session[place]!r}: {DAYS} is {returns.days[place]:g}, but the user's next session in the"
            f" log, {session[following[place]]!r}, starts {gap[place] / DAY_MS:.4g} days after it"
        )


def next_starts(user: Ints, end: Ints, start_user: Ints, start: Ints) -> Ints:
    """Return for each session [M] the place of the first start of its user after its end; -1 for none.

    Args:
        user: [M]. end: [M] times.
        start_user: [S]. start: [S] times.
    """
    users, times = np.concatenate([user, start_user]), np.concatenate([end, start])
    starts = np.repeat([False, True], [len(user), len(start_user)])
    order = np.lexsort((~starts, times, users))  # of equal times the end comes last: a session may have one step
    places = np.flatnonzero(starts[order])
    ends = np.flatnonzero(~starts[order])
    following = np.searchsorted(places, ends)
    candidate = np.append(order[places] - len(user), -1)[following]
    session = order[ends]
    found = np.full(len(user), -1)
    found[session] = np.where(start_user[candidate] == user[session], candidate, -1) if len(start) else -1
    return found
