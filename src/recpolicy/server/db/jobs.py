"""Jobs in the database: one row per run with its result, and one row per job with its next due time.

All server processes share the rows. The process that updates the row of a due job runs it: the update and the run's row
are one transaction. `(name, due_at)` is unique among runs, so no job runs twice for one due time, even
if a clock changes.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from recpolicy.core.files import rename_keys
from recpolicy.core.json import to_plain
from recpolicy.server.db.engine import upsert
from recpolicy.server.db.schema import jobs, schedules

_OLD_KEYS = {"figures": "metrics"}
"""Keys in the metadata of older runs, and the current ones."""
RUNNING, DONE, FAILED, SKIPPED, LOST = "running", "done", "failed", "skipped", "lost"
_SKIPPED_MS = 3_600_000  # skipped runs are deleted after this time, except the last one of each job


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """The result of a run."""

    status: str = DONE
    """done, failed, lost, or skipped if there was nothing to do."""
    users: int | None = None
    """Users processed."""
    records: int | None = None
    """Records processed."""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    """JSON: statistics of a training, metrics of a check, an error, or the `reason` of a run that was skipped."""

    def __post_init__(self) -> None:
        """Raise ValueError for a skipped run without its reason: nobody could tell why nothing happened."""
        if self.status == SKIPPED and not self.metadata.get("reason"):
            raise ValueError("a skipped run needs a reason in its metadata")


def begin(connection: Connection, name: str, worker: str, now: int, due_at: int | None = None) -> int:
    """Record the start of a run; return the run's number. The caller commits."""
    row = {"name": name, "status": RUNNING, "due_at": due_at, "executed_at": now, "heartbeat": now, "worker": worker}
    written = connection.execute(insert(jobs).values({**row, "metadata": "{}"}))
    assert written.inserted_primary_key is not None
    return int(written.inserted_primary_key[0])


def beat(connection: Connection, runs: Iterable[int], now: int) -> None:
    """Update the heartbeats of these runs; they change even if the clock stands still."""
    later = select(jobs.c.id, jobs.c.heartbeat).where(jobs.c.id.in_(list(runs)), jobs.c.status == RUNNING)
    for run, heartbeat in connection.execute(later).all():
        value = now if now != heartbeat else now + 1
        connection.execute(update(jobs).where(jobs.c.id == run).values(heartbeat=value))


def end(connection: Connection, run: int, ended: JobResult, now: int) -> None:
    """Record the result of a run, even if the run was already marked as lost. The caller commits."""
    values = {
        "status": ended.status, "finished_at": now, "users": ended.users, "records": ended.records,
        "metadata": json.dumps(to_plain(ended.metadata), allow_nan=False, default=str),
    }  # fmt: skip
    connection.execute(update(jobs).where(jobs.c.id == run, jobs.c.status.in_((RUNNING, LOST))).values(values))
    if ended.status == SKIPPED:  # a job that runs every few seconds must not fill the table with skipped runs
        name = select(jobs.c.name).where(jobs.c.id == run).scalar_subquery()
        old = (jobs.c.status == SKIPPED, jobs.c.id < run, jobs.c.executed_at < now - _SKIPPED_MS)
        connection.execute(delete(jobs).where(jobs.c.name == name, *old))


def heartbeats(connection: Connection) -> dict[int, int]:
    """Return the last heartbeat of every unfinished run."""
    rows = connection.execute(select(jobs.c.id, jobs.c.heartbeat).where(jobs.c.status == RUNNING))
    return {row.id: row.heartbeat for row in rows}


def lose(connection: Connection, silent: Mapping[int, int], now: int) -> list[int]:
    """Mark runs as lost if their heartbeats have not changed; return their numbers."""
    metadata = json.dumps({"error": "the process of the run has ended"})
    values = {"status": LOST, "finished_at": now, "metadata": metadata}
    lost = []
    for run, heartbeat in silent.items():
        still = (jobs.c.id == run, jobs.c.status == RUNNING, jobs.c.heartbeat == heartbeat)
        if connection.execute(update(jobs).where(*still).values(values)).rowcount:
            lost.append(run)
    return lost


def under_way(connection: Connection, name: str) -> int | None:
    """Return the unfinished run of this job."""
    running = connection.scalar(select(jobs.c.id).where(jobs.c.name == name, jobs.c.status == RUNNING).limit(1))
    return None if running is None else int(running)


