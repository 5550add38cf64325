"""The check that moves a rollout on: reads its figures, decides, and makes the step. Runs every few seconds.

Any process may run it at any time: whoever holds the turn does, the others have nothing to do. A check first finishes
what a killed process began.
"""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from recpolicy.core.config import build
from recpolicy.core.errors import StoreError
from recpolicy.server.db import rollouts
from recpolicy.server.db.audit import SERVER
from recpolicy.server.db.rollouts import Rollout
from recpolicy.server.deps import AppState
from recpolicy.server.jobs.alerts import send_alert
from recpolicy.server.jobs.job import JobResult
from recpolicy.server.rollout.background import flush
from recpolicy.server.rollout.controller import advance, current_metrics, end, rollout_lock, serving_registry
from recpolicy.server.rollout.reconcile import manual_override, reconcile, traffic_override
from recpolicy.server.rollout.rollout_plan import Decision, RolloutConfig, decide

_ENDS = {"promote": "promoted", "roll_back": "rolled_back"}


def check_rollout(state: AppState, params: Mapping[str, Any]) -> JobResult:  # noqa: ARG001 (every job is given some)
    """Take the next step of the rollout that runs, if there is one and the step is due."""
    if state.policies.registry is None:
        return _skipped("no registry")
    with ExitStack() as stack:
        try:
            stack.enter_context(rollout_lock(serving_registry(state), seconds=0.5))
        except StoreError:
            return _skipped("another process checks")
        return _check(state)


def _check(state: AppState) -> JobResult:
    with state.require_store().engine.connect() as connection:
        row = rollouts.unfinished(connection)
    if row is not None and not row.reconciled:
        row = reconcile(state, row, SERVER)
    if row is None or row.state != "running":
        return _skipped("no rollout runs")
    routing = serving_registry(state).routing()
    over = manual_override(routing, row)
    if over is not None:
        end(state, row, over[0], SERVER, over[1])
        return JobResult(metadata={"rollout": row.id, "action": over[0], "reason": over[1]})
    flush(state)
    return _step(state, row, build(RolloutConfig, row.plan, "rollout"))


def _step(state: AppState, row: Rollout, config: RolloutConfig) -> JobResult:
    figures = current_metrics(state, row, config)
    decision = decide(figures, row.stage, config)
    held = traffic_override(serving_registry(state).routing(), row, config)
    if held is not None and decision.action != "roll_back":
        decision = Decision("wait", held)
    if decision.action == "advance":
        advance(state, row, SERVER, decision.reason, figures)
    elif decision.action in _ENDS:
        end(state, row, _ENDS[decision.action], SERVER, decision.reason, figures)
        if decision.action == "roll_back":
            send_alert(state, f"rollout.rolled_back.{row.id}", decision.reason, figures.shown())
    return JobResult(
        users=figures.champion.users + figures.challenger.users,
        records=figures.champion.rewards + figures.challenger.rewards,
        metadata={
            "rollout": row.id, "stage": row.stage, "action": decision.action, "reason": decision.reason,
            "figures": figures.shown(),
        },
    )  # fmt: skip


def _skipped(why: str) -> JobResult:
    return JobResult(status="skipped", metadata={"reason": why})
