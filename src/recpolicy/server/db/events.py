"""Events: one recommended list each, with the version, the variant and the propensities that produced it."""

import json
import secrets
import time
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, insert, select

from recpolicy.server.db.schema import events


@dataclass(frozen=True, kw_only=True)
class Event:
    """A list of K items recommended to one user: a row of the table `events`."""

    id: str
    time: int
    """Milliseconds since 1970, UTC."""
    user_key: str
    """User id, JSON."""
    version: int
    policy_digest: str
    agent: str
    variant: str
    rollout: int | None
    explored: bool
    item_ids: str
    """Item ids [K], first position first, JSON."""
    propensities: str
    """Propensities [K], each given the items before it, JSON."""
    ratings: str
    """Predicted ratings [K], JSON; null where the policy has none."""
    allowed: bytes | None = None
    """Packed bits over the version's catalog; None: every item was allowed."""
    context: bytes | None = None
    """The float32 context of a user whom the version does not know."""

    def row(self) -> dict[str, Any]:
        """Return the columns by name."""
        return dict(vars(self))


_random: deque[str] = deque()
"""Random digits, drawn for many ids at once."""


def now_ms() -> int:
    """Return the time in milliseconds since 1970, UTC."""
    return time.time_ns() // 1_000_000


def new_event_id() -> str:
    """Return 32 hexadecimal digits that grow with time, so the index grows at its end; 80 bits are random."""
    try:
        digits = _random.popleft()
    except IndexError:
        drawn = secrets.token_hex(10 * 256)
        _random.extend(drawn[start : start + 20] for start in range(20, len(drawn), 20))
        digits = drawn[:20]
    return f"{first_event_id(now_ms())}{digits}"


def first_event_id(time: int) -> str:
    """Return the lower bound of the ids of events at this time (milliseconds since 1970) or later."""
    return f"{time:012x}"


def id_key(identity: Hashable) -> str:
    """Return a user or item id as the database stores it."""
    return json.dumps(identity)


def insert_events(connection: Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Insert rows of new events. The caller commits."""
    connection.execute(insert(events), list(rows))


def existing_ids(connection: Connection, ids: Iterable[str]) -> set[str]:
    """Return the event ids that exist in the database."""
    return set(connection.scalars(select(events.c.id).where(events.c.id.in_(list(ids)))))
