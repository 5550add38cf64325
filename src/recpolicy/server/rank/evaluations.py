"""Evaluations and feature importances of ranked events: records in the database, computed in a subprocess.

One runs at a time in each server process. A record that still runs after an hour belongs to a process that has ended.
"""

import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sqlalchemy import Connection, delete, select, update
from starlette.exceptions import HTTPException

from recpolicy.core.errors import DataError, RecpolicyError
from recpolicy.registry.version_files import Version
from recpolicy.server import registry_actions
from recpolicy.server.auth.keys import Caller
from recpolicy.server.db.engine import transaction, upsert
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.rollouts import ConflictError
from recpolicy.server.db.schema import rank_evaluations
from recpolicy.server.deps import AppState
from recpolicy.server.jobs.subprocess_jobs import run_in_subprocess
from recpolicy.server.rank.evaluation_files import candidates_folder, register_candidate, remove_candidates
from recpolicy.server.rank.service import LEARNING, RESET

logger = logging.getLogger(__name__)

EVALUATION, IMPORTANCE = "evaluation", "importance"
RUNNING, SUCCEEDED, FAILED, TIMEOUT = "Running", "Succeeded", "Failed", "Timeout"
_LOST_MS = 3_600_000
_runner = ThreadPoolExecutor(1, thread_name_prefix="recpolicy-rank-evaluation")


def begin(
    state: AppState, kind: str, identity: str, name: str, since: int, until: int,
    candidates: Sequence[Mapping[str, str]] = (), *, optimize: bool = False,
) -> None:  # fmt: skip
    """Record an evaluation and start it; raises ConflictError for an id that is taken.

    Args:
        state: The server.
        kind: EVALUATION or IMPORTANCE.
        identity: Id of the evaluation.
        name: Name of the evaluation.
        since: First time, in milliseconds since 1970.
        until: Time after the last event.
        candidates: Names and arguments of learning settings; each is trained and evaluated.
        optimize: Also search for settings.
    """
    parameters = {"kind": kind, "since": since, "until": until, "version": state.ranking_version().number}
    engine, created = state.require_store().engine, now_ms()
    if candidates or optimize:
        folder = candidates_folder(state, identity, created)
        parameters |= {"candidates": list(candidates), "optimize": optimize, "folder": str(folder)}
    row = {"kind": kind, "id": identity, "name": name, "start_time": since, "end_time": until,
           "created_at": created, "status": RUNNING, "result": None}  # fmt: skip
    insert = upsert(engine.dialect.name, rank_evaluations).values(row).on_conflict_do_nothing()
    with transaction(engine) as connection:
        if not connection.execute(insert).rowcount:
            raise ConflictError(f"there is an {kind} with this id; delete it, or choose another id")
    _runner.submit(_run, state, kind, identity, created, parameters)


def _run(state: AppState, kind: str, identity: str, created: int, parameters: Mapping[str, Any]) -> None:
    """Compute and store the result of a record with this time of creation.

    A record that was deleted gets none, nor does a later one of the same id; its files are removed.
    """
    try:
        status, result = SUCCEEDED, dict(run_in_subprocess(state, "evaluate_ranks", parameters).metadata)
    except RecpolicyError as error:
        status, result = FAILED, {"reason": str(error)}
    except Exception as error:
        logger.exception("an evaluation of ranks failed")
        status, result = FAILED, {"reason": type(error).__name__}
    named = (rank_evaluations.c.kind == kind) & (rank_evaluations.c.id == identity)
    mine = named & (rank_evaluations.c.created_at == created)
    values = {"status": status, "result": json.dumps(result)}
    try:
        with transaction(state.require_store().engine) as connection:
            stored = bool(connection.execute(update(rank_evaluations).where(mine).values(values)).rowcount)
        if not stored and kind == EVALUATION:
            remove_candidates(state, identity, created)
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
        created = connection.scalar(delete(rank_evaluations).where(mine).returning(rank_evaluations.c.created_at))
    if created is not None and kind == EVALUATION:
        remove_candidates(state, identity, created)
    return created is not None


def apply_candidate(state: AppState, caller: Caller, identity: str, name: str, *, ungated: bool) -> Version:
    """Register a candidate of an evaluation, and make it the champion.

    Args:
        state: The server.
        caller: The operator.
        identity: Id of the evaluation.
        name: Name of the candidate.
        ungated: Promote it although its gate does not say pass.

    Raises:
        HTTPException: 404 for an unknown evaluation or policy.
        ConflictError: The evaluation has not succeeded, its files are gone, or the gate does not say pass. Nothing
            is registered then.
        DataError: The evaluation did not train the policy.
    """
    with state.require_store().engine.connect() as connection:
        record = find(connection, EVALUATION, identity)
    if record is None:
        raise HTTPException(404, "there is no evaluation with this id")
    if record["status"] != SUCCEEDED:
        raise ConflictError(f"the evaluation is {record['status']}; only one that succeeded can be applied")
    policies = {policy["name"]: policy for policy in record["result"]["policies"]}
    policy = policies.get(name)
    if policy is None:
        trained = ", ".join(other for other in policies if "folder" in policies[other]) or "none"
        raise HTTPException(404, f"the evaluation has no policy {name[:80]!r}; it trained: {trained}")
    if "folder" not in policy:
        raise DataError(f"the evaluation did not train {name}; name one of the policies that it trained")
    if policy["gate"] != "pass" and not ungated:
        reasons = "; ".join(policy["gate_reasons"]) or "no reason given"
        raise ConflictError(
            f"the gate of {name[:80]} says {policy['gate']}: {reasons}. Nothing was registered; ?ungated=true applies"
            " the policy all the same"
        )
    note = {"by": caller.name, "evaluation": identity, "policy": name}
    version = register_candidate(state, record, policy, note)
    registry_actions.write_audit(state, caller, "apply_evaluation", {**note, "number": version.number})
    registry_actions.apply(state, caller, "promote", registry_actions.promote(version.number, ungated=ungated))
    registry_actions.sync_versions(state)
    current, engine = state.rank.current, state.require_store().engine
    for setting, value in ((RESET, current.reset_version), (LEARNING, current.learning)):
        if value is not None:
            state.rank.store(engine, setting, None)
    return version


def _current(row: Any) -> dict[str, Any]:
    lost = row.status == RUNNING and now_ms() - row.created_at > _LOST_MS
    result = None if row.result is None else json.loads(row.result)
    return {**row._mapping, "status": TIMEOUT if lost else row.status, "result": result}
