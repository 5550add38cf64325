"""Feedback on an item of an event, and the one reward that it sets.

The first feedback on an item of an event sets its reward; later feedback is stored and changes nothing. The same
feedback sent twice is stored once; the same type with another value is rejected. A batch is one transaction, and unique
keys decide between processes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from sqlalchemy import BindParameter, Connection, Table, bindparam, select

from recpolicy.data.reward_signals import RewardConfig
from recpolicy.server.db.engine import upsert
from recpolicy.server.db.keyless_feedback import KeylessBound
from recpolicy.server.db.schema import LIST, events, feedback, rewards
from recpolicy.server.db.user_ratings import add_rating

DAY_MS = 24 * 3600 * 1000
REWARD_TYPES = ("rating", "like", "skip", "complete", "share", "watch_fraction")
"""Types of feedback that set a reward."""
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
# Statements are made once: each is a cycle of objects, so making one per request left 8 KiB for the garbage collector.
# On PostgreSQL the lock keeps the events until the commit: a deletion in between would fail the whole batch.
_EVENTS = select(events).where(events.c.id.in_(_IDS)).with_for_update(read=True, key_share=True)
_KNOWN = select(feedback.c.event_id, feedback.c.position, feedback.c.type, feedback.c.value).where(
    feedback.c.event_id.in_(_IDS)
)
FeedbackValues = dict[tuple[str, int, str], float]
"""Values by event, position and type."""


@dataclass(frozen=True)
class FeedbackItem:
    """One piece of feedback."""

    event_id: str
    item: Any
    """Item id; None: the first item of the event."""
    type: str
    value: float
    keyless_client: str | None = None
    """Address of a caller without a key; None: the caller has a key."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one piece of feedback.

    `status` is accepted, late or duplicate; or, for rejected feedback, unknown_event, unknown_item, conflict or
    rating_out_of_range.
    """

    status: str
    message: str = ""
    reward: float | None = None
    """The reward that it set, on the scale of the ratings; None if it set none."""
    online: bool = True
    """False: online learning does not learn from the reward."""
    version: int | None = None
    """Version of the event that accepted feedback or a signal belongs to; None for another outcome."""
    task: str = LIST
    """Task of that event."""


@dataclass(frozen=True)
class RewardRules:
    """The rules that turn feedback into a reward."""

    scale: tuple[float, float]
    window_ms: int
    """Feedback on events older than this is late: it is stored and sets no reward."""
    keyless: KeylessBound = field(default_factory=lambda: KeylessBound(0))
    """Decides about online learning from feedback without a key."""
    signal_window_ms: int = 7 * DAY_MS
    """Signals on ranked events older than this are late: they are stored and count nowhere."""
    user_signals: frozenset[str] = frozenset()
    """Types of feedback that move the posterior of their user; empty: none does."""
    rewards: Mapping[str, RewardConfig] = field(default_factory=dict)
    """Settings of rewards by task, where ranks and strategies are served: a signal must suit its event."""


def compute_reward(item: FeedbackItem, scale: tuple[float, float]) -> float:
    """Return the reward of a piece of feedback.

    A rating is its own reward, a watched fraction lies between the ends of the scale, and the other types are an end.
    """
    low, high = scale
    if item.type == "rating":
        return item.value
    if item.type == "watch_fraction":
        return low + item.value * (high - low)
    return low if item.type == "skip" else high


def sets_reward(feedback_type: str) -> bool:
    """Return False for a metric that the settings name: it is stored and counted, and is no reward."""
    return feedback_type in REWARD_TYPES


def apply_feedback(
    connection: Connection, batch: Sequence[FeedbackItem], time: int, rules: RewardRules
) -> list[Outcome]:
    """Store the batch in order and return an outcome for each piece. The caller commits."""
    rows = connection.execute(_EVENTS, {"ids": list({item.event_id for item in batch})}).mappings()
    by_id = {row["id"]: row for row in rows}
    known = _known_feedback(connection, by_id)
    return [_apply_one(connection, item, by_id.get(item.event_id), known, time, rules) for item in batch]


def _known_feedback(connection: Connection, ids: Mapping[str, Any]) -> FeedbackValues:
    rows = connection.execute(_KNOWN, {"ids": list(ids)})
    return {(event, position, feedback_type): value for event, position, feedback_type, value in rows}


def _apply_one(
    connection: Connection, item: FeedbackItem, event: Any, known: FeedbackValues, time: int, rules: RewardRules
) -> Outcome:
    if event is None:
        return Outcome("unknown_event", "no event has this id; use the event_id of a recommendation")
    items = json.loads(event["item_ids"])
    if item.item is not None and item.item not in items:
        return Outcome("unknown_item", "the event did not recommend this item")
    reward, (low, high) = compute_reward(item, rules.scale), rules.scale
    if sets_reward(item.type) and not low <= reward <= high:
        return Outcome("rating_out_of_range", f"expected a rating from {low:g} to {high:g}")
    position = 0 if item.item is None else items.index(item.item)
    key = (item.event_id, position, item.type)
    if key not in known:
        late = time - event["time"] > rules.window_ms
        row = {"event_id": item.event_id, "position": position, "time": time}
        if _insert(connection, feedback, {**row, "type": item.type, "value": item.value, "late": late}):
            known[key] = item.value
            if late:
                return Outcome("late")
            if not sets_reward(item.type):
                return Outcome("accepted", version=event["version"])
            client = item.keyless_client
            online = client is None or rules.keyless.admits(client, json.dumps(items[position]))
            if online and item.type in rules.user_signals:
                add_rating(connection, event["user_key"], items[position], reward, time)
            return _set_reward(connection, event, {**row, "reward": reward, "online": online})
        known |= _known_feedback(connection, {item.event_id: None})  # another process was faster
    if known[key] == item.value:
        return Outcome("duplicate")
    return Outcome(
        "conflict", f"the server already has {item.type} feedback with another value; the first value counts"
    )


def _set_reward(connection: Connection, event: Any, row: dict[str, Any]) -> Outcome:
    names = ("user_key", "version", "variant", "rollout", "explored")
    first = _insert(connection, rewards, {**row, **{name: event[name] for name in names}})
    reward = row["reward"] if first else None
    return Outcome("accepted", reward=reward, online=row["online"], version=event["version"])


def _insert(connection: Connection, table: Any, row: dict[str, Any]) -> bool:
    """Insert a row unless its key exists; return True if it was new."""
    return connection.scalar(_insert_statement(connection.dialect.name, table), row) is not None


@cache
def _insert_statement(dialect: str, table: Table) -> Any:
    return upsert(dialect, table).on_conflict_do_nothing().returning(table.c.seq)
