"""The latest ranked events with their rewards, for the console.

An event counts once its reward is final, as in rank_rewards.py. Contexts and users are left out: they may describe a
person.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, select

from recpolicy.core.statistics import Interval
from recpolicy.core.types import Array, Ints
from recpolicy.data.reward_signals import RewardConfig
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.rank_events import DIGEST_BYTES, logged_choice
from recpolicy.server.db.rank_rewards import read_rank_rewards
from recpolicy.server.db.schema import action_rows, rank_events
from recpolicy.server.db.signal_rates import ratio_from_sums

MAX_EVENTS = 10_000
"""Latest events that the summary covers."""
INACTIVE, WAITING, FINAL = "inactive", "waiting", "final"


@dataclass(frozen=True)
class RewardSummary:
    """The rewards of the latest events."""

    events: int
    since: int | None
    """Time of the first of them, in milliseconds since 1970; None without events."""
    final: int
    """Events whose reward is final."""
    positive: Interval
    """Share of these events with a reward above 0."""
    mean: Interval
    """Mean reward of these events."""


def summarize_recent(connection: Connection, reward: RewardConfig) -> RewardSummary:
    """Return the rewards of the latest MAX_EVENTS ranks with 95 % intervals over users, or events without a user."""
    columns = rank_events.c
    latest = select(columns.seq, columns.time).where(columns.task.is_(None)).order_by(columns.seq.desc())
    rows = connection.execute(latest.limit(MAX_EVENTS)).all()
    if not rows:
        return RewardSummary(0, None, 0, Interval.unbounded(np.nan), Interval.unbounded(np.nan))
    first = rows[-1]
    done = (columns.task.is_(None), columns.seq >= first.seq, columns.activated_at.is_not(None),
            columns.time <= now_ms() - reward.wait_ms)  # fmt: skip
    rewards = read_rank_rewards(connection, done, reward)
    known = np.isfinite(rewards.reward)
    value, unit = rewards.reward[known], rewards.unit[known]
    low, high = reward.reward_range or (0.0, 0.0)
    return RewardSummary(
        len(rows), min(row.time for row in rows), len(value),
        _mean_over_units((value > 0).astype(np.float64), unit, 1.0), _mean_over_units(value, unit, high - low),
    )  # fmt: skip


def _mean_over_units(value: Array, unit: Ints, width: float) -> Interval:
    """Return the mean of the values [N] with its 95 % interval over units."""
    if not len(value):
        return Interval.unbounded(np.nan)
    _, unit = np.unique(unit, return_inverse=True)
    count, total = np.bincount(unit).astype(np.float64), np.bincount(unit, value)
    return ratio_from_sums(
        len(count), count.sum(), float(count @ count), total.sum(), float(total @ total), float(total @ count), width
    )


def list_recent(connection: Connection, reward: RewardConfig, count: int) -> list[dict[str, Any]]:
    """Return the latest ranks, newest first: the chosen action, its propensity, and its reward if it is final."""
    columns = rank_events.c
    latest = select(rank_events).where(columns.task.is_(None)).order_by(columns.seq.desc()).limit(count)
    rows = connection.execute(latest).all()
    if not rows:
        return []
    final_until = now_ms() - reward.wait_ms
    mine = (columns.task.is_(None), columns.seq >= rows[-1].seq, columns.activated_at.is_not(None))
    rewards = read_rank_rewards(connection, (*mine, columns.time <= final_until), reward)
    by_seq = dict(zip(rewards.seq.tolist(), rewards.reward.tolist(), strict=True))
    chosen = [logged_choice(row) for row in rows]
    digests = [
        row.offers[DIGEST_BYTES * place : DIGEST_BYTES * (place + 1)]
        for row, (place, _) in zip(rows, chosen, strict=True)
    ]
    names = _action_ids(connection, digests)
    return [
        {
            "event_id": row.id, "slot_id": row.slot_id, "time": row.time, "version": row.version or None,
            "agent": row.agent, "variant": row.variant, "mode": row.mode, "action": names.get(bytes(digest)),
            "actions": len(row.offers) // DIGEST_BYTES, "propensity": propensity,
            "state": INACTIVE if row.activated_at is None else FINAL if row.time <= final_until else WAITING,
            "reward": _plain(by_seq.get(row.seq)),
        }
        for row, digest, (_, propensity) in zip(rows, digests, chosen, strict=True)
    ]  # fmt: skip


def _action_ids(connection: Connection, digests: Sequence[bytes]) -> dict[bytes, int | str]:
    """Return the ids of actions by digest; a damaged one is missing."""
    rows = connection.execute(select(action_rows).where(action_rows.c.digest.in_(sorted(set(digests)))))
    return {bytes(row.digest): json.loads(row.row)["id"] for row in rows}


def _plain(value: float | None) -> float | None:
    return None if value is None or not np.isfinite(value) else value
