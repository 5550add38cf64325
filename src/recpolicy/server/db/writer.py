"""One thread that writes: requests that arrive during a commit go into the next one together.

fsync limits us to far fewer than 1,000 commits per second, so we batch many rows into each commit. A caller gets its
answer after the commit. If the database does not answer, events go to the spool and count as stored. Feedback is then
rejected, because only the database knows whether it is new.

The spool appends each event durably to a file, as one line of JSON, and replays the file when the database answers
again. An incomplete last line was never acknowledged and is ignored. Each process locks its own file while it runs;
another process that finds an unlocked file replays it.
"""

import asyncio
import base64
import json
import logging
import os
import queue
import secrets
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from recpolicy.core.errors import StoreError
from recpolicy.core.files import rename_keys
from recpolicy.server.db.engine import CommitLock, first_line, transaction_on
from recpolicy.server.db.events import Event, existing_ids, insert_events
from recpolicy.server.db.feedback import FeedbackItem, Outcome, RewardRules, apply_feedback

logger = logging.getLogger(__name__)

MAX_WAITING = 5_000
"""Write requests that may wait; further ones are rejected."""
_MAX_GROUP = 500
_REPLAY_SECONDS = 1.0
_BYTES = ("allowed", "context", "history")
_OLD_KEYS = {"movies": "item_ids", "content": "policy_digest"}
"""Names in files of older versions, and the current ones."""
_EVENTS_AT_ONCE = 500


class QueueFullError(StoreError):
    """Too many write requests wait."""


@dataclass
class WriteRequest:
    """Events or feedback to write, and the future of their outcomes."""

    events: Sequence[Event]
    feedback: Sequence[FeedbackItem]
    time: int
    done: "asyncio.Future[list[Outcome]]"


def _finish(group: Sequence[WriteRequest], results: Sequence[list[Outcome] | Exception]) -> None:
    """Give each request of a group its outcomes or its error, with one message to each event loop."""
    by_loop: dict[asyncio.AbstractEventLoop, list[tuple[WriteRequest, list[Outcome] | Exception]]] = {}
    for request, result in zip(group, results, strict=True):
        by_loop.setdefault(request.done.get_loop(), []).append((request, result))
    for loop, finished in by_loop.items():
        with suppress(RuntimeError):  # the loop is closed: nobody waits
            loop.call_soon_threadsafe(_set_results, finished)


def _set_results(finished: Sequence[tuple[WriteRequest, list[Outcome] | Exception]]) -> None:
    """Wake the callers, in their event loop; those that gave up are left out."""
    for request, result in finished:
        if request.done.done():
            continue
        if isinstance(result, Exception):
            request.done.set_exception(result)
        else:
            request.done.set_result(result)


