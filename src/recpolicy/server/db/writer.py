"""One thread that writes: requests that arrive during a commit go into the next one together.

fsync limits us to far fewer than 1,000 commits per second, so we batch many rows into each commit. A caller gets its
answer after the commit. While the database is down, events go to the spool (spool.py) at once and count as stored.
Feedback is then rejected, because only the database knows whether it is new. Another thread brings the database back
(recovery.py).

Nothing ends the writing: a third thread watches the writer. If a commit takes too long, because the database hangs or
another process holds its lock, this thread counts the database as down, takes the events of the commit to the spool,
and starts a new writer. The abandoned one ends when its commit does; a replay ignores what it may have committed.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from time import monotonic

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError

from recpolicy.core.errors import StoreError
from recpolicy.core.queues import take_group
from recpolicy.server.db.database_file import DatabaseFile
from recpolicy.server.db.engine import CommitLock, transaction_on
from recpolicy.server.db.events import Event
from recpolicy.server.db.failures import refuses_values
from recpolicy.server.db.feedback import Outcome, RewardRules
from recpolicy.server.db.group_writes import (
    AnyFeedback,
    GroupResult,
    Result,
    WriteRequest,
    write_separately,
    write_together,
)
from recpolicy.server.db.rank_events import RankEvent
from recpolicy.server.db.recovery import Alert, Recovery, StoreStatus, log_alert, store_failure
from recpolicy.server.db.spool import AnyEvent, Spool

logger = logging.getLogger(__name__)

MAX_WAITING = 5_000
"""Write requests that may wait; further ones are rejected."""
COMMIT_SECONDS = 2.0
"""Time for a commit; a longer one counts as a failure of the database."""
_MAX_GROUP = 500
_GRACE = 1.25
"""The database gets its own time limit first: its error says more."""
_CHECKS = 8
"""Checks of the writer within the time for a commit."""


class QueueFullError(StoreError):
    """Too many write requests wait."""


class _Session:
    """A writer thread with its connection, and the group that it commits."""

    def __init__(self, engine: Engine):
        self.connection: Connection | None = None  # kept open: a pooled connection costs as much as a commit
        self.commit_lock = CommitLock(engine)
        self.group: list[WriteRequest] | None = None
        self.began = 0.0
        self.thread: threading.Thread | None = None

    def close(self) -> None:
        """Close the connection and the lock."""
        self.disconnect()
        self.commit_lock.close()

    def disconnect(self) -> None:
        """Close the connection; the next commit opens a new one."""
        connection, self.connection = self.connection, None
        if connection is not None:
            with suppress(DBAPIError):
                connection.invalidate()
            connection.close()


class GroupCommitWriter:
    """A writer of events and feedback in groups; one per process.

    Args:
        engine: The database, with a time limit of its waits.
        spool: Takes events while the database is down.
        rules: Returns the rules that turn feedback into rewards at this time.
        alert: Called in a separate thread with type, message and metrics of a failure that an operator must know.
        seconds: Time for a commit.
    """

    def __init__(
        self, engine: Engine, spool: Spool, rules: Callable[[], RewardRules], alert: Alert = log_alert,
        seconds: float = COMMIT_SECONDS,
    ):  # fmt: skip
        self._engine, self._spool, self._rules, self._seconds = engine, spool, rules, seconds
        self._queue: queue.SimpleQueue[WriteRequest | None] = queue.SimpleQueue()
        self._file = DatabaseFile(engine)
        self._status = StoreStatus()
        self._recovery = Recovery(engine, spool, self._file, self._status, alert)
        self._lock = threading.Lock()  # for _session and the group of a session
        self._ending, self._closing = False, threading.Event()
        self._session = self._start_session()
        self._watch = threading.Thread(target=self._watch_forever, name="recpolicy-writer-watch", daemon=True)
        self._watch.start()
        self._recovery.start()

    async def events(self, events: Sequence[Event]) -> None:
        """Write events.

        Raises StoreError if neither database nor spool accepts them, QueueFullError if too many requests wait.
        """
        await self._submit(events, (), 0)

    async def ranks(self, events: Sequence[RankEvent]) -> list[Outcome]:
        """Write the ranked events of a request; return an outcome for each, or none if they went to the spool.

        Raises what `events` raises.
        """
        return await self._submit(events, (), 0)

    async def feedback(self, batch: Sequence[AnyFeedback], time: int) -> list[Outcome]:
        """Write feedback.

        Raises StoreError if the database is down, or an event may still wait in a spool; DataError if the database
        refuses a value; QueueFullError if too many requests wait.
        """
        return await self._submit((), batch, time)

    @property
    def waiting(self) -> int:
        """Number of write requests that wait."""
        return self._queue.qsize()

    @property
    def spooled(self) -> int:
        """Number of events that wait in the spool."""
        return self._spool.waiting

    def spools_are_empty(self) -> bool:
        """Return True if no event of any process waits in a spool."""
        return self._spool.is_empty()

    @property
    def rejected(self) -> int:
        """Number of rows that the database refused since the start."""
        return self._status.rejected

    @property
    def down(self) -> bool:
        """True from a failed commit until the database accepts a write again."""
        return self._status.failure is not None

    def is_alive(self) -> bool:
        """Return True if the writer's thread runs."""
        thread = self._session.thread
        return thread is not None and thread.is_alive()

    def tasks(self) -> Mapping[str, Callable[[], bool]]:
        """Return the background tasks by name, each with a function that returns True while it runs."""
        return {
            "writer": self.is_alive, "writer_watch": self._watch.is_alive, "spool_replay": self._recovery.is_alive
        }  # fmt: skip

    def close(self) -> None:
        """Write the waiting requests, then stop."""
        self._ending = True
        self._queue.put(None)
        while (thread := self._session.thread) is not None and thread.is_alive():  # a hanging one is replaced
            thread.join(self._seconds / _CHECKS)
        self._closing.set()
        self._watch.join()
        self._recovery.close(2 * self._seconds)
        self._spool.close()
        self._file.close()

    def _submit(
        self, events: Sequence[AnyEvent], feedback: Sequence[AnyFeedback], time: int
    ) -> "asyncio.Future[list[Outcome]]":
        """Queue a write request; returns the future of its outcomes, which belongs to the running event loop."""
        if self._queue.qsize() >= MAX_WAITING:
            raise QueueFullError("too many writes are waiting; try again")
        done: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self._queue.put(WriteRequest(events, feedback, time, done))
        return done

    def _start_session(self) -> _Session:
        session = _Session(self._engine)
        session.thread = threading.Thread(target=self._run, args=(session,), name="recpolicy-writer", daemon=True)
        session.thread.start()
        return session

    def _run(self, session: _Session) -> None:
        """Write groups until the writer closes, or until another session has taken over."""
        last = False
        try:
            while not last:
                group, last = self._next_group()
                if group and not self._write(session, group):
                    break
        finally:
            session.close()

    def _next_group(self) -> tuple[list[WriteRequest], bool]:
        """Wait for a request; return it with those behind it, at most _MAX_GROUP, and whether the writer closes."""
        return take_group(self._queue, _MAX_GROUP)

    def _write(self, session: _Session, group: list[WriteRequest]) -> bool:
        """Write a group and answer its requests; return False if another session has taken over."""
        failure = self._status.failure
        if failure is not None:
            self._spool_events(group, StoreError(failure))
            return True
        session.began = monotonic()
        session.group = group
        result = self._commit(session, group)
        with self._lock:
            abandoned, session.group = session.group is None, None
        if abandoned:
            return False
        if isinstance(result, StoreError):
            self._recovery.begin(result)
            self._spool_events(group, result)
            return True
        if result.rejected:
            self._recovery.reject(result.rejected)
        _finish(group, [self._answer(outcomes) for outcomes in result.results])
        return True

    def _commit(self, session: _Session, group: list[WriteRequest]) -> GroupResult | StoreError:
        """Write a group in a transaction; return its results after the commit, or the failure."""
        try:
            try:
                return self._in_transaction(session, lambda on: write_together(on, group, self._rules()))
            except Exception as error:
                if not refuses_values(error):
                    raise
                return self._in_transaction(session, lambda on: write_separately(on, group, self._rules()))
        except Exception as error:
            failure = store_failure(error)
        session.disconnect()
        return failure

    def _in_transaction(self, session: _Session, write: Callable[[Connection], GroupResult]) -> GroupResult:
        first = session.connection is None
        if session.connection is None:
            session.connection = self._engine.connect()
        with session.commit_lock, transaction_on(session.connection):
            if first:
                self._file.opened()
            result = write(session.connection)
            if session.group is None:
                raise StoreError("the commit was abandoned")
        self._file.check(writing=True)  # after the commit: from now on, it counts as stored
        return result

    def _answer(self, outcomes: Result) -> Result:
        """Return the result; a client must try again while an unknown event may wait in a spool."""
        unknown = isinstance(outcomes, list) and any(outcome.status == "unknown_event" for outcome in outcomes)
        if unknown and not self._spool.is_empty():
            return StoreError("the event may wait for the database; try again")
        return outcomes

    def _spool_events(self, group: Sequence[WriteRequest], failure: StoreError) -> None:
        """Append the events of a group to the spool, and answer its requests."""
        events = [event for request in group for event in request.events]
        try:
            if events:
                self._spool.append(events)
        except OSError as error:
            failure = StoreError(f"neither the database nor the spool accepts events: {error.strerror}")
            events = []
        _finish(group, [[] if request.events and events else failure for request in group])

    def _watch_forever(self) -> None:
        while not self._closing.wait(self._seconds / _CHECKS):
            try:
                self._check_writer()
            except Exception:
                logger.exception("the watch of the writer failed")

    def _check_writer(self) -> None:
        """Replace a writer whose commit takes too long, or whose thread has ended."""
        session = self._session
        overdue = session.group is not None and monotonic() - session.began > _GRACE * self._seconds
        ended = not self.is_alive() and not self._ending
        if not (overdue or ended):
            return
        failure = StoreError(f"the database did not answer within {_GRACE * self._seconds:g} s")
        with self._lock:
            group = session.group
            if group is None and not ended:
                return  # it has ended just now
            if overdue:
                self._recovery.begin(failure)  # before the new writer: it must not try to commit
            new = self._start_session()  # it may fail; then the next check tries again
            session.group, self._session = None, new
        if self._ending:
            self._queue.put(None)  # the abandoned writer may have taken the first one
        if group is not None:
            self._spool_events(group, failure)


def _finish(group: Sequence[WriteRequest], results: Sequence[Result]) -> None:
    """Give each request of a group its outcomes or its error, with one message to each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[WriteRequest, Result]]] = {}
    for request, result in zip(group, results, strict=True):
        by_loop.setdefault(request.done.get_loop(), []).append((request, result))
    for loop, finished in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(_set_results, finished)


def _set_results(finished: Sequence[tuple[WriteRequest, Result]]) -> None:
    """Wake the callers, in their event loop; those that gave up are left out."""
    for request, result in finished:
        if request.done.done():
            continue
        if isinstance(result, Exception):
            request.done.set_exception(result)
        else:
            request.done.set_result(result)
