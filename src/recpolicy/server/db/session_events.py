"""The stored events of sessions, and the items that a session has shown, as far as the events tell.

A session shows each of its lists from the top. The step of an event is the number of items that the session has shown
before it, so the steps of two neighboring events tell how many items of the earlier list were shown.
"""

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

from sqlalchemy import Connection, select

from recpolicy.server.db.schema import events


class SessionEvent(NamedTuple):
    """A list of a session."""

    user_key: str
    step: int
    item_ids: str
    """Item ids [K], JSON."""

    @property
    def items(self) -> list[Any]:
        """Item ids [K], first position first."""
        items: list[Any] = json.loads(self.item_ids)
        return items


def read_sessions(connection: Connection, session_ids: Sequence[str]) -> dict[str, list[SessionEvent]]:
    """Return the events of each session that has any, by step."""
    columns = (events.c.session_id, events.c.user_key, events.c.step, events.c.item_ids)
    query = select(*columns).where(events.c.session_id.in_(session_ids)).order_by(events.c.step, events.c.seq)
    sessions: dict[str, list[SessionEvent]] = {}
    for session_id, *fields in connection.execute(query):
        sessions.setdefault(session_id, []).append(SessionEvent(*fields))
    return sessions


def read_latest_session(connection: Connection, user_key: str, since: int) -> str | None:
    """Return the session of the user's latest event with one; None if it was before `since`, in ms since 1970."""
    query = select(events.c.session_id, events.c.time).where(
        events.c.user_key == user_key, events.c.session_id.is_not(None)
    )
    row = connection.execute(query.order_by(events.c.seq.desc()).limit(1)).first()
    return None if row is None or row.time < since else str(row.session_id)


def shown_items(session: Sequence[SessionEvent]) -> list[Any] | None:
    """Return the items that a session showed before its last event; None if the store lacks one of its events."""
    shown: list[Any] = []
    for event, following in pairwise(session):
        shown += event.items[: following.step - event.step]
    return shown if session and len(shown) == session[-1].step else None


def find_conflict(session: Sequence[SessionEvent], user_key: str, history: Sequence[Any]) -> str | None:
    """Return the reason why a request does not continue a session; None if it does.

    Args:
        session: The stored events of the session, by step; empty for a new one.
        user_key: The user of the request.
        history: Item ids that the request says the session has shown, oldest first.
    """
    count = len(history)
    if not session:
        if not count:
            return None
        return f"the history has {count} items, but the session has shown none; begin a session with an empty history"
    last = session[-1]
    if last.user_key != user_key:
        return "the session belongs to another user; begin another session"
    if count <= last.step:
        return (
            f"the history has {count} items, but the session was at step {last.step} already; expected a history of"
            f" {last.step + 1} or more items"
        )
    shown = shown_items(session)
    if shown is None:
        return None
    continued = [*shown, *last.items]
    if count > len(continued):
        return f"the history has {count} items, but the lists of the session had {len(continued)}; leave out the others"
    for place, (item, expected) in enumerate(zip(history, continued, strict=False)):
        if item != expected:
            return (
                f"item {place} of the history is not the one that the session has shown there ({expected!r});"
                " a session shows its lists from the top"
            )
    return None
