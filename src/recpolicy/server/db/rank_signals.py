"""Signals that reward a ranked event, and the activation of a deferred one.

The server stores each signal as it arrives. The reward of an event is computed from its signals when it is needed
(data/reward_signals.py), so that all signals within the window count, in any order. A signal after the window is
stored and marked as late; it counts nowhere.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import BindParameter, Connection, bindparam, select, update

from recpolicy.core.errors import DataError
from recpolicy.data.reward_signals import RewardConfig, check_signal
from recpolicy.server.db.engine import upsert
from recpolicy.server.db.feedback import Outcome
from recpolicy.server.db.schema import RANK, UNFILLED, rank_events, rank_signals

_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
# On PostgreSQL the lock keeps the events until the commit: a deletion in between would fail the whole group.
_EVENTS = (
    select(*(rank_events.c[name] for name in ("id", "slot", "slot_id", "time", "activated_at", "version", "task")))
    .where(rank_events.c.id.in_(_IDS))
    .order_by(rank_events.c.slot)
    .with_for_update(read=True, key_share=True)
)


@dataclass(frozen=True)
class RankSignal:
    """One signal on a ranked event, such as a click or a reward that the caller computed."""

    event_id: str
    type: str
    value: float
    slot_id: str | None = None
    """Id of the slot; None: the event has no slots, or its first one."""
    signal_id: str | None = None
    """A signal with an id counts once, however often it arrives."""
    has_key: bool = True
    """False: online learning leaves the signal out, because anybody could have sent it."""


@dataclass(frozen=True)
class Activation:
    """The caller has used a deferred event."""

    event_id: str


def apply_rank_actions(
    connection: Connection, batch: Sequence[RankSignal | Activation], time: int, window_ms: int,
    rewards: Mapping[str, RewardConfig] | None = None,
) -> list[Outcome]:  # fmt: skip
    """Store signals and activations in order; return an outcome for each. The caller commits.

    Signals on events older than `window_ms` are late; where the task of the event has a reward in `rewards`, its window
    counts, and a signal that it cannot use is refused.

    Statuses of signals: accepted, inactive (it counts once the event is activated), late, duplicate, conflict,
    unknown_event, unknown_slot or invalid_value. Statuses of activations: activated, already_active or unknown_event.
    """
    events: dict[str, list[Any]] = {}
    for row in connection.execute(_EVENTS, {"ids": list({each.event_id for each in batch})}):
        events.setdefault(row.id, []).append(row)
    activated: set[str] = set()
    return [
        _activate(connection, each, events.get(each.event_id), time, activated)
        if isinstance(each, Activation)
        else _store_signal(connection, each, events.get(each.event_id), time, window_ms, activated, rewards or {})
        for each in batch
    ]


def _activate(
    connection: Connection, activation: Activation, slots: Sequence[Any] | None, time: int, activated: set[str]
) -> Outcome:
    if slots is None:
        return Outcome("unknown_event", "no event has this id; use the event_id of a rank")
    if slots[0].activated_at is not None or activation.event_id in activated:
        return Outcome("already_active")
    activated.add(activation.event_id)
    mine = rank_events.c.id == activation.event_id
    connection.execute(update(rank_events).where(mine, rank_events.c.activated_at.is_(None)).values(activated_at=time))
    return Outcome("activated")


def _store_signal(
    connection: Connection, signal: RankSignal, slots: Sequence[Any] | None, time: int, window_ms: int,
    activated: set[str], rewards: Mapping[str, RewardConfig],
) -> Outcome:  # fmt: skip
    if slots is None:
        return Outcome("unknown_event", "no event has this id; use the event_id of a rank")
    slot = slots[0] if signal.slot_id is None else next((one for one in slots if one.slot_id == signal.slot_id), None)
    if slot is None:
        return Outcome("unknown_slot", "the event has no slot with this id")
    if slot.task == UNFILLED:
        return Outcome("unknown_slot", "the slot has no action, so there is nothing to reward")
    reward = rewards.get(slot.task or RANK)
    if reward is not None:
        try:
            check_worth(signal, reward)
        except DataError as error:
            return Outcome("invalid_value", str(error))
    late = time - slot.time > (window_ms if reward is None else reward.wait_ms)
    values: Mapping[str, Any] = {
        "event_id": signal.event_id, "slot": slot.slot, "signal_id": signal.signal_id, "type": signal.type,
        "value": signal.value, "time": time, "late": late, "online": signal.has_key,
    }  # fmt: skip
    if connection.scalar(_insert_statement(connection.dialect.name), values) is None:
        return _repeated(connection, signal, slot.slot)
    if late:
        return Outcome("late", "the signal came after the window of the rewards; it is stored and counts nowhere")
    if slot.activated_at is None and signal.event_id not in activated:
        return Outcome("inactive", "the event is deferred; the signal counts once the event is activated")
    return Outcome("accepted", online=signal.has_key, version=slot.version, task=slot.task or RANK)


def check_worth(signal: RankSignal, reward: RewardConfig) -> None:
    """Raise DataError for a signal that a reward cannot use: without a weight, or with a worth beyond the range."""
    check_signal(signal.type, signal.value, reward)
    worth = reward.weights[signal.type] * signal.value
    low, high = reward.reward_range or (worth, worth)
    if not min(low, 0.0) <= worth <= max(high, 0.0):
        raise DataError(f"the signal is worth {worth:g}; expected a reward from {low:g} to {high:g}")


def _repeated(connection: Connection, signal: RankSignal, slot: int) -> Outcome:
    """Return the outcome of a signal whose id the event has already."""
    columns = rank_signals.c
    known = connection.execute(
        select(columns.type, columns.value).where(
            columns.event_id == signal.event_id, columns.slot == slot, columns.signal_id == signal.signal_id
        )
    ).one()
    if (known.type, known.value) == (signal.type, signal.value):
        return Outcome("duplicate")
    return Outcome("conflict", "the server already has this signal with another type or value; the first one counts")


@cache
def _insert_statement(dialect: str) -> Any:
    return upsert(dialect, rank_signals).on_conflict_do_nothing().returning(rank_signals.c.seq)
