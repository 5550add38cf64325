"""The thread that brings the database back: it probes a database that is down, and replays the spool.

Once a second it also looks for events that ended processes spooled, and for a database file that was removed or
replaced. The database is up again when it accepts a write, which may be to a new file with our tables.
"""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Any, TypeVar

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from recpolicy.core.errors import StoreError
from recpolicy.server.db.database_file import DatabaseFile
from recpolicy.server.db.engine import CommitLock, first_line, schema_steps, transaction_on
from recpolicy.server.db.failures import failure_reason, refuses_values
from recpolicy.server.db.group_writes import insert_replayed, insert_separately
from recpolicy.server.db.spool import AnyEvent, RejectedRow, Spool

logger = logging.getLogger(__name__)
T = TypeVar("T")

TICK_SECONDS = 1.0
_ALERT_PAUSE = 60.0
_MAX_REJECTED_BYTES = 16 << 20
"""Size of the side file from which on it takes acknowledged events only."""
_PROBE = text("UPDATE alembic_version SET version_num = version_num WHERE version_num = :version")
"""A commit of this reaches the disk, and works only on a database with our tables."""

Alert = Callable[[str, str, Mapping[str, Any]], object]
"""Takes type, message and metrics."""


def log_alert(alert_type: str, message: str, metrics: Mapping[str, Any]) -> None:
    """Log an alert."""
    logger.warning("alert: %s", message, extra={"fields": {"type": alert_type, "metrics": dict(metrics)}})


@dataclass
class StoreStatus:
    """The state of the database, as the writer and its recovery see it."""

    failure: str | None = None
    """The reason why the database is down; None while it is up."""
    rejected: int = 0
    """Rows that the database refused, and damaged lines of the spool."""


def store_failure(error: Exception) -> StoreError:
    """Return a failure of the database as a StoreError without addresses and paths; its cause has them, for the log."""
    if isinstance(error, StoreError):
        return error
    if not isinstance(error, SQLAlchemyError):
        logger.error("the database could not be used", exc_info=error)
    failure = StoreError(failure_reason(error))
    failure.__cause__ = error
    return failure


class Recovery:
    """A thread that replays the spool, and ends a time in which the database is down.

    Args:
        engine: The database.
        spool: The events that wait.
        file: The file of the database.
        status: Shared with the writer.
        alert: Called in a separate thread.
    """

    def __init__(self, engine: Engine, spool: Spool, file: DatabaseFile, status: StoreStatus, alert: Alert):
        self._engine, self._spool, self._file, self._status, self._alert = engine, spool, file, status, alert
        self._commit_lock = CommitLock(engine)
        self._alerted: dict[str, float] = {}
        self._wake, self._closing = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="recpolicy-spool-replay", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def is_alive(self) -> bool:
        """Return True while the thread runs."""
        return self._thread.is_alive()

    def close(self, seconds: float) -> None:
        """Replay what waits and stop the thread; wait for it at most some seconds, because the database may hang."""
        self._closing.set()
        self._wake.set()
        self._thread.join(seconds)

    def begin(self, failure: StoreError) -> None:
        """Count the database as down, and probe it at once."""
        if self._status.failure is None:
            self._status.failure = str(failure)
            cause = failure.__cause__
            logger.error("the database is down: %s", first_line(cause) if isinstance(cause, DBAPIError) else failure)
            self._wake.set()

    def reject(self, rows: Sequence[RejectedRow]) -> None:
        """Put rows aside that the database refuses and no caller counts as stored."""
        try:
            self._spool.reject(rows, _MAX_REJECTED_BYTES)
        except OSError as error:
            logger.error("the refused rows could not be put aside: %s", error.strerror)
        self._count_rejected(len(rows))

    def _count_rejected(self, count: int) -> None:
        self._status.rejected += count
        message = f"the database refuses {count} events; the folder spool has them in {self._spool.rejected_name}"
        self._send("store.rejected_events", message, {"events": count})

    def _run(self) -> None:
        closing = False
        while not closing:
            self._wake.wait(TICK_SECONDS)
            self._wake.clear()
            closing = self._closing.is_set()  # the last tick writes what was spooled since the one before
            try:
                self._tick()
            except Exception:
                logger.exception("the replay of the spool failed")
        self._commit_lock.close()

    def _tick(self) -> None:
        """Look once at the file, the database and the spool."""
        try:
            self._file.check()
        except StoreError as error:
            self.begin(error)
            self._send("store.file_replaced", str(error), {})
        was_down = self._status.failure is not None
        if was_down:
            try:
                self._reopen()
                self._probe()
            except StoreError as error:
                self._status.failure = str(error)
                return
        try:
            self._replay()
            if was_down:
                self._status.failure = None
                logger.info("the database is up again")
                self._replay()  # what was spooled in the meantime
        except StoreError as error:
            self.begin(error)

    def _reopen(self) -> None:
        """Open a file that has replaced the database; raises StoreError if it cannot be used."""
        try:
            self._file.check()
        except StoreError:
            self._engine.dispose()
            if not self._file.adopt():
                raise
            logger.info("the new database file is in use")

    def _probe(self) -> None:
        """Raise StoreError unless the database accepts a write."""

        def touch() -> None:
            with self._engine.connect() as connection, self._commit_lock, transaction_on(connection):
                if connection.execute(_PROBE, {"version": schema_steps()[-1]}).rowcount != 1:
                    raise StoreError("the database has tables of another version of recpolicy; restart the server")

        self._attempt(touch)

    def _replay(self) -> None:
        """Write the waiting events to the database unless it has them; raises StoreError."""
        if self._spool.is_empty():
            return
        replayed = self._spool.replay(self._store)
        if replayed.events:
            logger.info("%d spooled events were written to the database", replayed.events)
        if replayed.rejected:
            self._count_rejected(replayed.rejected)

    def _store(self, events: list[AnyEvent]) -> list[RejectedRow]:
        """Store events and return those that the database refuses; raises StoreError."""

        def write() -> list[RejectedRow]:
            with self._engine.connect() as connection:
                try:
                    with self._commit_lock, transaction_on(connection):
                        insert_replayed(connection, events)
                    return []
                except Exception as error:
                    if not refuses_values(error):
                        raise
                with self._commit_lock, transaction_on(connection):
                    return insert_separately(connection, events, replayed=True)

        return self._attempt(write)

    def _attempt(self, action: Callable[[], T]) -> T:
        """Use the database; raises StoreError after any failure, or if it was another file."""
        try:
            result = action()
        except Exception as error:
            failure = store_failure(error)
            raise failure from failure.__cause__
        self._file.check()
        return result

    def _send(self, alert_type: str, message: str, metrics: Mapping[str, Any]) -> None:
        """Send an alert from a separate thread, because it may wait for the database."""
        if monotonic() - self._alerted.get(alert_type, -_ALERT_PAUSE) < _ALERT_PAUSE:
            return
        self._alerted[alert_type] = monotonic()
        threading.Thread(
            target=self._alert, args=(alert_type, message, metrics), name="recpolicy-store-alert", daemon=True
        ).start()