def ran_at(connection: Connection, name: str, due_at: int) -> bool:
    """Return True if the job already ran for this due time."""
    wanted = select(jobs.c.id).where(jobs.c.name == name, jobs.c.due_at == due_at)
    return connection.scalar(wanted) is not None


def runs(connection: Connection, name: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
    """Return the latest runs, newest first; only those of one job if `name` is not None."""
    wanted = select(jobs).order_by(jobs.c.id.desc()).limit(limit)
    if name is not None:
        wanted = wanted.where(jobs.c.name == name)
    return [_plain(row) for row in connection.execute(wanted).mappings()]


def run(connection: Connection, number: int) -> dict[str, Any] | None:
    """Return a run; None if there is none."""
    row = connection.execute(select(jobs).where(jobs.c.id == number)).mappings().first()
    return None if row is None else _plain(row)


def latest_done(connection: Connection, name: str) -> dict[str, Any] | None:
    """Return the latest completed run of a job."""
    wanted = select(jobs).where(jobs.c.name == name, jobs.c.status == DONE).order_by(jobs.c.id.desc()).limit(1)
    row = connection.execute(wanted).mappings().first()
    return None if row is None else _plain(row)


def _plain(row: Mapping[Any, Any]) -> dict[str, Any]:
    return {**row, "metadata": rename_keys(json.loads(row["metadata"]), _OLD_KEYS)}


NextTime = Callable[[str, int], int]
"""(cron, after) -> next due time; milliseconds since 1970."""
OFF = "off"
"""The cron of a job that runs only by hand."""
NEVER = 2**62


@dataclass(frozen=True)
class Schedule:
    """The schedule of a job."""

    name: str
    cron: str
    next_at: int


def set_crons(connection: Connection, crons: dict[str, str], now: int, next_time: NextTime) -> None:
    """Make the table hold exactly these jobs; a job with the same cron keeps its due time. The caller commits.

    Raises ConfigError for an invalid cron expression.
    """
    known = {row.name: row.cron for row in connection.execute(select(schedules).with_for_update())}
    for name in known.keys() - crons.keys():
        connection.execute(delete(schedules).where(schedules.c.name == name))
    for name, cron in crons.items():
        if known.get(name) == cron:
            continue
        values = {"cron": cron, "next_at": NEVER if cron == OFF else next_time(cron, now)}
        if name in known:
            connection.execute(update(schedules).where(schedules.c.name == name).values(values))
        else:  # another process may be starting, too
            connection.execute(
                upsert(connection.dialect.name, schedules).values(name=name, **values).on_conflict_do_nothing()
            )


def list_schedules(connection: Connection) -> list[Schedule]:
    """Return every job's schedule by name; the due time is NEVER for jobs that run only by hand."""
    return [Schedule(*row) for row in connection.execute(select(schedules).order_by(schedules.c.name))]


def claim(connection: Connection, due: Schedule, worker: str, now: int, next_time: NextTime) -> int | None:
    """Begin the run of a due job unless another process has; return its number, or None if there is nothing to do.

    A job with an unfinished run stays due. The caller commits.
    """
    here = schedules.c.name == due.name
    if connection.scalar(select(schedules.c.next_at).where(here).with_for_update()) != due.next_at:
        return None
    if under_way(connection, due.name) is not None:
        return None
    # Never before the due time: a clock that was set back must not make the job due again.
    values = {"next_at": next_time(due.cron, max(now, due.next_at))}
    moved = connection.execute(update(schedules).where(here, schedules.c.next_at == due.next_at).values(values))
    if not moved.rowcount or ran_at(connection, due.name, due.next_at):
        return None
    return begin(connection, due.name, worker, now, due.next_at)


def too_far(due: Schedule, now: int, next_time: NextTime) -> bool:
    """Return True if a due time is more than two periods ahead: the clock was set back."""
    return due.cron != OFF and due.next_at > next_time(due.cron, next_time(due.cron, now))


def bring_nearer(connection: Connection, due: Schedule, now: int, next_time: NextTime) -> None:
    """Make a job due at its next time from now that it has not run for. The caller commits."""
    here = (schedules.c.name == due.name, schedules.c.next_at == due.next_at)
    connection.execute(update(schedules).where(*here).values(next_at=next_time(due.cron, now)))


def begin_by_hand(connection: Connection, name: str, worker: str, now: int) -> int | None:
    """Begin a run by hand; return None if the job has an unfinished run. The caller commits."""
    connection.execute(select(schedules.c.name).where(schedules.c.name == name).with_for_update())
    if under_way(connection, name) is not None:
        return None
    return begin(connection, name, worker, now)
