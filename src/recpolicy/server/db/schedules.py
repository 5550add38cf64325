"""Schedules: one row per job with its next due time, shared by all server processes.

The process that updates the row of a due job runs it: the update and the run's row are one transaction. `(name,
due_at)` is unique among runs, so no job runs twice for one due time, whatever the clocks do.
"""

from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select, update

from recpolicy.server.db import jobs
from recpolicy.server.db.engine import upsert
from recpolicy.server.db.schema import schedules

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
            connection.execute(upsert(connection, schedules).values(name=name, **values).on_conflict_do_nothing())


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
    if jobs.under_way(connection, due.name) is not None:
        return None
    # Never before the due time: a clock that was set back must not make the job due again.
    values = {"next_at": next_time(due.cron, max(now, due.next_at))}
    moved = connection.execute(update(schedules).where(here, schedules.c.next_at == due.next_at).values(values))
    if not moved.rowcount or jobs.ran_at(connection, due.name, due.next_at):
        return None
    return jobs.begin(connection, due.name, worker, now, due.next_at)


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
    if jobs.under_way(connection, name) is not None:
        return None
    return jobs.begin(connection, name, worker, now)
