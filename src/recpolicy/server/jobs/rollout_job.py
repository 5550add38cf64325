"""The job that advances a rollout: it reads the metrics, decides and acts. It runs every few seconds.

Any process may run it at any time: the process that holds `rollout_lock` does the work, the others skip. A check first
finishes the interrupted step of a killed process.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from recpolicy.core.config import build
from recpolicy.core.errors import StoreError
from recpolicy.server.db import rollouts
from recpolicy.server.db.admin import SERVER
from recpolicy.server.db.jobs import JobResult
from recpolicy.server.db.rollouts import Rollout
from recpolicy.server.deps import AppState
from recpolicy.server.jobs.alerts import send_alert
from recpolicy.server.jobs.scheduler import Job
from recpolicy.server.rollout.background import flush
from recpolicy.server.rollout.controller import advance, current_metrics, end, next_decision, rollout_lock
from recpolicy.server.rollout.reconcile import manual_override, reconcile
from recpolicy.server.settings import RolloutConfig

_ENDS = {"promote": "promoted", "roll_back": "rolled_back"}


def check_rollout(state: AppState, params: Mapping[str, Any]) -> JobResult:  # noqa: ARG001 - every job gets parameters
    """Take the next step of the running rollout, if there is one and the step is due."""
    if state.models.registry is None:
        return _skipped("the server has no registry")
    with ExitStack() as stack:
        try:
            stack.enter_context(rollout_lock(state.models.registry, seconds=0.5))
        except StoreError:
            return _skipped("another process checks the rollout")
        return _check(state)


def _check(state: AppState) -> JobResult:
    with state.require_store().engine.connect() as connection:
        row = rollouts.unfinished(connection)
    if row is not None and not row.reconciled:
        row = reconcile(state, row, SERVER)
    if row is None or row.state != "running":
        return _skipped("no rollout is running")
    override = manual_override(state.require_registry(), row)
    if override is not None:
        outcome, reason = override
        end(state, row, outcome, SERVER, reason)
        return JobResult(metadata={"rollout": row.id, "action": outcome, "reason": reason})
    flush(state)
    return _step(state, row, build(RolloutConfig, row.plan, "rollout"))


def _step(state: AppState, row: Rollout, config: RolloutConfig) -> JobResult:
    metrics = current_metrics(state, row, config)
    decision = next_decision(state, row, config, metrics)
    if decision.action == "advance":
        advance(state, row, SERVER, decision.reason, metrics)
    elif decision.action in _ENDS:
        end(state, row, _ENDS[decision.action], SERVER, decision.reason, metrics)
        if decision.action == "roll_back":
            send_alert(state, f"rollout.rolled_back.{row.id}", decision.reason, metrics.as_dict())
    metadata = {"rollout": row.id, "stage": row.stage, "action": decision.action, "reason": decision.reason}
    return JobResult(
        users=metrics.champion.users + metrics.challenger.users,
        records=metrics.champion.rewards + metrics.challenger.rewards,
        metadata=metadata | {"metrics": metrics.as_dict()},
    )


def _skipped(reason: str) -> JobResult:
    return JobResult(status="skipped", metadata={"reason": reason})


CHECK_ROLLOUT = Job(
    name="check_rollout",
    description="Advance the running rollout to its next stage, promote its challenger, or roll it back.",
    cron="@every 10s",
    run=check_rollout,
)
