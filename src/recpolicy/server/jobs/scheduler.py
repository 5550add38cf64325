"""Jobs, and the scheduler that runs each of them once when it is due, for any number of server processes.

The tables `schedules` and `jobs` are the source of truth. Every process checks them once a second, and the process that
updates the row of a due job runs it (db/jobs.py). Jobs missed during downtime run once at start-up, then return to
their schedule. core/cron.py computes the next time of a job.

A run is lost if its heartbeat has not changed for a minute. Each process measures the minute by its monotonic clock, so
changes of the system clock do not matter.
"""

import contextvars
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from recpolicy.core.config import as_dict, build
from recpolicy.core.cron import next_time
from recpolicy.core.errors import ConfigError, RecpolicyError, StoreError, unknown_name_error
from recpolicy.core.memory import out_of_memory
from recpolicy.server.db import admin
from recpolicy.server.db import jobs as runs
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.jobs import FAILED, OFF, JobResult, Schedule
from recpolicy.server.deps import AppState
from recpolicy.server.jobs.alerts import send_alert
from recpolicy.server.json_output import exception_location

logger = logging.getLogger(__name__)

TICK_SECONDS = 1.0
BEAT_SECONDS = 10.0
LOST_SECONDS = 60.0
_CLOSE_SECONDS = 5.0
_ERROR_LETTERS = 500
STOP_EVENT: ContextVar[threading.Event | None] = ContextVar("recpolicy_stopping", default=None)
"""Set when the server asks the job in this context to stop."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """A task that runs by name, on a schedule or by hand."""

    name: str
    description: str
    """One sentence."""
    cron: str
    """Default schedule: five fields (minute, hour, day, month, weekday; UTC), or an interval such as `@every 10s`."""
    run: Callable[[AppState, Mapping[str, Any]], JobResult]
    """Takes the state of the server and the parameters of the run; an exception fails the run."""
    parameters: type | None = None
    """Config of the parameters of a run by hand, each with a default; None: the job takes none."""


class Scheduler:
    """A runner of the jobs of one server process, due ones and those started by hand."""

    def __init__(
        self, state: AppState, jobs: Mapping[str, Job], clock: Callable[[], int] = now_ms,
        monotonic: Callable[[], float] = time.monotonic,
    ):  # fmt: skip
        self.jobs = jobs
        self.worker = f"{socket.gethostname()[:80]}:{os.getpid()}:{secrets.token_hex(4)}"
        self._state, self._clock, self._monotonic = state, clock, monotonic
        self._stopping = threading.Event()
        self._mine: dict[int, threading.Thread] = {}
        self._lock = threading.Lock()  # for _mine: requests start runs, too
        self._seen: dict[int, tuple[int, float]] = {}  # run -> heartbeat, and the time when this process first saw it
        self._beaten, self._set, self._down = monotonic(), False, False
        self._thread: threading.Thread | None = None

    def crons(self) -> dict[str, str]:
        """Return the schedules by job name; "off": by hand only. Raises ConfigError for a setting without a job."""
        settings = self._state.settings.jobs
        for name in settings.cron:
            if name not in self.jobs:
                raise unknown_name_error("job", name, self.jobs)
        expressions = {name: settings.cron.get(name, job.cron) for name, job in self.jobs.items()}
        for cron in set(expressions.values()) - {OFF}:
            next_time(cron, 0)
        return expressions if settings.enabled else dict.fromkeys(expressions, OFF)

    def start(self) -> None:
        """Start to look for due jobs; does nothing without a store. Raises ConfigError (`crons`)."""
        if self._state.store is not None:
            self.crons()
            self._thread = threading.Thread(target=self._loop, name="recpolicy-scheduler", daemon=True)
            self._thread.start()
            self._state.background.add("scheduler", self._thread.is_alive)

    def close(self) -> None:
        """Stop: begin no more runs, stop unfinished runs and record them as failed."""
        self._stopping.set()
        limit = time.monotonic() + _CLOSE_SECONDS
        if self._thread is not None:  # first, because it may be starting a run
            self._thread.join(_CLOSE_SECONDS)
        with self._lock:
            threads = list(self._mine.values())
        for thread in threads:
            thread.join(max(0.0, limit - time.monotonic()))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Call `start`, and `close` at the end."""
        self.start()
        try:
            yield
        finally:
            self.close()

    def tick(self) -> list[int]:
        """Check once: update heartbeats, mark lost runs, begin due jobs; return the runs that began."""
        engine, now = self._state.require_store().engine, self._clock()
        if not self._set:
            with transaction(engine) as connection:
                runs.set_crons(connection, self.crons(), now, next_time)
            self._set = True
        self._heartbeat(now)
        self._mark_lost(now)
        with engine.connect() as connection:
            table = [due for due in runs.list_schedules(connection) if due.name in self.jobs]
        begun = [self._begin(due, now) for due in table if due.next_at <= now]
        for due in table:
            if due.next_at > now:
                self._repair_schedule(due, now)
        return [run for run in begun if run is not None]

    def trigger(self, name: str, parameters: Mapping[str, Any], actor: str) -> int:
        """Begin a run now; return its number.

        Raises ConfigError for an unknown job or parameter, or if the job has an unfinished run.
        """
        if name not in self.jobs:
            raise unknown_name_error("job", name, self.jobs)
        job, engine = self.jobs[name], self._state.require_store().engine
        checked = _checked(job, parameters)
        with transaction(engine) as connection:
            run = runs.begin_by_hand(connection, name, self.worker, self._clock())
            if run is None:
                number = runs.under_way(connection, name)
                raise ConfigError(f"{name} is running (run {number}); wait for its end")
            admin.write_audit(connection, actor, "run_job", {"job": name, "run": run, "parameters": dict(parameters)})
        self._run(job, run, checked)
        return run

    def wait(self, run: int, seconds: float) -> bool:
        """Wait for the end of a run of this process; return True if it has ended."""
        thread = self._mine.get(run)
        if thread is not None:
            thread.join(seconds)
        return thread is None or not thread.is_alive()

    def _loop(self) -> None:
        while not self._stopping.wait(TICK_SECONDS):
            try:
                self.tick()
                self._down = False
            except (SQLAlchemyError, StoreError) as error:
                if not self._down:
                    logger.error("the database does not answer, so jobs wait: %s", type(error).__name__)
                self._down = True
            except Exception:  # on any error: the next second may be better
                logger.exception("the scheduler failed")

    def _heartbeat(self, now: int) -> None:
        with self._lock:
            self._mine = {run: thread for run, thread in self._mine.items() if thread.is_alive()}
        if self._mine and self._monotonic() - self._beaten >= BEAT_SECONDS:
            with transaction(self._state.require_store().engine) as connection:
                runs.beat(connection, self._mine, now)
            self._beaten = self._monotonic()

    def _mark_lost(self, now: int) -> None:
        engine, at = self._state.require_store().engine, self._monotonic()
        with engine.connect() as connection:
            heartbeats = runs.heartbeats(connection)
        others = {run: heartbeat for run, heartbeat in heartbeats.items() if run not in self._mine}
        self._seen = {
            run: self._seen[run] if run in self._seen and self._seen[run][0] == heartbeat else (heartbeat, at)
            for run, heartbeat in others.items()
        }
        silent = {run: heartbeat for run, (heartbeat, since) in self._seen.items() if at - since >= LOST_SECONDS}
        if not silent:
            return
        with transaction(engine) as connection:
            lost = runs.lose(connection, silent, now)
            names = {run: (runs.run(connection, run) or {}).get("name") for run in lost}
        for run, name in names.items():
            send_alert(
                self._state, f"job_lost.{name}", f"run {run} of {name} is lost: its process has ended", {"run": run}
            )

    def _begin(self, due: Schedule, now: int) -> int | None:
        with transaction(self._state.require_store().engine) as connection:
            run = runs.claim(connection, due, self.worker, now, next_time)
        if run is not None:
            self._run(self.jobs[due.name], run, _checked(self.jobs[due.name], {}))
        return run

    def _repair_schedule(self, due: Schedule, now: int) -> None:
        if runs.too_far(due, now, next_time):
            with transaction(self._state.require_store().engine) as connection:
                runs.bring_nearer(connection, due, now, next_time)

    def _run(self, job: Job, run: int, parameters: Mapping[str, Any]) -> None:
        context = contextvars.copy_context()
        context.run(STOP_EVENT.set, self._stopping)
        thread = threading.Thread(
            target=context.run, args=(self._work, job, run, parameters), name=f"recpolicy-job-{job.name}", daemon=True
        )
        with self._lock:
            if not self._mine:
                self._beaten = self._monotonic()
            thread.start()
            self._mine[run] = thread

    def _work(self, job: Job, run: int, parameters: Mapping[str, Any]) -> None:
        """Run a job and record the result."""
        try:
            ended = job.run(self._state, parameters)
        except Exception as error:
            ended = JobResult(status=FAILED, metadata={"error": error_text(error)})
            logger.error("job %s failed: %s", job.name, error_text(error), extra={"fields": {"run": run}})
        try:
            with transaction(self._state.require_store().engine) as connection:
                runs.end(connection, run, ended, self._clock())
        except SQLAlchemyError as error:
            logger.error("the result of run %d of %s could not be written: %s", run, job.name, type(error).__name__)
        if ended.status == FAILED and not self._stopping.is_set():
            send_alert(self._state, f"job_failed.{job.name}", f"{job.name}: {ended.metadata['error']}", {"run": run})


def error_text(error: BaseException) -> str:
    """Return the message of a library error, or of a lack of memory.

    Others give only type and location, because messages may hold user data.
    """
    if isinstance(error, RecpolicyError):
        return " ".join(str(error).split())[:_ERROR_LETTERS]
    if isinstance(error, MemoryError):
        return out_of_memory(error)[:_ERROR_LETTERS]
    location = exception_location(error)
    return f"{location['exception']} at {os.path.basename(location['raised_at'])}"  # noqa: PTH119


def _checked(job: Job, parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters with defaults for missing ones; raises ConfigError."""
    if job.parameters is None:
        if parameters:
            raise ConfigError(f"{job.name} takes no parameters; found {', '.join(sorted(parameters))}")
        return {}
    return as_dict(build(job.parameters, parameters, job.name))
