"""Events: what was shown to whom, by which version, and with what probability."""

import json
import secrets
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from recpolicy.server.db.clock import now_ms
from recpolicy.server.db.schema import events


@dataclass(frozen=True, kw_only=True)
class Event:
    """One list of items shown to one user."""

    id: str
    time: int
    """Milliseconds since 1970."""
    user: Hashable
    version: int
    content: str
    agent: str
    variant: str
    rollout: int | None
    explored: bool
    items: Sequence[Hashable]
    """Item ids [K], first place first."""
    propensities: Sequence[float]
    """[K], each given the items before it."""
    ratings: Sequence[float | None]
    """Predicted ratings [K]."""
    allowed: bytes | None = None
    """Which arms of the version's catalogue could be shown, as packed bits; None: all."""
    context: bytes | None = None
    """The float32 context of a user whom the version does not know."""


_random: deque[str] = deque()
"""Random digits, drawn for many ids at once."""


def new_event_id() -> str:
    """32 hexadecimal digits that grow with time (so that the index grows at its end); 80 bits are random."""
    try:
        digits = _random.popleft()
    except IndexError:
        drawn = secrets.token_hex(10 * 256)
        _random.extend(drawn[start : start + 20] for start in range(20, len(drawn), 20))
        digits = drawn[:20]
    return f"{first_event_id(now_ms())}{digits}"


def first_event_id(time: int) -> str:
    """What no id of an event at this time (milliseconds since 1970) or later lies before."""
    return f"{time:012x}"


def key_of(identity: Hashable) -> str:
    """A user or item id as the store writes it."""
    return json.dumps(identity)


def row_of(event: Event) -> dict[str, Any]:
    """The event as a row of the table (also as a line of the spool, but for its bytes)."""
    row = {name: getattr(event, name) for name in _PLAIN}
    return {
        **row,
        "user_key": key_of(event.user),
        "item_ids": json.dumps(list(event.items)),
        "propensities": json.dumps(list(event.propensities)),
        "ratings": json.dumps(list(event.ratings)),
    }


_PLAIN = ("id", "time", "version", "content", "agent", "variant", "rollout", "explored", "allowed", "context")


def write_rows(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows of events that are not there yet."""
    connection.execute(insert(events), list(rows))


def known_ids(connection: Connection, ids: Iterable[str]) -> set[str]:
    """Which of these events are in the store."""
    wanted = list(ids)
    return set(connection.scalars(select(events.c.id).where(events.c.id.in_(wanted))))
