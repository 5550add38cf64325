"""Export of ranked events as a feature log (data/feature_log_files.py): each slot of an event becomes a round.

A round appears once its reward is final: the event is active, and its window is over. Its reward comes from the
signals by the function that training uses. Jobs read such a log into memory; rank_export.py writes it in parts.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, Engine, func, select

from recpolicy.core.errors import DataError
from recpolicy.core.progress import progress
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.feature_log_builder import FeatureLogBuilder
from recpolicy.data.feature_log_files import write_feature_log
from recpolicy.data.reward_signals import RewardConfig, combined_rewards, signal_parts, within_range
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.guardrail_record import closed_offers
from recpolicy.server.db.rank_events import DIGEST_BYTES, logged_choice
from recpolicy.server.db.schema import STRATEGY, action_rows, rank_events, rank_signals

WAITING, INACTIVE, DAMAGED, INCOMPLETE = "waiting", "inactive", "damaged", "incomplete"
_ROWS_AT_ONCE = 2_000


@dataclass(frozen=True)
class FeaturesExported:
    """The content of a feature log after an export."""

    rounds: int
    actions: int
    signals: int
    """Signals that count."""
    left_out: Mapping[str, int]
    """Events left out: waiting (their window is not over), inactive (deferred, not activated), damaged, or incomplete
    (without the traits)."""

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as plain JSON values."""
        return asdict(self)


def export_strategies(
    engine: Engine, reward: RewardConfig, traits: Sequence[str], out: Path, show_progress: bool | None = False
) -> FeaturesExported:
    """Write the events of the strategy engine that have the traits as a feature log in the folder `out`.

    Raises DataError if there is no event to export, or the folder holds another log.
    """
    log, exported = collect_features(
        engine, reward, str(out), task=STRATEGY, needed=traits, show_progress=show_progress
    )  # fmt: skip
    if log is None:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(exported.left_out.items())) or "none"
        raise DataError(f"no event of a strategy has a final reward and the traits yet; left out: {counts}")
    write_feature_log(log, out)
    return exported


def collect_features(
    engine: Engine, reward: RewardConfig, name: str, since: int = 0, until: int | None = None,
    *, version: int | None = None, task: str | None = None, show_progress: bool | None = False,
    needed: Sequence[str] = (),
) -> tuple[FeatureLog | None, FeaturesExported]:  # fmt: skip
    """Return the ranked events between two times as a feature log, None if there are none; and the counts.

    Args:
        engine: The database.
        reward: The settings of rewards; combined rewards beyond its range take the nearest value of the range.
        name: Name of the log.
        since: First time, in milliseconds since 1970.
        until: Time after the last event; None takes all.
        version: Only events of this version; None takes all.
        task: STRATEGY takes the events of strategies; None takes the ranks of the caller's actions.
        show_progress: As in core/progress.py.
        needed: Context features that an event must have.
    """
    builder, left_out, keys = FeatureLogBuilder(name, reward.reward_range), Counter[str](), dict[tuple[str, int], int]()
    reward = within_range(reward)
    final = now_ms() - reward.wait_ms
    conditions = [
        rank_events.c.time >= since,
        rank_events.c.task.is_(None) if task is None else rank_events.c.task == task,
    ]
    conditions += [] if until is None else [rank_events.c.time < until]
    conditions += [] if version is None else [rank_events.c.version == version]
    times: list[int] = []
    with engine.connect() as connection:
        total = connection.scalar(select(func.count()).select_from(rank_events).where(*conditions)) or 0
    with engine.connect() as connection, progress("export ranks", total, unit="events", show=show_progress) as shown:
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        actions = Actions(connection)
        query = select(rank_events).where(*conditions).order_by(rank_events.c.seq)
        with engine.connect() as reading:
            for part in reading.execution_options(yield_per=_ROWS_AT_ONCE).execute(query).partitions():
                actions.load(part)
                for row in part:
                    reason = _refusal(row, final, needed) or add_round(builder, row, actions)
                    if reason is None:
                        keys[row.id, row.slot] = len(times)
                        times.append(row.time)
                    else:
                        left_out[reason] += 1
                shown.advance(len(part))
        signals_since = _read_signals(connection, rank_signals.c.time >= since)
        rewards, signals = rewards_of(signals_since, keys, np.array(times, np.int64), reward)
    if not times:
        return None, FeaturesExported(0, 0, 0, left_out)
    log = replace(builder.build(), reward=rewards)
    return log, FeaturesExported(len(log), len(log.action_id), signals, left_out)


