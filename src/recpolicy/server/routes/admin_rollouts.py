"""Routes for rollouts: start, inspect and stop."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from starlette.exceptions import HTTPException

from recpolicy.core.errors import ArtifactError
from recpolicy.server.auth.roles import Operator, Reader
from recpolicy.server.db import rollouts
from recpolicy.server.db.rollouts import ConflictError, Rollout
from recpolicy.server.deps import StateDep
from recpolicy.server.json_output import json_response
from recpolicy.server.rollout import controller
from recpolicy.server.rollout.stage_metrics import StageMetrics, VariantHealth
from recpolicy.server.schemas.rollouts import (
    CurrentRollout,
    RolloutList,
    RolloutRequest,
    RolloutResponse,
    RolloutSignals,
)

router = APIRouter(prefix="/v1/admin", tags=["admin"])


@router.post("/rollouts", response_model=RolloutResponse, status_code=201)
def start_rollout(request: RolloutRequest, caller: Operator, state: StateDep) -> Response:
    """Start a rollout. The challenger serves the users of the first stage at once."""
    known = {version.number for version in state.require_registry().versions()}
    if request.challenger not in known:
        raise HTTPException(
            404, f"version {request.challenger} does not exist; GET /v1/admin/versions lists the versions"
        )
    try:
        row = controller.start(state, request.challenger, caller.name, request.plan(), ungated=request.ungated)
    except ArtifactError as error:
        raise HTTPException(409, str(error)) from None
    return json_response(_describe(row), 201)


@router.get("/rollouts", response_model=RolloutList)
def list_rollouts(
    _: Reader,
    state: StateDep,
    count: Annotated[int, Query(ge=1, le=1000, description="Largest number of rollouts.")] = 50,
) -> Response:
    """List the latest rollouts, newest first."""
    with state.require_store().engine.connect() as connection:
        rows = rollouts.latest(connection, count)
    return json_response({"rollouts": [_describe(row) for row in rows]})


@router.get("/rollouts/current", response_model=CurrentRollout)
def show_rollout(_: Reader, state: StateDep) -> Response:
    """Show the running rollout with its metrics and its next action."""
    status = controller.status(state)
    if status is None:
        return json_response({"rollout": None, "metrics": None, "next": None, "reason": None})
    decision, metrics = status.decision, describe_metrics(status.metrics, status.rollout.plan["shadow"])
    return json_response(
        {"rollout": _describe(status.rollout), "metrics": metrics, "next": decision.action, "reason": decision.reason}
    )


@router.get("/rollouts/current/signals", response_model=RolloutSignals)
def show_rollout_signals(_: Reader, state: StateDep) -> Response:
    """Compare every signal of the variants of the running rollout, for all users and by segment."""
    rows = controller.signals(state)
    if rows is None:
        raise HTTPException(404, "no rollout is running")
    return json_response({"rows": rows})


@router.delete("/rollouts/current", response_model=RolloutResponse)
def stop_rollout(caller: Operator, state: StateDep) -> Response:
    """Stop the running rollout. The champion serves all users at once."""
    try:
        return json_response(_describe(controller.stop(state, caller.name)))
    except ConflictError as error:
        raise HTTPException(404, str(error)) from None


def describe_metrics(metrics: StageMetrics, shadow: bool) -> dict[str, Any]:
    """Return the metrics as JSON with means in place of sums; `shadow`: with the shadow comparisons."""
    both = {"champion": metrics.champion_health, "challenger": metrics.challenger_health}
    rest = {name: part for name, part in metrics.as_dict().items() if not name.endswith("_health")}
    health = {name: _health(counts) for name, counts in both.items()}
    return rest | {"health": health, "shadow": _shadow(metrics.challenger_health) if shadow else None}


def _health(health: VariantHealth) -> dict[str, Any]:
    counts = {"requests": health.requests, "failures": health.failures, "slow": health.slow}
    return counts | {"mean_ms": health.mean_ms}


def _shadow(health: VariantHealth) -> dict[str, Any]:
    compared = health.requests - health.failures
    return {
        "compared": compared,
        "dropped": health.dropped,
        "agreement": health.agreement / compared if compared else None,
        "rating_difference": health.rating_difference / compared if compared else None,
    }


def _describe(row: Rollout) -> dict[str, Any]:
    return asdict(row) | {"traffic_fraction": row.plan["stages"][row.stage]}
