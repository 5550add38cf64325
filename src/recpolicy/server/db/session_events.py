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

_MOST_EVENTS = 101
"""Latest events of a session that are read: a request has at most 100 items before it, each of a list of its own."""
_MOST_RECENT, _MOST_SESSIONS = 200, 8
"""Latest events of a user, and their sessions, among which a history without a session id looks for its own."""


class SessionEvent(NamedTuple):
    """A list of a session policy."""

    step: int
    item_ids: str
    """Item ids [K], JSON."""

    @property
    def items(self) -> list[Any]:
        """Item ids [K], first position first."""
        items: list[Any] = json.loads(self.item_ids)
        return items


class StoredSession(NamedTuple):
    """The events of a session, as far as a request needs them."""

    user_key: str
    last_step: int
    """Step of the latest event."""
    events: Sequence[SessionEvent]
    """Lists of session policies, by step; empty if only policies of single rounds have answered."""


def read_session(connection: Connection, session_id: str, with_items: bool = True) -> StoredSession | None:
    """Return a session; None if it has no events.

    Args:
        connection: The database.
        session_id: The id.
        with_items: False reads user and last step only, from one row.
    """
    items = (events.c.item_ids,) if with_items else ()
    query = select(events.c.user_key, events.c.step, events.c.history.is_not(None).label("seen"), *items)
    query = query.where(events.c.session_id == session_id).order_by(events.c.seq.desc())
    rows = connection.execute(query.limit(_MOST_EVENTS if with_items else 1)).all()
    if not rows:
        return None
    lists = [SessionEvent(row.step, row.item_ids) for row in reversed(rows) if row.seen] if with_items else []
    return StoredSession(rows[0].user_key, rows[0].step, sorted(lists, key=lambda event: event.step))


def read_recent_sessions(connection: Connection, user_key: str, since: int) -> list[str]:
    """Return the sessions of a user with an event since a time (ms since 1970), the latest first."""
    query = select(events.c.session_id, events.c.time).where(
        events.c.user_key == user_key, events.c.session_id.is_not(None)
    )
    rows = connection.execute(query.order_by(events.c.seq.desc()).limit(_MOST_RECENT))
    return list(dict.fromkeys(row.session_id for row in rows if row.time >= since))[:_MOST_SESSIONS]


def shown_items(lists: Sequence[SessionEvent]) -> list[Any] | None:
    """Return the items that a session showed before its last list; None if the store lacks one of its lists."""
    shown: list[Any] = []
    for event, following in pairwise(lists):
        shown += event.items[: following.step - event.step]
    return shown if lists and len(shown) == lists[-1].step else None


def find_conflict(
    session: StoredSession | None, user_key: str, history: Sequence[Any], lossless: bool = True
) -> str | None:
    """Return the reason why a request does not continue a session; None if it does.

    Args:
        session: The stored session; None for a new one.
        user_key: The user of the request.
        history: Item ids that the request says the session has shown, oldest first.
        lossless: False if events may be missing. Then only what a stored list contradicts is a conflict.
    """
    count = len(history)
    if session is None:
        if not count or not lossless:
            return None
        return f"the history has {count} items, but the session has shown none; begin a session with an empty history"
    if session.user_key != user_key:
        return "the session belongs to another user; begin another session"
    if not session.events:
        return None
    last = session.events[-1]
    if count <= last.step:
        return (
            f"the history has {count} items, but the session was at step {last.step} already; expected a history of"
            f" {last.step + 1} or more items"
        )
    expected = {event.step: event.items[0] for event in session.events}  # a list shows at least its first item
    shown = shown_items(session.events) if lossless else None
    if shown is not None:
        continued = [*shown, *last.items]
        if count > len(continued):
            lists = f"the lists of the session had {len(continued)}"
            return f"the history has {count} items, but {lists}; leave out the others"
        expected = dict(enumerate(continued[:count]))
    for place in sorted(expected):
        if history[place] != expected[place]:
            return (
                f"item {place} of the history is not the one that the session has shown there ({expected[place]!r});"
                " a session shows its lists from the top"
            )
    return None
