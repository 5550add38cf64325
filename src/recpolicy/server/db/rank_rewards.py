"""Rewards of the ranked events of a rollout, by variant and unit.

N events, S signals. A unit is a user, or an event without a user. An event counts once its reward is final: it is
active, and its window is over. Rewards come from the signals by the function that training and exports use.
"""

import numpy as np
from sqlalchemy import Connection, func, select

from recpolicy.core.types import Array, Bools, Ints
from recpolicy.data.reward_signals import RewardConfig, combined_rewards, signal_parts, within_range
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.schema import rank_events, rank_signals
from recpolicy.server.live_models import CHALLENGER, CHAMPION
from recpolicy.server.rollout.stage_metrics import VariantStats


def rank_variant_stats(
    connection: Connection, rollout: int, since: int, reward: RewardConfig
) -> dict[str, VariantStats]:
    """Return the units' rewards per variant, from the events of a rollout at `since` (milliseconds) or later.

    Combined rewards beyond the range take the nearest value of the range, as in an export.
    """
    columns, signals = rank_events.c, rank_signals.c
    mine = (
        columns.rollout == rollout,
        columns.time >= since,
        columns.time <= now_ms() - reward.wait_ms,
        columns.activated_at.is_not(None),
    )
    unit = func.dense_rank().over(order_by=func.coalesce(columns.user_key, columns.id))
    events = connection.execute(
        select(columns.seq, columns.time, unit, columns.variant).where(*mine).order_by(columns.seq)
    ).all()
    if not events:
        return {}
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
    return {
        name: stats for name in (CHAMPION, CHALLENGER)
        if (stats := _stats(units, rewards, np.isfinite(rewards) & (np.array(variant) == name))) is not None
    }  # fmt: skip


def _stats(unit: Ints, reward: Array, mask: Bools) -> VariantStats | None:
    """Return the statistics over units of their mean rewards, from the events [N] of a mask; None without events."""
    if not mask.any():
        return None
    _, unit = np.unique(unit[mask], return_inverse=True)
    means = np.bincount(unit, reward[mask]) / np.bincount(unit)
    return VariantStats.from_sums(len(means), int(mask.sum()), float(means.sum()), float((means**2).sum()))
