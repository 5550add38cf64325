"""The sessions of requests: which session a list belongs to, and at which step.

A request may name its session. Without a name, a session policy begins a session at an empty history, or continues the
user's latest session if the history fits and the session is not older than a gap. Requests of other policies without a
name belong to no session and read nothing.

A database that is down, or does not answer within READ_SECONDS, delays no request further: then the event keeps the
session and step that the request claims, and the export checks the session as a whole.
"""

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from recpolicy.core.errors import SessionError
from recpolicy.server.db.events import id_key, now_ms
from recpolicy.server.db.failures import failure_reason
from recpolicy.server.db.session_events import (
    SessionEvent,
    find_conflict,
    read_latest_session,
    read_sessions,
)
from recpolicy.server.live_models import LiveState
from recpolicy.server.schemas.requests import Instance, RecommendRequest

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from recpolicy.server.db.writer import GroupCommitWriter

logger = logging.getLogger(__name__)

READ_SECONDS = 1.0
"""Longest time that a request waits for its session."""
_MAX_READS = 8
"""Reads at the same time; beyond, or behind reads that hang, a session counts as unread."""
_MINUTE_MS = 60_000


class SessionStore(Protocol):
    """The database that has the sessions."""

    @property
    def engine(self) -> "Engine":
        """The database."""

    @property
    def writer(self) -> "GroupCommitWriter":
        """The writer of its events."""


@dataclass(frozen=True)
class SessionPlace:
    """The place of a list in a session."""

    session_id: str
    step: int

    @property
    def note(self) -> bytes:
        """The field of the response, JSON after a comma."""
        return b',"session":{"id":"%b","step":%d}' % (self.session_id.encode(), self.step)


@dataclass(frozen=True)
class RequestSessions:
    """The stored sessions that requests may continue."""

    sessions: Mapping[str, Sequence[SessionEvent]] = field(default_factory=dict)
    """Events by session."""
    latest: Mapping[str, str] = field(default_factory=dict)
    """The latest session of each user who has one within the gap, by user key."""
    is_read: bool = False
    """False: nothing is known, and nothing is checked."""

    def place(self, request: RecommendRequest | Instance, user_key: str, sequential: bool) -> SessionPlace | None:
        """Return the session and the step of a list; None if it belongs to no session.

        Args:
            request: The request.
            user_key: Its user.
            sequential: True for a session policy; the step of another policy is the number of earlier lists.

        Raises:
            SessionError: The request does not continue the session that it names.
        """
        history = [each.item for each in request.history or ()]
        if request.session_id is None:
            return self._own_place(user_key, history) if sequential else None
        session = self.sessions.get(request.session_id, ())
        if not sequential:
            if session and session[-1].user_key != user_key:
                raise SessionError(f"session_id {request.session_id}: {find_conflict(session, user_key, history)}")
            return SessionPlace(request.session_id, session[-1].step + 1 if session else 0)
        conflict = find_conflict(session, user_key, history) if self.is_read else None
        if conflict is not None:
            raise SessionError(f"session_id {request.session_id}: {conflict}")
        return SessionPlace(request.session_id, len(history))

    def _own_place(self, user_key: str, history: Sequence[Any]) -> SessionPlace | None:
        """Return the place in a session that the server makes, or has made; None if the history fits none."""
        if not history:
            return SessionPlace(secrets.token_hex(16), 0)
        session_id = self.latest.get(user_key)
        if session_id is None or find_conflict(self.sessions.get(session_id, ()), user_key, history) is not None:
            return None
        return SessionPlace(session_id, len(history))


NO_SESSIONS = RequestSessions()
"""Nothing is known of any session."""


class SessionService:
    """The sessions of one process.

    Args:
        store: The database; None: the server stores nothing, and checks nothing.
        gap_minutes: Minutes without a request after which the server begins another session.
    """

    def __init__(self, store: SessionStore | None, gap_minutes: float):
        self._store, self._gap_ms = store, round(gap_minutes * _MINUTE_MS)
        self._reads = 0
        self._failure = ""
        self.unread = 0
        """Requests that were answered without a look at their sessions, since the start."""

    async def read(self, live: LiveState, requests: Sequence[RecommendRequest | Instance]) -> RequestSessions:
        """Return the stored sessions that requests may continue; reads nothing if none can."""
        named = [request.session_id for request in requests if request.session_id is not None]
        unnamed = [id_key(request.user) for request in requests if request.session_id is None and request.history]
        if self._store is None or not (named or (unnamed and _any_sequential(live))):
            return NO_SESSIONS
        writer = self._store.writer
        if self._reads < _MAX_READS and not writer.down and not writer.spooled:
            self._reads += 1
            task = asyncio.get_running_loop().run_in_executor(None, self._read, named, unnamed)
            task.add_done_callback(self._end_read)
            done, _ = await asyncio.wait([task], timeout=READ_SECONDS)
            if done and task.exception() is None:
                return task.result()
        self.unread += len(requests)
        return NO_SESSIONS

    def _end_read(self, task: "asyncio.Future[RequestSessions]") -> None:
        self._reads -= 1
        error = None if task.cancelled() else task.exception()
        reason = "" if error is None else failure_reason(error)
        if reason and reason != self._failure:
            logger.error("sessions could not be read: %s", reason)
        self._failure = reason

    def _read(self, named: Sequence[str], unnamed: Sequence[str]) -> RequestSessions:
        assert self._store is not None
        with self._store.engine.connect() as connection:
            since, latest = now_ms() - self._gap_ms, dict[str, str]()
            for user_key in dict.fromkeys(unnamed):
                session_id = read_latest_session(connection, user_key, since)
                if session_id is not None:
                    latest[user_key] = session_id
            ids = list(dict.fromkeys([*named, *latest.values()]))
            return RequestSessions(read_sessions(connection, ids) if ids else {}, latest, is_read=True)


def _any_sequential(live: LiveState) -> bool:
    """Return True if a session policy may answer."""
    versions = (live.champion, live.challenger)
    return any(version is not None and not version.ranks and version.scorer.sequential for version in versions)
