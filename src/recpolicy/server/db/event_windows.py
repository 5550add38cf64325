"""Events of one version in a window of time, as the check of drift reads them: lists of items, or ranks.

Times are milliseconds since 1970, UTC. A window includes its begin and excludes its end.
"""

import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, and_, func, select

from recpolicy.core.statistics import Interval
from recpolicy.data.reward_signals import RewardConfig, combined_rewards, signal_parts, within_range
from recpolicy.server.db.rank_events import DIGEST_BYTES
from recpolicy.server.db.schema import events, rank_events, rank_signals, rewards
from recpolicy.server.db.signal_rates import ratio_from_sums

_IDS_AT_ONCE = 500


@dataclass(frozen=True)
class Window:
    """A window of one version's events."""

    users: list[Hashable]
    """Users that the version knows, each once per slice."""
    contexts: NDArray[np.float32]  # [F, D] the last context of each user that the version does not know, once per slice
    items: NDArray[np.str_]  # [positions] the items at the first positions, or the chosen actions
    rewards: NDArray[np.float64]  # [m] mean reward of each event with rewards, by time
    mean_reward: Interval | None = None
    """Mean of all rewards of the window with its interval over users; None without rewards."""
    reward_users: int = 0
    """Users with rewards; an event without a user counts as one."""


def window(
    connection: Connection, version: int, begin: int, end: int, most: int, slice_ms: int, width: float = 0.0
) -> Window:
    """Return at most `most` lists, and as many with rewards, of a version between two times, the latest ones.

    A user counts once per slice of time. Then windows of different lengths are comparable if nothing changed, and a
    very active user does not outweigh others.

    Args:
        connection: The database.
        version: Number of the version.
        begin: First time.
        end: Time after the window.
        most: Largest number of events.
        slice_ms: Length of a slice.
        width: Range of the rewards, maximum - minimum; 0 if it is unknown.
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
    mean, reward_users = _mean_reward(connection, version, begin, end, width)
    return Window(
        [json.loads(key) for key, _ in users],
        np.stack(list(vectors.values())) if vectors else np.empty((0, 0), np.float32),
        np.array(items, str), _rewards(connection, version, begin, end, most), mean, reward_users,
    )  # fmt: skip


def _rewards(connection: Connection, version: int, begin: int, end: int, most: int) -> NDArray[np.float64]:
    """Return one value per event, because a user's rewards for one list are similar."""
    last, mean = func.max(rewards.c.time), func.avg(rewards.c.reward)
    of_window = and_(rewards.c.version == version, rewards.c.time >= begin, rewards.c.time < end)
    statement = select(mean).where(of_window).group_by(rewards.c.event_id).order_by(last.desc()).limit(most)
    return np.array(connection.scalars(statement).all(), np.float64)[::-1]


def _mean_reward(
    connection: Connection, version: int, begin: int, end: int, width: float
) -> tuple[Interval | None, int]:
    """Return the mean of all rewards of a window with its interval, and the number of users; None without rewards."""
    of_window = and_(rewards.c.version == version, rewards.c.time >= begin, rewards.c.time < end)
    by_user = (
        select(func.count().label("n"), func.sum(rewards.c.reward).label("s"))
        .where(of_window)
        .group_by(rewards.c.user_key)
        .subquery()
    )
    n, s = by_user.c.n, by_user.c.s
    sums = (func.sum(n), func.sum(n * n), func.sum(s), func.sum(s * s), func.sum(s * n))
    users, *values = connection.execute(select(func.count(), *sums)).one()
    if not users:
        return None, 0
    size, size_squares, total, squares, products = map(float, values)
    return ratio_from_sums(int(users), size, size_squares, total, squares, products, width), int(users)


def rank_window(connection: Connection, version: int, begin: int, end: int, most: int, reward: RewardConfig) -> Window:
    """Return at most `most` ranks of a version between two times, the latest ones, with their rewards.

    An item is the digest of the chosen action. Rewards come from the signals by the function that training uses; those
    beyond the range take the nearest value of the range.
    """
    columns = rank_events.c
    names = ("id", "slot", "time", "user_key", "offers", "ranking")
    statement = (
        select(*(columns[name] for name in names))
        .where(columns.version == version, columns.time >= begin, columns.time < end)
        .where(columns.activated_at.is_not(None), columns.task.is_(None))
        .order_by(columns.time.desc())
        .limit(most)
    )
    rows = connection.execute(statement).all()[::-1]
    no_contexts = np.empty((0, 0), np.float32)
    if not rows:
        return Window([], no_contexts, np.empty(0, str), np.empty(0))
    items = [_chosen(row.offers, row.ranking) for row in rows]
    values = _rank_rewards(connection, rows, reward)
    known = np.isfinite(values)
    unit = np.unique([row.user_key or row.id for row in rows], return_inverse=True)[1][known]
    mean, users = None, 0
    if known.any():
        count = np.bincount(unit)
        total, size = np.bincount(unit, values[known])[count > 0], count[count > 0].astype(np.float64)
        users, ends = len(size), reward.reward_range
        mean = ratio_from_sums(
            users, float(size.sum()), float(size @ size), float(total.sum()), float(total @ total),
            float(total @ size), 0.0 if ends is None else ends[1] - ends[0],
        )  # fmt: skip
    return Window([], no_contexts, np.array(items, str), values[known], mean, users)


def _chosen(offers: bytes, ranking: bytes) -> str:
    start = DIGEST_BYTES * int(np.frombuffer(ranking, "<u2")[0])
    return offers[start : start + DIGEST_BYTES].hex()


def _rank_rewards(connection: Connection, rows: Sequence[Any], reward: RewardConfig) -> NDArray[np.float64]:
    """Return the reward of each ranked event [N]; NaN for one without a reward."""
    place = {(row.id, row.slot): at for at, row in enumerate(rows)}
    ids = sorted({identity for identity, _ in place})
    signals, given = rank_signals.c, list[Any]()
    for start in range(0, len(ids), _IDS_AT_ONCE):
        some = signals.event_id.in_(ids[start : start + _IDS_AT_ONCE])
        query = select(signals.event_id, signals.slot, signals.type, signals.value, signals.time)
        given += connection.execute(
            query.where(some, signals.late.is_(False), signals.type.in_(list(reward.weights))).order_by(signals.seq)
        ).all()
    of_event = np.array([place[row.event_id, row.slot] for row in given], np.int64)
    parts = signal_parts([row.type for row in given], np.array([row.value for row in given], np.float64), reward)
    at = np.array([row.time for row in given], np.int64)
    times = np.array([row.time for row in rows], np.int64)
    return combined_rewards(of_event, parts, at, times, within_range(reward))
