"""What was shown and earned in a window of time, for checks: the latest so many events of one version.

n events, m rewarded ones. Times are milliseconds since 1970; a window holds its begin, not its end.
"""

import json
from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, and_, func, select

from recpolicy.server.db.feedback import DAY_MS
from recpolicy.server.db.schema import events, rewards


@dataclass(frozen=True)
class Window:
    """A window of one version's events."""

    users: list[Hashable]
    """Users whom the version knew, each once a slice."""
    contexts: NDArray[np.float32]  # [F, D] the last context of each user whom it did not know, once a slice
    items: NDArray[np.str_]  # [shown] ids of the items at the first places
    rewards: NDArray[np.float64]  # [m] mean reward of each rewarded event, in the order of time


def window(connection: Connection, version: int, begin: int, end: int, most: int, slice_ms: int) -> Window:
    """The latest `most` events, and rewarded events, of a version between two times.

    A user counts once in each slice of time: so windows of different lengths are alike where nothing has changed, and
    one busy user does not stand for many.
    """
    columns = (events.c.user_key, events.c.item_ids, events.c.context, events.c.time)
    asked = select(*columns).where(events.c.version == version, events.c.time >= begin, events.c.time < end)
    rows = connection.execute(asked.order_by(events.c.time.desc()).limit(most)).all()[::-1]
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
    """One value an event: what a user says of the items of one list is alike."""
    last, mean = func.max(rewards.c.time), func.avg(rewards.c.reward)
    of_window = and_(rewards.c.version == version, rewards.c.time >= begin, rewards.c.time < end)
    asked = select(mean).where(of_window).group_by(rewards.c.event_id).order_by(last.desc()).limit(most)
    return np.array(connection.scalars(asked).all(), np.float64)[::-1]


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
    """Mean rewards by day, version and variant, of rewards that came at `since` or later."""
    day = (rewards.c.time // DAY_MS).label("day")
    keys = (day, rewards.c.version, rewards.c.variant)
    asked = select(*keys, func.count(), func.avg(rewards.c.reward)).where(rewards.c.time >= since)
    rows = connection.execute(asked.group_by(*keys).order_by(*keys))
    return [DailyReward(int(row[0]), row[1], row[2], row[3], float(row[4])) for row in rows]
