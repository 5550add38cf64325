"""Strategy events with final rewards, as rounds to learn from or to evaluate.

An event counts once its window is over. Without the traits of the user, who did not agree, it can be evaluated but not
learned. Rewards come from the signals by the function that training and exports use.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, select

from recpolicy.core.errors import DataError
from recpolicy.core.types import Array, Bools, Ints
from recpolicy.data.reward_signals import combined_rewards, signal_parts, within_range
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.rank_events import logged_choice
from recpolicy.server.db.schema import STRATEGY, rank_events, rank_signals
from recpolicy.strategies.config import SESSION, SITUATION, StrategyConfig
from recpolicy.strategies.rounds import StrategyRounds
from recpolicy.strategies.state import profile_values, situation_code

WAITING, NO_PROFILE, KEYLESS, OTHER_SCHEMA = "waiting", "no_profile", "no_key", "other_schema"
_ROWS_AT_ONCE, _IDS_AT_ONCE = 2_000, 500
_COLUMNS = ("id", "time", "user_key", "context", "probabilities", "ranking", "online", "mode")


@dataclass(frozen=True)
class StrategyEvents:
    """N strategy events with final rewards, oldest first."""

    rows: Sequence[Any]
    reward: Array  # [N], NaN without a signal and a default
    liked: Bools  # [N], True with a like
    rewarded: Bools  # [N], True with any signal
    context: Sequence[Mapping[str, Any]]
    left_out: Mapping[str, int]
    """Events whose windows are not over."""

    @property
    def unit(self) -> Ints:
        """Number [N] of the user, or of the event without one."""
        keys = [row.user_key or row.id for row in self.rows]
        return np.asarray(np.unique(keys, return_inverse=True)[1] if keys else np.empty(0, np.int64), np.int64)


def read_strategy_events(connection: Connection, config: StrategyConfig, since: int) -> StrategyEvents:
    """Return the strategy events since a time (milliseconds since 1970) whose windows are over."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    columns, final = rank_events.c, now_ms() - config.reward.wait_ms
    query = select(*(columns[name] for name in _COLUMNS)).where(columns.task == STRATEGY, columns.time >= since)
    every = connection.execute(query.order_by(columns.seq)).all()
    rows = [row for row in every if row.time <= final]
    place = {row.id: at for at, row in enumerate(rows)}
    given = _signals(connection, list(place), tuple(config.reward.weights))
    event = np.array([place[row.event_id] for row in given], np.int64)
    types, values = [row.type for row in given], np.array([row.value for row in given], np.float64)
    at, times = (np.array([row.time for row in several], np.int64) for several in (given, rows))
    parts = signal_parts(types, values, config.reward)
    reward = combined_rewards(event, parts, at, times, within_range(config.reward))
    likes = event[np.array([name == "like" for name in types], bool)]
    return StrategyEvents(
        rows, reward, np.bincount(likes, minlength=len(rows)) > 0, np.bincount(event, minlength=len(rows)) > 0,
        [json.loads(row.context) for row in rows], {WAITING: len(every) - len(rows)},
    )  # fmt: skip


def _signals(connection: Connection, ids: Sequence[str], types: Sequence[str]) -> Sequence[Any]:
    columns, given = rank_signals.c, list[Any]()
    query = select(columns.event_id, columns.type, columns.value, columns.time)
    for start in range(0, len(ids), _IDS_AT_ONCE):
        some = columns.event_id.in_(ids[start : start + _IDS_AT_ONCE])
        given += connection.execute(
            query.where(some, columns.late.is_(False), columns.type.in_(types)).order_by(columns.seq)
        ).all()
    return given


def learnable_rounds(events: StrategyEvents, config: StrategyConfig) -> tuple[StrategyRounds, dict[str, int]]:
    """Return the rounds that a policy may learn, and the numbers of events that are left out, by reason.

    Left out are events without a reward, without traits, without a key (anybody could have sent them), and those of
    another schema.
    """
    left_out = Counter(events.left_out)
    chosen, profiles, situations = [], [], []
    for at, (row, context) in enumerate(zip(events.rows, events.context, strict=True)):
        traits = {name: context[name] for name in config.profile.traits if name in context}
        if not traits or not math.isfinite(events.reward[at]):
            left_out[NO_PROFILE] += 1
        elif not row.online:
            left_out[KEYLESS] += 1
        else:
            try:
                profile = profile_values(traits, config)
                situation = [situation_code(part, context[part], config) for part in SITUATION]
            except (DataError, KeyError):
                left_out[OTHER_SCHEMA] += 1
                continue
            chosen.append(at)
            profiles.append(profile)
            situations.append(situation)
    rows = [events.rows[at] for at in chosen]
    choices = [logged_choice(row) for row in rows]
    rounds = StrategyRounds(
        event_id=_objects([row.id for row in rows]), time=np.array([row.time for row in rows], np.int64),
        user=_objects([row.user_key or row.id for row in rows]),
        profile=np.array(profiles, np.float64).reshape(len(rows), len(config.profile.traits)),
        situation=np.array(situations, np.int64).reshape(len(rows), len(SITUATION)),
        action=np.array([action for action, _ in choices], np.int64),
        log_propensity=np.minimum(np.log(np.array([propensity for _, propensity in choices], np.float64)), 0.0),
        reward=events.reward[np.array(chosen, np.int64)],
        session=_objects([events.context[at].get(SESSION) for at in chosen]),
    )  # fmt: skip
    return rounds, {reason: count for reason, count in left_out.items() if count}


def _objects(values: Sequence[Any]) -> Any:
    column = np.empty(len(values), object)
    column[:] = values
    return column
