"""Signals of a rollout's variants: the rate and the mean value of each type, for all users and by segment of users.

The decision of a rollout rests on its rewards (stage_metrics.py). These metrics show the rest: likes, shares, revenue,
or any other signal with a number. Users are the units, as for rewards, each with the mean over its events; an event
without a user is its own. Users without the signal count with 0. The intervals are confidence sequences at 95 %, each
by itself: of many, some miss by chance. Segments are those of the champion's training data: new users, and known users
by age band and gender (where its user table has them) and with fewer and with more ratings than the median
(evaluation/groups.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sqlalchemy import Connection, and_, func, select

from recpolicy.core.json import to_plain
from recpolicy.core.types import Array
from recpolicy.inference.scorer import Scorer
from recpolicy.server.db.events import first_event_id, id_key
from recpolicy.server.db.schema import events, feedback, rank_events, rank_signals
from recpolicy.server.live_models import CHALLENGER, CHAMPION
from recpolicy.server.rollout.stage_metrics import VariantStats, difference, mean_reward, pooled_variance_floor

if TYPE_CHECKING:
    import pandas as pd

ALL, NEW = "all users", "new users"
MIN_USERS = 30
_LEVEL = 0.95


@dataclass(frozen=True)
class UnitSignals:
    """The events of U units in a stage, and their signals."""

    variant: Sequence[str]  # [U]
    key: Sequence[str]  # [U], user id as JSON, or event id
    size: Array  # [U], events
    count: Mapping[str, Array]  # by type [U], events with the signal
    total: Mapping[str, Array]  # by type [U], sum of the values


def read_unit_signals(connection: Connection, rollout: int, since: int) -> UnitSignals:
    """Return the greedy events of a rollout at `since` (milliseconds) or later, by unit."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    shown, given = list[Any](), list[Any]()
    columns, said = events.c, feedback.c
    mine = and_(columns.rollout == rollout, columns.explored.is_(False), columns.id >= first_event_id(since))
    group = (columns.variant, columns.user_key)
    shown += connection.execute(select(*group, func.count()).where(mine).group_by(*group)).all()
    sums = (func.count(func.distinct(columns.id)), func.sum(said.value))
    joined = feedback.join(events, said.event_id == columns.id)
    query = select(*group, said.type, *sums).select_from(joined).where(mine, said.late.is_(False))
    given += connection.execute(query.group_by(*group, said.type)).all()
    ranks, signals = rank_events.c, rank_signals.c
    mine = and_(ranks.rollout == rollout, ranks.time >= since, ranks.activated_at.is_not(None))
    unit = func.coalesce(ranks.user_key, ranks.id)
    shown += connection.execute(
        select(ranks.variant, unit, func.count()).where(mine).group_by(ranks.variant, unit)
    ).all()
    joined = rank_signals.join(rank_events, and_(signals.event_id == ranks.id, signals.slot == ranks.slot))
    sums = (func.count(func.distinct(ranks.seq)), func.sum(signals.value))
    query = select(ranks.variant, unit, signals.type, *sums).select_from(joined).where(mine, signals.late.is_(False))
    given += connection.execute(query.group_by(ranks.variant, unit, signals.type)).all()
    place = {(variant, key): at for at, (variant, key, _) in enumerate(shown)}
    types = sorted({row[2] for row in given})
    count, total = ({name: np.zeros(len(shown)) for name in types} for _ in range(2))
    for variant, key, name, number, value in given:
        count[name][place[variant, key]], total[name][place[variant, key]] = number, value
    size = np.array([row[2] for row in shown], np.float64)
    return UnitSignals([row[0] for row in shown], [row[1] for row in shown], size, count, total)


def segments(
    keys: Sequence[str], scorer: Scorer | None = None, users: "pd.DataFrame | None" = None
) -> Mapping[str, Any]:
    """Return the mask [U] of each segment of units; without a policy of ratings only that of all users.

    Args:
        keys: [U], user ids as JSON, or event ids.
        scorer: The champion as trained; None: it is no policy of ratings.
        users: Its user table, with or without the columns `age` and `gender`.
    """
    everybody = {ALL: np.ones(len(keys), bool)}
    if scorer is None or users is None:
        return everybody
    from recpolicy.evaluation.groups import make_groups  # loads pandas, which other requests do without

    ratings = np.bincount(scorer.artifact.rated_user, minlength=len(scorer.user_ids))
    groups = make_groups(users, ratings)
    row_of = {id_key(user): row for row, user in enumerate(scorer.user_ids)}
    row = np.array([row_of.get(key, -1) for key in keys], np.int64)
    known = row >= 0
    members = zip(groups.names, groups.of(row).member, strict=True)
    return everybody | {NEW: ~known} | {name: known & member for name, member in members}


def compare_signals(units: UnitSignals, masks: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each type of signal and segment: rate and mean value of both variants, and their differences.

    Args:
        units: U units.
        masks: Mask [U] of each segment.
    """
    variant, rows = np.array(units.variant, object), []
    for name in units.count:
        for segment, mask in masks.items():
            parts = {each: mask & (variant == each) for each in (CHAMPION, CHALLENGER)}
            if not mask.any():
                continue
            rate, value = units.count[name] / units.size, units.total[name] / units.size
            rows.append(
                {
                    "type": name, "segment": segment,
                    "users": {each: int(part.sum()) for each, part in parts.items()},
                    "rate": _compared(rate, units.size, parts, 1.0),
                    "value": _compared(value, units.size, parts, float(np.ptp(value))),
                }
            )  # fmt: skip
    return rows


def _compared(value: Array, size: Array, parts: Mapping[str, Any], width: float) -> dict[str, Any]:
    """Return the mean of each variant's units and the difference, challenger - champion, with intervals."""
    first, second = (_stats(value[part], size[part]) for part in (parts[CHAMPION], parts[CHALLENGER]))
    raised = pooled_variance_floor(first, second)
    means = [mean_reward(stats, _LEVEL, MIN_USERS, width).interval(_LEVEL).as_dict() for stats in raised]
    gap = difference(first, second, _LEVEL, MIN_USERS, width).interval(_LEVEL).as_dict()
    plain: dict[str, Any] = to_plain({CHAMPION: means[0], CHALLENGER: means[1], "difference": gap})
    return plain


def _stats(value: Array, size: Array) -> VariantStats:
    return VariantStats.from_sums(len(value), int(size.sum()), float(value.sum()), float(value @ value))
