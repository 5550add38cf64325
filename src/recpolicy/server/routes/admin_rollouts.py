"""Rollouts under an operator's hand: begin one, look at it, stop it."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from recpolicy.core.errors import ArtifactError
from recpolicy.server.auth.roles import Operator, Reader
from recpolicy.server.db import rollouts
from recpolicy.server.db.rollouts import ConflictError, Rollout
from recpolicy.server.deps import StateDep
from recpolicy.server.json_response import json_response
from recpolicy.server.rollout import controller
from recpolicy.server.rollout.stage_metrics import StageMetrics, VariantHealth
from recpolicy.server.schemas.admin import ADMIN_ERROR_RESPONSES
from recpolicy.server.schemas.requests import Number, example_config

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=ADMIN_ERROR_RESPONSES)


class RolloutRequest(BaseModel):
    """Which version is tried, and where its plan differs from the settings `[rollout]`."""

    model_config = example_config(challenger=2, stages=[0.1, 0.5, 1.0])

    challenger: Annotated[int, Field(ge=1, description="Number of the version in the registry.")]
    stages: Annotated[list[Number], Field(min_length=1, max_length=20)] | None = Field(
        None, description="Shares of the users, rising to at most 1."
    )
    promote: bool | None = Field(None, description="false: an A/B comparison that runs until it is stopped.")
    shadow: bool | None = Field(None, description="true: the challenger answers nobody and is only compared.")
    margin: Number | None = Field(None, description="Harm that is tolerated, on the scale of the rewards.")
    min_users: int | None = Field(None, description="Users with rewards that each variant needs in a stage.")
    min_rewards: int | None = Field(None, description="Rewards that each variant needs in a stage.")
    min_hours: Number | None = Field(None, description="Hours that a stage lasts at least.")
    max_hours: Number | None = Field(None, description="Hours after which a stage that is not passed is given up.")
    force: bool = Field(False, description="true: also a version that did not pass its gate.")

    def plan(self) -> dict[str, Any]:
        """What differs from the settings."""
        return self.model_dump(exclude={"challenger", "force"}, exclude_none=True)


class RolloutResponse(BaseModel):
    """One rollout."""

    id: int
    champion: int = Field(description="Number of the version that it began with.")
    challenger: int
    state: str = Field(description="running, promoted, rolled_back or stopped.", examples=["running"])
    stage: int = Field(description="Place in the plan; 0 is the first.")
    share: float = Field(description="Of the users, how many the stage gives to the challenger.")
    plan: dict[str, Any] = Field(description="The settings `[rollout]` that it runs by.")
    started_at: int = Field(description="Milliseconds since 1970, UTC.")
    stage_at: int = Field(description="When the stage began; 0: it has not yet.")
    ended_at: int | None
    reason: str | None = Field(description="Why it ended.")


class CurrentRollout(BaseModel):
    """The rollout that runs; all null where none does."""

    rollout: RolloutResponse | None
    figures: dict[str, Any] | None = Field(
        description="hours; rewards of champion, challenger and their difference with anytime-valid intervals (null:"
        " open); requests, failures and times of both in the last minutes; what a shadow would have shown."
    )
    next: str | None = Field(description="What the next check does: wait, advance, promote or roll_back.")
    reason: str | None = Field(description="Why.")


class Rollouts(BaseModel):
    """Rollouts, newest first."""

    rollouts: list[RolloutResponse]


@router.post("/rollouts", response_model=RolloutResponse, status_code=201)
def begin(asked: RolloutRequest, caller: Operator, here: StateDep) -> Response:
    """Begin a rollout: the challenger answers the users of the first stage from now on."""
    known = {version.number for version in controller.serving_registry(here).versions()}
    if asked.challenger not in known:
        raise HTTPException(404, f"no version {asked.challenger}; GET /v1/admin/versions lists them")
    try:
        row = controller.start(here, asked.challenger, caller.name, asked.plan(), force=asked.force)
    except (ArtifactError, ConflictError) as error:
        raise HTTPException(409, str(error)) from None
    return json_response(_shown(row), 201)


@router.get("/rollouts", response_model=Rollouts)
def list_rollouts(caller: Reader, here: StateDep, count: Annotated[int, Query(ge=1, le=1000)] = 50) -> Response:  # noqa: ARG001
    """List the last rollouts, newest first."""
    with here.require_store().engine.connect() as connection:
        rows = rollouts.latest(connection, count)
    return json_response({"rollouts": [_shown(row) for row in rows]})


@router.get("/rollouts/current", response_model=CurrentRollout)
def current(caller: Reader, here: StateDep) -> Response:  # noqa: ARG001
    """Show how the rollout that runs does, what comes next and why."""
    found = controller.status(here)
    if found is None:
        return json_response({"rollout": None, "figures": None, "next": None, "reason": None})
    decision = found.decision
    figures = shown_figures(found.figures, found.rollout.plan["shadow"])
    return json_response(
        {"rollout": _shown(found.rollout), "figures": figures, "next": decision.action, "reason": decision.reason}
    )


@router.delete("/rollouts/current", response_model=RolloutResponse)
def stop(caller: Operator, here: StateDep) -> Response:
    """Stop the rollout that runs: the champion answers everybody from now on."""
    try:
        return json_response(_shown(controller.stop(here, caller.name)))
    except ConflictError as error:
        raise HTTPException(404, str(error)) from None


def shown_figures(figures: StageMetrics, shadow: bool) -> dict[str, Any]:
    """Figures as JSON, with means in place of sums; `shadow`: what the challenger would have shown was compared."""
    both = {"champion": figures.champion_health, "challenger": figures.challenger_health}
    rest = {name: part for name, part in figures.shown().items() if not name.endswith("_health")}
    health = {name: _means(health) for name, health in both.items()}
    return rest | {"health": health, "shadow": _compared(figures.challenger_health) if shadow else None}


def _means(health: VariantHealth) -> dict[str, Any]:
    mean = 1e3 * health.seconds / health.requests if health.requests else None
    return {"requests": health.requests, "failures": health.failures, "slow": health.slow, "mean_ms": mean}


def _compared(health: VariantHealth) -> dict[str, Any]:
    compared = health.requests - health.failures
    return {
        "compared": compared, "dropped": health.dropped,
        "agreement": health.agreement / compared if compared else None,
        "gap": health.gap / compared if compared else None,
    }  # fmt: skip


def _shown(row: Rollout) -> dict[str, Any]:
    return asdict(row) | {"share": row.plan["stages"][row.stage]}
