"""The sessions of requests: which session a list belongs to, and at which step.

A request may name its session. Without a name, a session policy begins a session at an empty history, or continues the
latest of the user's sessions that the history fits and that is not older than a gap. Requests of other policies without
a name belong to no session and read nothing. A named session of such a policy is checked like one of a session policy
if its requests have a history.

A database that is down, or does not answer within READ_SECONDS, delays no request further: then the event keeps the
session and step that the request claims. The event of a history that fits no known session has a step and no session.
The export checks each session as a whole, and leaves out those whose user has such an event.
"""

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import TYPE_CHECKING, Any, Protocol

from recpolicy.core.errors import SessionError
from recpolicy.server.db.events import id_key, now_ms
from recpolicy.server.db.failures import failure_reason
from recpolicy.server.db.session_events import (
    StoredSession,
    find_conflict,
    read_recent_sessions,
    read_session,
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
"""Reads at the same time; further ones wait for READ_SECONDS at most."""
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

    session_id: str | None
    """None: a history that no known session fits."""
    step: int

    @property
    def note(self) -> bytes:
        """The field of the response, JSON after a comma; empty without a session."""
        if self.session_id is None:
            return b""
        return b',"session":{"id":"%b","step":%d}' % (self.session_id.encode(), self.step)


@dataclass(frozen=True)
class RequestSessions:
    """The stored sessions that requests may continue."""

    sessions: Mapping[str, StoredSession | None] = field(default_factory=dict)
    """Sessions by id; None for new ones."""
    recent: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The sessions of each user within the gap, the latest first, by user key."""
    is_read: bool = False
    """False: nothing is known, and nothing is checked."""
    lossless: bool = True
    """False: the store may lack events."""
    continued: dict[str, int] = field(default_factory=dict)
    """The requests that continue sessions without naming them: one of a batch for each session."""

    def place(self, request: RecommendRequest | Instance, user_key: str, sequential: bool) -> SessionPlace | None:
        """Return the session and the step of a list; None if it belongs to no session.

        Args:
            request: The request.
            user_key: Its user.
            sequential: True for a session policy. Without a history, the step of another policy counts the lists
                before it.

        Raises:
            SessionError: The request does not continue the session that it names.
        """
        history = [each.item for each in request.history or ()]
        if request.session_id is None:
            return self._own_place(user_key, history, id(request)) if sequential else None
        session = self.sessions.get(request.session_id)
        if not sequential and request.history is None:
            if session is not None and session.user_key != user_key:
                raise SessionError(f"session_id {request.session_id}: {find_conflict(session, user_key, history)}")
            return SessionPlace(request.session_id, 0 if session is None else session.last_step + 1)
        conflict = find_conflict(session, user_key, history, self.lossless) if self.is_read else None
        if conflict is not None:
            raise SessionError(f"session_id {request.session_id}: {conflict}")
        return SessionPlace(request.session_id, len(history))

    def _own_place(self, user_key: str, history: Sequence[Any], request: int) -> SessionPlace | None:
        """Return the place in a session that the server makes, or has made; None for a second list of a batch."""
        if not history:
            return SessionPlace(secrets.token_hex(16), 0)
        for session_id in self.recent.get(user_key, ()):
            if find_conflict(self.sessions.get(session_id), user_key, history, self.lossless) is None:
                first = self.continued.setdefault(session_id, request)
                return SessionPlace(session_id, len(history)) if first == request else None
        return SessionPlace(None, len(history))


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
        self._slots = asyncio.Semaphore(_MAX_READS)
        self._failure = ""
        self.lossless = True
        """False from the first event on that this process could not store."""
        self.unread = 0
        """Requests that were answered without a look at their sessions, since the start."""

    async def read(self, live: LiveState, requests: Sequence[RecommendRequest | Instance]) -> RequestSessions:
        """Return the stored sessions that requests may continue; reads nothing if none can."""
        named = [request.session_id for request in requests if request.session_id is not None]
        unnamed = [id_key(request.user) for request in requests if request.session_id is None and request.history]
        sequential = _any_sequential(live)
        with_items = sequential or any(request.history is not None for request in requests)
        if self._store is None or not (named or (unnamed and sequential)):
            return NO_SESSIONS
        result = (
            NO_SESSIONS
            if self._store.writer.down
            else await self._read_in_time(named, unnamed if sequential else (), with_items)
        )
        if not result.is_read:
            self.unread += len(requests)
        return result

    async def _read_in_time(self, named: Sequence[str], unnamed: Sequence[str], with_items: bool) -> RequestSessions:
        """Return the stored sessions; NO_SESSIONS if they are not read within READ_SECONDS."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + READ_SECONDS
        try:
            await asyncio.wait_for(self._slots.acquire(), READ_SECONDS)
        except TimeoutError:
            return NO_SESSIONS
        task = loop.run_in_executor(None, self._read, named, unnamed, with_items)
        task.add_done_callback(self._end_read)
        done, _ = await asyncio.wait([task], timeout=max(0.0, deadline - loop.time()))
        return task.result() if done and task.exception() is None else NO_SESSIONS

    def _end_read(self, task: "asyncio.Future[RequestSessions]") -> None:
        self._slots.release()
        error = None if task.cancelled() else task.exception()
        reason = "" if error is None else failure_reason(error)
        if reason and reason != self._failure:
            logger.error("sessions could not be read: %s", reason)
        self._failure = reason

    def _read(self, named: Sequence[str], unnamed: Sequence[str], with_items: bool) -> RequestSessions:
        """Read sessions; NO_SESSIONS while events wait in a spool, because their sessions may be there."""
        assert self._store is not None
        if not self._store.writer.spools_are_empty():
            return NO_SESSIONS
        with self._store.engine.connect() as connection:
            since = now_ms() - self._gap_ms
            recent = {
                user_key: read_recent_sessions(connection, user_key, since) for user_key in dict.fromkeys(unnamed)
            }
            ids = dict.fromkeys([*named, *chain.from_iterable(recent.values())])
            sessions = {session_id: read_session(connection, session_id, with_items) for session_id in ids}
            return RequestSessions(sessions, recent, is_read=True, lossless=self.lossless)


def _any_sequential(live: LiveState) -> bool:
    """Return True if a session policy may answer."""
    versions = (live.champion, live.challenger)
    return any(version is not None and not version.ranks and version.scorer.sequential for version in versions)
