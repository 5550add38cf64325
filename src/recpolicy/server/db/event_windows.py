"""Users, items and rewards in a window of time, for drift checks: the latest events of one version.

n events, m events with rewards. Times are milliseconds since 1970. A window includes its begin and excludes its end.
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
    """Return one value per event, because a user's rewards for one list are similar."""
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
    """Return the mean rewards by day, version and variant of rewards that arrived at `since` or later."""
    day = (rewards.c.time // DAY_MS).label("day")
    keys = (day, rewards.c.version, rewards.c.variant)
    asked = select(*keys, func.count(), func.avg(rewards.c.reward)).where(rewards.c.time >= since)
    rows = connection.execute(asked.group_by(*keys).order_by(*keys))
    return [DailyReward(int(row[0]), row[1], row[2], row[3], float(row[4])) for row in rows]