def log_of_rows(connection: Connection, rows: Sequence[Any], reward: RewardConfig, name: str) -> FeatureLog | None:
    """Return rows of `rank_events` as a log; None if none can be read."""
    builder, keys, times = FeatureLogBuilder(name, reward.reward_range), dict[tuple[str, int], int](), list[int]()
    reward, actions = within_range(reward), Actions(connection)
    actions.load(rows)
    for row in rows:
        if add_round(builder, row, actions) is None:
            keys[row.id, row.slot] = len(times)
            times.append(row.time)
    if not times:
        return None
    rewards, _ = rewards_of(signals_of(connection, list(keys)), keys, np.array(times, np.int64), reward)
    return replace(builder.build(), reward=rewards)


def _refusal(row: Any, final: int, needed: Sequence[str] = ()) -> str | None:
    if row.activated_at is None:
        return INACTIVE
    if row.time > final:
        return WAITING
    if needed and not {*needed} <= json.loads(row.context).keys():
        return INCOMPLETE
    return None


class Actions:
    """The actions of the events, each parsed once."""

    def __init__(self, connection: Connection):
        self._connection = connection
        self._known: dict[bytes, tuple[int | str, Mapping[str, Any]]] = {}

    def load(self, events: Any) -> None:
        """Read the actions of some events."""
        wanted = {digest for event in events for digest in _digests(event)} - self._known.keys()
        for start in range(0, len(wanted), 500):
            some = sorted(wanted)[start : start + 500]
            for row in self._connection.execute(select(action_rows).where(action_rows.c.digest.in_(some))):
                plain = json.loads(row.row)
                self._known[row.digest] = plain["id"], plain["features"]

    def of(self, event: Any) -> list[tuple[int | str, Mapping[str, Any]]]:
        """Return ids and features of an event's actions; raises KeyError for a missing one."""
        return [self._known[digest] for digest in _digests(event)]


def _digests(event: Any) -> list[bytes]:
    return [event.offers[start : start + DIGEST_BYTES] for start in range(0, len(event.offers), DIGEST_BYTES)]


def add_round(builder: FeatureLogBuilder, row: Any, actions: Actions) -> str | None:
    """Add the round of an event, without the offers that guardrails closed; return the reason if it cannot be read."""
    try:
        chosen, propensity = logged_choice(row)
        offers, closed = actions.of(row), closed_offers(row.guardrails, len(row.ranking) // 2)
        offers = [offer for offer, shut in zip(offers, closed.tolist(), strict=True) if not shut]
        builder.add(
            event_id=row.id if row.slot_id is None else f"{row.id} slot {row.slot_id}",
            time=row.time, context=json.loads(row.context), actions=offers,
            chosen=chosen - int(closed[:chosen].sum()),
            log_propensity=min(math.log(propensity), 0.0),
            user=None if row.user_key is None else json.loads(row.user_key),
            policy=row.agent, version=row.policy_digest,
        )  # fmt: skip
    except (DataError, KeyError, ValueError, IndexError):
        return DAMAGED
    return None


def _read_signals(connection: Connection, condition: ColumnElement[bool]) -> Iterator[Any]:
    """Yield signals that are not late, in the order of writing."""
    columns = rank_signals.c
    query = select(columns.event_id, columns.slot, columns.type, columns.value, columns.time)
    query = query.where(condition, columns.late.is_(False)).order_by(columns.seq)
    for part in connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query).partitions():
        yield from part


def signals_of(connection: Connection, keys: Sequence[tuple[str, int]]) -> Iterator[Any]:
    """Yield the signals of some events; the table of all signals may be large."""
    ids = list(dict.fromkeys(event_id for event_id, _ in keys))
    for start in range(0, len(ids), 500):
        yield from _read_signals(connection, rank_signals.c.event_id.in_(ids[start : start + 500]))


def rewards_of(
    signals: Iterable[Any], keys: Mapping[tuple[str, int], int], times: Any, reward: RewardConfig
) -> tuple[Any, int]:
    """Return the reward of each round [N], NaN for none, and the number of signals that count.

    Args:
        signals: Signals, those of an event in the order of writing.
        keys: The rounds, by id and slot of their events.
        times: Times of the rounds [N].
        reward: The settings of rewards.
    """
    rounds, types, values, at = [], [], [], []
    for row in signals:
        place = keys.get((row.event_id, row.slot))
        if place is not None and row.type in reward.weights:
            rounds.append(place)
            types.append(row.type)
            values.append(row.value)
            at.append(row.time)
    parts = signal_parts(types, np.array(values, np.float64), reward)
    rewards = combined_rewards(np.array(rounds, np.int64), parts, np.array(at, np.int64), times, reward)
    return rewards, len(rounds)
