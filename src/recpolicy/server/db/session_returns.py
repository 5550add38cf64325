"""Return events of exported sessions: the first request of the user's next session, censored at the time of the export.

M sessions. A request of a session policy with a history is an event of a session, or of none that fits (a step without
a session id), as during an outage: that is a return, too. Users who were erased have neither sessions nor returns.
"""

from collections.abc import Mapping

import numpy as np
from sqlalchemy import Connection, func, select

from recpolicy.data.session_returns import DAY_MS, SessionReturns, next_starts
from recpolicy.server.db.schema import events


def complete_sessions(connection: Connection, until: int) -> dict[str, tuple[str, int]]:
    """Return user key and time of the last event of each session that ended by `until` (milliseconds), by its id."""
    last = func.max(events.c.time)
    query = select(events.c.session_id, events.c.user_key, last).where(events.c.session_id.is_not(None))
    query = query.group_by(events.c.session_id, events.c.user_key).having(last <= until)
    return {session: (key, time) for session, key, time in connection.execute(query)}


def read_returns(connection: Connection, last: Mapping[str, tuple[str, int]], now: int) -> SessionReturns:
    """Return the days from the last event of each session to its user's next session, in the order of `last`.

    Args:
        connection: The database.
        last: User key and time of the last event (milliseconds since 1970), by session id.
        now: The time at which sessions without a return are censored.
    """
    import pandas as pd

    user = [key for key, _ in last.values()]
    end = np.array([time for _, time in last.values()], np.int64)
    earliest = int(end.min(initial=now))
    first = func.min(events.c.time)
    sessions = select(events.c.user_key, first).where(events.c.session_id.is_not(None))
    sessions = sessions.group_by(events.c.session_id, events.c.user_key).having(first > earliest)
    alone = select(events.c.user_key, events.c.time).where(
        events.c.session_id.is_(None), events.c.step.is_not(None), events.c.time > earliest
    )
    rows = [tuple(row) for query in (sessions, alone) for row in connection.execute(query) if row[1] <= now]
    start = np.array([time for _, time in rows], np.int64)
    code = pd.factorize(np.array([*user, *(key for key, _ in rows)], object))[0]
    following = next_starts(code[: len(user)], end, code[len(user) :], start)
    returned = following >= 0
    until = np.where(returned, np.append(start, 0)[following], now)
    return SessionReturns((until - end) / DAY_MS, returned)
