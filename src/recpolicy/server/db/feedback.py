"""Feedback: what a user did with an item of an event, and the one reward that it gives.

The first feedback on an item of an event sets its reward; what comes later is kept, and changes nothing. The same
feedback sent twice is taken once; another value for what was said already is refused. All of a batch is decided in one
transaction, and unique keys decide between processes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from recpolicy.server.db.schema import events, feedback, rewards

DAY_MS = 24 * 3600 * 1000
KINDS = ("rating", "like", "skip", "complete", "share", "watch_fraction")


@dataclass(frozen=True)
class FeedbackItem:
    """One piece of feedback."""

    event_id: str
    item: Any
    """Item id; None: the first of the event."""
    kind: str
    value: float


@dataclass(frozen=True)
class Outcome:
    """What became of it: accepted, late or duplicate; unknown_event, unknown_item, conflict or off_scale: refused."""

    status: str
    message: str = ""
    reward: float | None = None
    """The reward that it set, on the scale of the ratings; None where it set none."""


@dataclass(frozen=True)
class RewardRules:
    """How feedback becomes a reward."""

    scale: tuple[float, float]
    window_ms: int
    """Feedback on events older than this is late: it is kept, and gives no reward."""


def reward_of(said: FeedbackItem, scale: tuple[float, float]) -> float:
    """The reward of a piece of feedback: a rating is itself, a watched fraction lies between the ends of the scale."""
    low, high = scale
    if said.kind == "rating":
        return said.value
    if said.kind == "watch_fraction":
        return low + said.value * (high - low)
    return low if said.kind == "skip" else high


def apply_feedback(
    connection: Connection, batch: Sequence[FeedbackItem], time: int, rules: RewardRules
) -> list[Outcome]:
    """Take the batch in order; returns an outcome for each. The caller commits."""
    ids = {said.event_id for said in batch}
    rows = connection.execute(select(events).where(events.c.id.in_(ids))).mappings()
    found = {row["id"]: row for row in rows}
    given = _given(connection, found)
    return [_take_one(connection, said, found.get(said.event_id), given, time, rules) for said in batch]


def _given(connection: Connection, ids: Mapping[str, Any]) -> dict[tuple[str, int, str], float]:
    columns = (feedback.c.event_id, feedback.c.position, feedback.c.kind, feedback.c.value)
    rows = connection.execute(select(*columns).where(feedback.c.event_id.in_(list(ids))))
    return {(event, position, kind): value for event, position, kind, value in rows}


def _take_one(
    connection: Connection,
    said: FeedbackItem,
    event: Any,
    given: dict[tuple[str, int, str], float],
    time: int,
    rules: RewardRules,
) -> Outcome:
    if event is None:
        return Outcome("unknown_event", "no event with this id; use the event_id of a recommendation")
    items = json.loads(event["item_ids"])
    if said.item is not None and said.item not in items:
        return Outcome("unknown_item", "this item was not recommended in that event")
    reward = reward_of(said, rules.scale)
    if not rules.scale[0] <= reward <= rules.scale[1]:
        return Outcome("off_scale", f"a rating lies within {rules.scale[0]:g} and {rules.scale[1]:g}")
    position = 0 if said.item is None else items.index(said.item)
    key = (said.event_id, position, said.kind)
    if key not in given:
        late = time - event["time"] > rules.window_ms
        row = {"event_id": said.event_id, "position": position, "time": time}
        if _insert(connection, feedback, {**row, "kind": said.kind, "value": said.value, "late": late}):
            given[key] = said.value
            return Outcome("late") if late else _reward(connection, event, {**row, "reward": reward})
        given |= _given(connection, {said.event_id: None})  # another process was faster
    if given[key] == said.value:
        return Outcome("duplicate")
    return Outcome("conflict", f"{said.kind} was given before with another value; the first one counts")


def _reward(connection: Connection, event: Any, row: dict[str, Any]) -> Outcome:
    names = ("user_key", "version", "variant", "rollout", "explored")
    first = _insert(connection, rewards, {**row, **{name: event[name] for name in names}})
    return Outcome("accepted", reward=row["reward"] if first else None)


def _insert(connection: Connection, table: Any, row: dict[str, Any]) -> bool:
    """Whether the row was new."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table).values(row).on_conflict_do_nothing().returning(table.c.seq)
    return connection.scalar(statement) is not None
