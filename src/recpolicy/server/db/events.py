"""Events: one recommended list each, with the version, the variant and the propensities that produced it.

Times are milliseconds since 1970, UTC. event_windows.py reads the events of some time.
"""

import json
import secrets
import time
from collections import deque
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from sqlalchemy import Connection, func, select

from recpolicy.server.db.feedback import DAY_MS
from recpolicy.server.db.schema import rewards

_ROWS_AT_ONCE = 64
"""Most rows of one statement; SQLite takes 32,766 values."""


class Event(NamedTuple):
    """A list of K items recommended to one user: a row of the table `events`."""

    id: str
    time: int
    """Milliseconds since 1970, UTC."""
    user_key: str
    """User id, JSON."""
    version: int
    policy_digest: str
    agent: str
    variant: str
    rollout: int | None
    explored: bool
    item_ids: str
    """Item ids [K], first position first, JSON."""
    propensities: str
    """Propensities [K], each given the items before it, JSON."""
    ratings: str
    """Predicted ratings [K], JSON; null where the policy has none."""
    allowed: bytes | None = None
    """Packed bits over the version's catalog; None: every item was allowed."""
    context: bytes | None = None
    """The float32 context of a user whom the version does not know."""
    history: bytes | None = None
    """The session that a session policy saw (session_history.py); None for other policies."""
    guardrails: bytes | None = None
    """The guardrails (guardrail_record.py); None: there were none."""
    session_id: str | None = None
    """The session of the request; None: none."""
    step: int | None = None
    """Items that the session has shown before; with no session, those of a history that no known session fits."""
    weights: str | None = None
    """The weights of a ranking formula that ranked the list, JSON: action (a point of the grid) and fallback; of drawn
    weights also propensity, grid, scaling and features. None: no formula ranked it."""


_random: deque[str] = deque()
"""Random digits, drawn for many ids at once."""


def now_ms() -> int:
    """Return the time in milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


def new_event_id(time: int | None = None) -> str:
    """Return an id for an event at a time in milliseconds since 1970; None: now.

    It has 32 hexadecimal digits that grow with time, so the index grows at its end; 80 bits are random.
    """
    try:
        digits = _random.popleft()
    except IndexError:
        drawn = secrets.token_hex(10 * 256)
        _random.extend(drawn[start : start + 20] for start in range(20, len(drawn), 20))
        digits = drawn[:20]
    return f"{now_ms() if time is None else time:012x}{digits}"


def first_event_id(time: int) -> str:
    """Return the lower bound of the ids of events at this time (milliseconds since 1970) or later."""
    return f"{time:012x}"


def id_key(identity: Hashable) -> str:
    """Return a user or item id as the database stores it."""
    return str(identity) if type(identity) is int else json.dumps(identity)


def insert_events(connection: Connection, new: Sequence[Event], *, replayed: bool = False) -> None:
    """Insert new events; of replayed ones, those that the database does not have. The caller commits.

    One statement inserts many rows: the driver gives up the interpreter in each statement, and waits for it afterwards.
    """
    start = 0
    while start < len(new):
        # Powers of two, so that the driver prepares few different statements.
        count = min(_ROWS_AT_ONCE, 1 << ((len(new) - start).bit_length() - 1))
        values = tuple(chain.from_iterable(new[start : start + count]))
        connection.exec_driver_sql(_insert_statement(count, connection.dialect.paramstyle, replayed), values)
        start += count


@lru_cache
def _insert_statement(count: int, paramstyle: str, replayed: bool) -> str:
    """Return the INSERT of `count` rows."""
    mark = "?" if paramstyle == "qmark" else "%s"
    row = f"({', '.join([mark] * len(Event._fields))})"
    end = " ON CONFLICT (id) DO NOTHING" if replayed else ""
    return f"INSERT INTO events ({', '.join(Event._fields)}) VALUES {', '.join([row] * count)}{end}"


@dataclass(frozen=True)
class DailyReward:
    """Rewards of one version, variant and day."""

    day: int
    """Days since 1970."""
    version: int
    variant: str
    rewards: int
    mean: float


def daily_rewards(connection: Connection, since: int) -> list[DailyReward]:
    """Return the mean rewards by day, version and variant of rewards that arrived at `since` or later."""
    day = (rewards.c.time // DAY_MS).label("day")
    keys = (day, rewards.c.version, rewards.c.variant)
    statement = select(*keys, func.count(), func.avg(rewards.c.reward)).where(rewards.c.time >= since)
    rows = connection.execute(statement.group_by(*keys).order_by(*keys))
    return [DailyReward(int(row[0]), row[1], row[2], row[3], float(row[4])) for row in rows]
