"""Rewards of ranked events, also those of a rollout by variant and unit.

N events, S signals. A unit is a user, or an event without a user. An event counts once its reward is final: it is
active, and its window is over. Rewards come from the signals by the function that training and exports use.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import ColumnElement, Connection, func, select

from recpolicy.core.types import Array, Bools, Ints
from recpolicy.data.reward_signals import RewardConfig, combined_rewards, signal_parts, within_range
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.schema import rank_events, rank_signals
from recpolicy.server.live_models import CHALLENGER, CHAMPION
from recpolicy.server.rollout.stage_metrics import VariantStats


def rank_variant_stats(
    connection: Connection, rollout: int, since: int, reward: RewardConfig
) -> dict[str, VariantStats]:
    """Return the units' rewards per variant, from the events of a rollout at `since` (milliseconds) or later."""
    columns = rank_events.c
    mine = (
        columns.rollout == rollout,
        columns.time >= since,
        columns.time <= now_ms() - reward.wait_ms,
        columns.activated_at.is_not(None),
    )
    found = read_rank_rewards(connection, mine, reward)
    return {
        name: stats for name in (CHAMPION, CHALLENGER)
        if (stats := _stats(found.unit, found.reward, np.isfinite(found.reward) & (found.variant == name))) is not None
    }  # fmt: skip


@dataclass(frozen=True)
class RankRewards:
    """Final rewards of N events in order of writing."""

    seq: Ints  # [N]
    unit: Ints  # [N], equal for events of one user; an event without a user is its own
    variant: NDArray[np.str_]  # [N], champion or challenger
    reward: Array  # [N]; NaN: no signal counts, and there is no default


def read_rank_rewards(connection: Connection, mine: Sequence[ColumnElement[bool]], reward: RewardConfig) -> RankRewards:
    """Return the rewards of the events that meet all conditions; the caller excludes events that still wait.

    Combined rewards beyond the range take the nearest value of the range, as in an export.
    """
    columns, signals = rank_events.c, rank_signals.c
    unit = func.dense_rank().over(order_by=func.coalesce(columns.user_key, columns.id))
    events = connection.execute(
        select(columns.seq, columns.time, unit, columns.variant).where(*mine).order_by(columns.seq)
    ).all()
    if not events:
        none = np.empty(0, np.int64)
        return RankRewards(none, none, np.empty(0, str), np.empty(0))
    *numbers, variant = zip(*events, strict=True)
    seq, time, units = np.array(numbers, np.int64)  # [N] each
    given = connection.execute(
        select(columns.seq, signals.type, signals.value, signals.time)
        .select_from(rank_signals)
        .join(rank_events, (columns.id == signals.event_id) & (columns.slot == signals.slot))
        .where(*mine, signals.late.is_(False), signals.type.in_(list(reward.weights)))
        .order_by(signals.seq)
    ).all()
    of_event, types, values, at = zip(*given, strict=True) if given else ((), (), (), ())
    place = np.minimum(np.searchsorted(seq, np.array(of_event, np.int64)), len(seq) - 1)
    parts, known = signal_parts(types, np.array(values, np.float64), reward), seq[place] == np.array(of_event)
    rewards = combined_rewards(
        place[known], parts[known], np.array(at, np.int64)[known], time, within_range(reward)
    )  # an event that became active between the two queries counts next time
    return RankRewards(seq, units, np.array(variant), rewards)


def _stats(unit: Ints, reward: Array, mask: Bools) -> VariantStats | None:
    """Return the statistics over units of their mean rewards, from the events [N] of a mask; None without events."""
    if not mask.any():
        return None
    _, unit = np.unique(unit[mask], return_inverse=True)
    means = np.bincount(unit, reward[mask]) / np.bincount(unit)
    return VariantStats.from_sums(len(means), int(mask.sum()), float(means.sum()), float((means**2).sum()))
