"""Runs of jobs: one row per run, with its result."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Connection, delete, insert, select, update

from recpolicy.core.files import rename_keys
from recpolicy.core.json import to_plain
from recpolicy.server.db.schema import jobs

_OLD_KEYS = {"figures": "metrics"}
"""Keys in the metadata of older runs, and the current ones."""
RUNNING, DONE, FAILED, SKIPPED, LOST = "running", "done", "failed", "skipped", "lost"
_SKIPPED_MS = 3_600_000  # skipped runs are deleted after this time, except the last one of each job


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The result of a run."""

    status: str
    """done, failed, skipped or lost."""
    users: int | None = None
    records: int | None = None
    metadata: Mapping[str, Any]


def begin(connection: Connection, name: str, worker: str, now: int, due_at: int | None = None) -> int:
    """Record the start of a run; return the run's number. The caller commits."""
    row = {"name": name, "status": RUNNING, "due_at": due_at, "executed_at": now, "heartbeat": now, "worker": worker}
    written = connection.execute(insert(jobs).values({**row, "metadata": "{}"}))
    assert written.inserted_primary_key is not None
    return int(written.inserted_primary_key[0])


def beat(connection: Connection, runs: Iterable[int], now: int) -> None:
    """Update the heartbeats of these runs; they change whatever the clock says."""
    later = select(jobs.c.id, jobs.c.heartbeat).where(jobs.c.id.in_(list(runs)), jobs.c.status == RUNNING)
    for run, heartbeat in connection.execute(later).all():
        value = now if now != heartbeat else now + 1
        connection.execute(update(jobs).where(jobs.c.id == run).values(heartbeat=value))


def end(connection: Connection, run: int, ended: RunResult, now: int) -> None:
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
    metadata = json.dumps({"error": "the process that ran it is gone"})
    values = {"status": LOST, "finished_at": now, "metadata": metadata}
    lost = []
    for run, heartbeat in silent.items():
        still = (jobs.c.id == run, jobs.c.status == RUNNING, jobs.c.heartbeat == heartbeat)
        if connection.execute(update(jobs).where(*still).values(values)).rowcount:
            lost.append(run)
    return lost


def under_way(connection: Connection, name: str) -> int | None:
    """Return the unfinished run of this job."""
    found = connection.scalar(select(jobs.c.id).where(jobs.c.name == name, jobs.c.status == RUNNING).limit(1))
    return None if found is None else int(found)


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
