"""One thread that writes: what comes in while a commit is under way goes together into the next one.

A commit waits for the disk, so that a thousand commits a second cannot be had, but a commit of a thousand rows can.
Whoever handed something in is answered after its commit. When the database does not answer, events go to the spool and
count as acknowledged; feedback is refused, for only the database can tell whether it is new.
"""

import asyncio
import logging
import queue
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from recpolicy.core.errors import StoreError
from recpolicy.server.db.engine import CommitLock, first_line, transaction_on
from recpolicy.server.db.events import known_ids, write_rows
from recpolicy.server.db.feedback import FeedbackItem, Outcome, RewardRules, apply_feedback
from recpolicy.server.db.spool import Spool

logger = logging.getLogger(__name__)

WAITING = 5_000
"""Pieces of work that may wait; more are refused."""
_AT_ONCE = 500
_REPLAY_SECONDS = 1.0


class QueueFullError(StoreError):
    """More waits to be written than the server holds."""


@dataclass
class WriteRequest:
    """Events or feedback to be written, and the future of their outcomes."""

    events: Sequence[dict[str, Any]]
    feedback: Sequence[FeedbackItem]
    time: int
    done: "Future[list[Outcome]]" = field(default_factory=Future)


class GroupCommitWriter:
    """Writes events and feedback in groups; made once a process."""

    def __init__(self, engine: Engine, spool: Spool, rules: Callable[[], RewardRules]):
        self._engine, self._spool, self._rules = engine, spool, rules
        self._queue: queue.Queue[WriteRequest | None] = queue.Queue(WAITING)
        self._connection: Connection | None = None  # kept, for to take one from the pool costs as much as a commit
        self._turns = CommitLock(engine)
        self._look = 0.0  # when to look into the spool again
        self.spooled = 0
        """Events that had to be spooled, ever."""
        self.down = False
        """Whether the last commit failed."""
        self._thread = threading.Thread(target=self._work, name="recpolicy-writer", daemon=True)
        self._thread.start()

    async def events(self, rows: Sequence[dict[str, Any]]) -> None:
        """Write events, as rows of their table.

        Raises StoreError where neither database nor disk takes them, QueueFullError where too many wait.
        """
        await asyncio.wrap_future(self._submit(WriteRequest(rows, (), 0)))

    async def feedback(self, batch: Sequence[FeedbackItem], time: int) -> list[Outcome]:
        """Write feedback; raises StoreError where the database does not take it, QueueFullError where too many wait."""
        return await asyncio.wrap_future(self._submit(WriteRequest((), batch, time)))

    @property
    def waiting(self) -> int:
        """Pieces of work that wait now."""
        return self._queue.qsize()

    def close(self) -> None:
        """Write what waits, then stop."""
        self._queue.put(None)
        self._thread.join()
        self._spool.close()
        self._turns.close()

    def _submit(self, work: WriteRequest) -> "Future[list[Outcome]]":
        try:
            self._queue.put_nowait(work)
        except queue.Full:
            raise QueueFullError("more is waiting to be written than this server holds; try again") from None
        return work.done

    def _work(self) -> None:
        while True:
            group, last = self._next_group()
            if self.down or monotonic() > self._look:
                self._look = monotonic() + _REPLAY_SECONDS
                if self._spool.waiting():
                    self._replay()
            if group:
                self._write_or_fail(group)
            if last:
                self._let_go()
                return

    def _next_group(self) -> tuple[list[WriteRequest], bool]:
        """What waits, at most _AT_ONCE; waits for the first. And whether it is the last group."""
        try:
            first = self._queue.get(timeout=_REPLAY_SECONDS)
        except queue.Empty:
            return [], False
        group: list[WriteRequest] = []
        while first is not None:
            group.append(first)
            if len(group) == _AT_ONCE:
                return group, False
            try:
                first = self._queue.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _write_or_fail(self, group: list[WriteRequest]) -> None:
        """Whatever happens, whoever waits is answered, and the thread goes on."""
        try:
            self._write(group)
        except Exception as error:
            logger.exception("the writer failed")
            for work in group:
                if not work.done.done():
                    work.done.set_exception(error)

    def _write(self, group: list[WriteRequest]) -> None:
        rows = [row for work in group for row in work.events]
        outcomes: list[list[Outcome]] = []

        def write(connection: Connection) -> None:
            if rows:
                write_rows(connection, rows)
            outcomes.extend(
                apply_feedback(connection, work.feedback, work.time, self._rules()) if work.feedback else []
                for work in group
            )

        failure = self._commit(write)
        if failure is not None and rows:
            try:
                self._spool.append(rows)
                self.spooled += len(rows)
            except OSError as error:
                failure = StoreError(f"neither the database nor the spool takes events: {error.strerror}")
                rows = []
        for place, work in enumerate(group):
            if failure is None or (work.events and rows):
                work.done.set_result(outcomes[place] if failure is None else [])
            else:
                work.done.set_exception(failure)

    def _commit(self, write: Callable[[Connection], None]) -> StoreError | None:
        """What went wrong, None when it is committed."""
        try:
            if self._connection is None:
                self._connection = self._engine.connect()
            with self._turns, transaction_on(self._connection):
                write(self._connection)
        except DBAPIError as error:
            failure = StoreError(f"the database does not take it: {first_line(error)}")
        except PoolTimeoutError:
            failure = StoreError("the database does not answer")
        else:
            self.down = False
            return None
        self._let_go()
        if not self.down:
            logger.error("%s", failure)
        self.down = True
        return failure

    def _let_go(self) -> None:
        """Give the connection up: after a failure the next one is new."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with suppress(DBAPIError):
                connection.invalidate()
            connection.close()

    def _replay(self) -> None:
        """Give the database what was spooled; events that it has already are left out."""

        def give(rows: list[dict[str, Any]]) -> None:
            def write(connection: Connection) -> None:
                known = known_ids(connection, (row["id"] for row in rows))
                fresh = [row for row in rows if row["id"] not in known]
                if fresh:
                    write_rows(connection, fresh)

            failure = self._commit(write)
            if failure is not None:
                raise failure

        try:
            count = self._spool.replay(give)
        except StoreError:
            return
        if count:
            logger.info("%d spooled events went to the database", count)
