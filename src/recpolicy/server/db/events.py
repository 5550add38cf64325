"""Events: one recommended list each, with the version, the variant and the propensities that produced it.

Drift checks and the rewards by day read events in a window of time. Times are milliseconds since 1970, UTC. A window
includes its begin and excludes its end.
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

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, and_, func, select

from recpolicy.server.db.feedback import DAY_MS
from recpolicy.server.db.schema import events, rewards

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
class Window:
    """A window of one version's events."""

    users: list[Hashable]
    """Users that the version knows, each once per slice."""
    contexts: NDArray[np.float32]  # [F, D] the last context of each user that the version does not know, once per slice
    items: NDArray[np.str_]  # [positions] ids of the items at the first positions
    rewards: NDArray[np.float64]  # [m] mean reward of each event with rewards, by time


def window(connection: Connection, version: int, begin: int, end: int, most: int, slice_ms: int) -> Window:
    """Return at most `most` events, and as many events with rewards, of a version between two times, the latest ones.

    A user counts once per slice of time. Then windows of different lengths are comparable if nothing changed, and a
    very active user does not outweigh others.
    """
    columns = (events.c.user_key, events.c.item_ids, events.c.context, events.c.time)
    statement = select(*columns).where(events.c.version == version, events.c.time >= begin, events.c.time < end)
    rows = connection.execute(statement.order_by(events.c.time.desc()).limit(most)).all()[::-1]
    vectors: dict[tuple[str, int], NDArray[np.float32]] = {}
    users: dict[tuple[str, int], None] = {}
    for row in rows:
        key = (row.user_key, (end - 1 - row.time) // slice_ms)
        if row.context is None:
            users[key] = None
        else:
            vectors[key] = np.frombuffer(row.context, np.float32)
    items = [str(json.loads(row.item_ids)[0]) for row in rows]
    return Window(
        [json.loads(key) for key, _ in users],
        np.stack(list(vectors.values())) if vectors else np.empty((0, 0), np.float32),
        np.array(items, str),
        _rewards(connection, version, begin, end, most),
    )


def _rewards(connection: Connection, version: int, begin: int, end: int, most: int) -> NDArray[np.float64]:
    """Return one value per event, because a user's rewards for one list are similar."""
    last, mean = func.max(rewards.c.time), func.avg(rewards.c.reward)
    of_window = and_(rewards.c.version == version, rewards.c.time >= begin, rewards.c.time < end)
    statement = select(mean).where(of_window).group_by(rewards.c.event_id).order_by(last.desc()).limit(most)
    return np.array(connection.scalars(statement).all(), np.float64)[::-1]


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
