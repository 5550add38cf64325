"""Rollouts: start one, inspect it, stop it."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from starlette.exceptions import HTTPException

from recpolicy.core.errors import ArtifactError
from recpolicy.server.auth.roles import Operator, Reader
from recpolicy.server.db import rollouts
from recpolicy.server.db.rollouts import ConflictError, Rollout
from recpolicy.server.deps import StateDep
from recpolicy.server.json_response import json_response
from recpolicy.server.rollout import controller
from recpolicy.server.rollout.stage_metrics import StageMetrics, VariantHealth
from recpolicy.server.schemas.admin import (
    ADMIN_ERROR_RESPONSES,
    CurrentRollout,
    RolloutList,
    RolloutRequest,
    RolloutResponse,
)

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=ADMIN_ERROR_RESPONSES)


@router.post("/rollouts", response_model=RolloutResponse, status_code=201)
def start(request: RolloutRequest, caller: Operator, state: StateDep) -> Response:
    """Start a rollout: the challenger serves the users of the first stage at once."""
    known = {version.number for version in state.require_registry().versions()}
    if request.challenger not in known:
        raise HTTPException(404, f"no version {request.challenger}; GET /v1/admin/versions lists them")
    try:
        row = controller.start(state, request.challenger, caller.name, request.plan(), force=request.force)
    except ArtifactError as error:
        raise HTTPException(409, str(error)) from None
    return json_response(_describe(row), 201)


@router.get("/rollouts", response_model=RolloutList)
def list_rollouts(caller: Reader, state: StateDep, count: Annotated[int, Query(ge=1, le=1000)] = 50) -> Response:  # noqa: ARG001
    """List the last rollouts, newest first."""
    with state.require_store().engine.connect() as connection:
        rows = rollouts.latest(connection, count)
    return json_response({"rollouts": [_describe(row) for row in rows]})


@router.get("/rollouts/current", response_model=CurrentRollout)
def current(caller: Reader, state: StateDep) -> Response:  # noqa: ARG001
    """Show the running rollout with its metrics and the next action."""
    status = controller.status(state)
    if status is None:
        return json_response({"rollout": None, "metrics": None, "next": None, "reason": None})
    decision, metrics = status.decision, describe_metrics(status.metrics, status.rollout.plan["shadow"])
    return json_response(
        {"rollout": _describe(status.rollout), "metrics": metrics, "next": decision.action, "reason": decision.reason}
    )


@router.delete("/rollouts/current", response_model=RolloutResponse)
def stop(caller: Operator, state: StateDep) -> Response:
    """Stop the running rollout: the champion serves all users at once."""
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