class Spool:
    """A folder of spooled events."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._own = folder / f"{os.getpid()}-{secrets.token_hex(4)}.jsonl"
        self._lock = FileLock(f"{self._own}.lock")
        self._lock.acquire()

    def append(self, events: Sequence[Event]) -> None:
        """Append events durably. Raises OSError; then none of them counts."""
        lines = "".join(json.dumps(_as_text(event)) + "\n" for event in events).encode()
        with self._own.open("ab") as stream:
            before = stream.tell()
            try:
                stream.write(lines)
                stream.flush()
                os.fsync(stream.fileno())
            except OSError:
                stream.truncate(before)
                raise

    def waiting(self) -> bool:
        """Return True if there may be events to replay."""
        return any(self._folder.glob("*.jsonl"))

    def replay(self, write: Callable[[list[Event]], None]) -> int:
        """Pass the spooled events of this and of dead processes to `write`, then delete them; return their number.

        After a crash between the two, `write` gets an event a second time and must ignore it.
        """
        return sum(self._replay_file(path, write) for path in sorted(self._folder.glob("*.jsonl")))

    def close(self) -> None:
        """Unlock the file, so that another process can replay it."""
        self._lock.release()

    def _replay_file(self, path: Path, write: Callable[[list[Event]], None]) -> int:
        lock = FileLock(f"{path}.lock")
        if path != self._own:
            try:
                lock.acquire(timeout=0)
            except Timeout:
                return 0
        try:
            events = _read_spooled(path)
            for start in range(0, len(events), _EVENTS_AT_ONCE):
                write(events[start : start + _EVENTS_AT_ONCE])
            path.unlink(missing_ok=True)
        finally:
            if path != self._own:
                lock.release()
                Path(f"{path}.lock").unlink(missing_ok=True)
        return len(events)


class GroupCommitWriter:
    """A writer of events and feedback in groups; one per process."""

    def __init__(self, engine: Engine, spool: Spool, rules: Callable[[], RewardRules]):
        self._engine, self._spool, self._rules = engine, spool, rules
        self._queue: queue.SimpleQueue[WriteRequest | None] = queue.SimpleQueue()
        self._connection: Connection | None = None  # kept open: a pooled connection costs as much as a commit
        self._commit_lock = CommitLock(engine)
        self._next_replay = 0.0
        self.spooled = 0
        """Events written to the spool since the start."""
        self.down = False
        """True if the last commit failed."""
        self._thread = threading.Thread(target=self._run, name="recpolicy-writer", daemon=True)
        self._thread.start()

    async def events(self, events: Sequence[Event]) -> None:
        """Write events.

        Raises StoreError if neither database nor spool accepts them, QueueFullError if too many requests wait.
        """
        await self._submit(events, (), 0)

    async def feedback(self, batch: Sequence[FeedbackItem], time: int) -> list[Outcome]:
        """Write feedback; raises StoreError if the database fails, QueueFullError if too many requests wait."""
        return await self._submit((), batch, time)

    @property
    def waiting(self) -> int:
        """Number of write requests that wait."""
        return self._queue.qsize()

    def close(self) -> None:
        """Write the waiting requests, then stop."""
        self._queue.put(None)
        self._thread.join()
        self._spool.close()
        self._commit_lock.close()

    def _submit(
        self, events: Sequence[Event], feedback: Sequence[FeedbackItem], time: int
    ) -> "asyncio.Future[list[Outcome]]":
        """Queue a write request; returns the future of its outcomes, which belongs to the running event loop."""
        if self._queue.qsize() >= MAX_WAITING:
            raise QueueFullError("too many writes are waiting; try again")
        done: asyncio.Future[list[Outcome]] = asyncio.get_running_loop().create_future()
        self._queue.put(WriteRequest(events, feedback, time, done))
        return done

    def _run(self) -> None:
        while True:
            group, last = self._next_group()
            if self.down or monotonic() > self._next_replay:
                self._next_replay = monotonic() + _REPLAY_SECONDS
                if self._spool.waiting():
                    self._replay()
            if group:
                self._write_or_fail(group)
            if last:
                self._disconnect()
                return

    def _next_group(self) -> tuple[list[WriteRequest], bool]:
        """Wait for a request; return it with those behind it, at most _MAX_GROUP, and whether the writer closes."""
        try:
            request = self._queue.get(timeout=_REPLAY_SECONDS)
        except queue.Empty:
            return [], False
        group: list[WriteRequest] = []
        while request is not None:
            group.append(request)
            if len(group) == _MAX_GROUP:
                return group, False
            try:
                request = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _write_or_fail(self, group: list[WriteRequest]) -> None:
        """Write a group; after an unexpected error, fail its requests and keep the thread alive."""
        try:
            self._write(group)
        except Exception as error:
            logger.exception("the writer failed")
            _finish(group, [error] * len(group))

    def _write(self, group: list[WriteRequest]) -> None:
        events = [event for request in group for event in request.events]
        outcomes: list[list[Outcome]] = []

        def write(connection: Connection) -> None:
            if events:
                insert_events(connection, events)
            for request in group:
                feedback = request.feedback
                outcomes.append(apply_feedback(connection, feedback, request.time, self._rules()) if feedback else [])

        failure = self._commit(write)
        if failure is not None and events:
            try:
                self._spool.append(events)
                self.spooled += len(events)
            except OSError as error:
                failure = StoreError(f"neither the database nor the spool accepts events: {error.strerror}")
                events = []
        if failure is None:
            _finish(group, outcomes)
        else:
            _finish(group, [[] if request.events and events else failure for request in group])

    def _commit(self, write: Callable[[Connection], None]) -> StoreError | None:
        """Run `write` in a transaction; return the failure, or None after the commit."""
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._commit_lock, transaction_on(self._connection):
                write(self._connection)
        except DBAPIError as error:
            failure = StoreError(f"the database cannot write: {first_line(error)}")
        except PoolTimeoutError:
            failure = StoreError("the database does not answer")
        else:
            self.down = False
            return None
        self._disconnect()
        if not self.down:
            logger.error("%s", failure)
        self.down = True
        return failure

    def _disconnect(self) -> None:
        """Close the connection; the next commit opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(DBAPIError):
                connection.invalidate()
            connection.close()

    def _replay(self) -> None:
        """Write the spooled events to the database unless it already has them."""

        def give(events: list[Event]) -> None:
            def write(connection: Connection) -> None:
                known = existing_ids(connection, (event.id for event in events))
                fresh = [event for event in events if event.id not in known]
                if fresh:
                    insert_events(connection, fresh)

            failure = self._commit(write)
            if failure is not None:
                raise failure

        try:
            count = self._spool.replay(give)
        except StoreError:
            return
        if count:
            logger.info("%d spooled events were written to the database", count)


def _as_text(event: Event) -> dict[str, Any]:
    row = event._asdict()
    return row | {name: base64.b64encode(row[name]).decode() for name in _BYTES if row[name] is not None}


def _read_spooled(path: Path) -> list[Event]:
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except FileNotFoundError:
        return []
    return [_from_text(rename_keys(json.loads(line), _OLD_KEYS)) for line in lines]


def _from_text(row: dict[str, Any]) -> Event:
    return Event(**row | {name: base64.b64decode(row[name]) for name in _BYTES if row.get(name) is not None})
