"""Evaluations and feature importances of ranked events: records in the database, computed in a subprocess.

One runs at a time in each server process. A record that still runs after an hour belongs to a process that has ended.
"""

import json
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import Connection, delete, select, update

from recpolicy.core.errors import RecpolicyError
from recpolicy.server.db.engine import transaction, upsert
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.rollouts import ConflictError
from recpolicy.server.db.schema import rank_evaluations
from recpolicy.server.deps import AppState
from recpolicy.server.jobs.subprocess_jobs import run_in_subprocess

logger = logging.getLogger(__name__)

EVALUATION, IMPORTANCE = "evaluation", "importance"
RUNNING, SUCCEEDED, FAILED, TIMEOUT = "Running", "Succeeded", "Failed", "Timeout"
_LOST_MS = 3_600_000
_runner = ThreadPoolExecutor(1, thread_name_prefix="recpolicy-rank-evaluation")


def begin(state: AppState, kind: str, identity: str, name: str, since: int, until: int) -> None:
    """Record an evaluation and start it; raises ConflictError for an id that is taken."""
    engine = state.require_store().engine
    row = {"kind": kind, "id": identity, "name": name, "start_time": since, "end_time": until,
           "created_at": now_ms(), "status": RUNNING, "result": None}  # fmt: skip
    insert = upsert(engine.dialect.name, rank_evaluations).values(row).on_conflict_do_nothing()
    with transaction(engine) as connection:
        if not connection.execute(insert).rowcount:
            raise ConflictError(f"there is an {kind} with this id; delete it, or choose another id")
    parameters = {"kind": kind, "since": since, "until": until, "version": state.ranking_version().number}
    _runner.submit(_run, state, kind, identity, parameters)


def _run(state: AppState, kind: str, identity: str, parameters: Mapping[str, Any]) -> None:
    """Compute and store the result."""
    try:
        status, result = SUCCEEDED, dict(run_in_subprocess(state, "evaluate_ranks", parameters).metadata)
    except RecpolicyError as error:
        status, result = FAILED, {"reason": str(error)}
    except Exception as error:
        logger.exception("an evaluation of ranks failed")
        status, result = FAILED, {"reason": type(error).__name__}
    mine = (rank_evaluations.c.kind == kind) & (rank_evaluations.c.id == identity)
    try:
        with transaction(state.require_store().engine) as connection:
            connection.execute(update(rank_evaluations).where(mine).values(status=status, result=json.dumps(result)))
    except Exception:
        logger.exception("the result of an evaluation of ranks is not stored")


def find(connection: Connection, kind: str, identity: str) -> Any:
    """Return a record as a mapping; None for an unknown id."""
    columns = rank_evaluations.c
    row = connection.execute(select(rank_evaluations).where(columns.kind == kind, columns.id == identity)).first()
    return None if row is None else _current(row)


def find_all(connection: Connection, kind: str, top: int, skip: int) -> list[Any]:
    """Return records, the latest first."""
    columns = rank_evaluations.c
    query = select(rank_evaluations).where(columns.kind == kind).order_by(columns.created_at.desc(), columns.id)
    return [_current(row) for row in connection.execute(query.offset(skip).limit(top))]


def remove(state: AppState, kind: str, identity: str) -> bool:
    """Delete a record; return False for an unknown id."""
    mine = (rank_evaluations.c.kind == kind) & (rank_evaluations.c.id == identity)
    with transaction(state.require_store().engine) as connection:
        return bool(connection.execute(delete(rank_evaluations).where(mine)).rowcount)


def _current(row: Any) -> dict[str, Any]:
    lost = row.status == RUNNING and now_ms() - row.created_at > _LOST_MS
    result = None if row.result is None else json.loads(row.result)
    return {**row._mapping, "status": TIMEOUT if lost else row.status, "result": result}
