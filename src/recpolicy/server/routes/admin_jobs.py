"""What the server does by itself: its jobs and their runs, the last figures of drift, and rewards by day."""

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException

from recpolicy.core.errors import StoreError
from recpolicy.server.auth.roles import Operator, Reader
from recpolicy.server.db import jobs as runs_of
from recpolicy.server.db.clock import now_ms
from recpolicy.server.db.event_windows import daily_rewards
from recpolicy.server.db.feedback import DAY_MS
from recpolicy.server.db.schedules import NEVER, all_of
from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.errors import ERROR_RESPONSES
from recpolicy.server.jobs.drift import NAME as DRIFT
from recpolicy.server.jobs.scheduler import Scheduler
from recpolicy.server.json_response import json_response

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=ERROR_RESPONSES)
_MOST_DAYS, _MOST_RUNS, _LARGEST = 365, 500, 2**31 - 1


class Parameters(BaseModel):
    """What a run by hand may say; a job that takes none takes an empty object."""

    model_config = ConfigDict(extra="allow", json_schema_extra={"examples": [{"days": 14}, {}]})


class JobResponse(BaseModel):
    """One job."""

    name: str
    description: str
    cron: str = Field(description='Minute, hour, day, month, weekday (UTC); an interval ("@every 10s"); or "off".')
    next_at: int | None = Field(description="Milliseconds since 1970; null: only by hand, or not known yet.")


class Jobs(BaseModel):
    """All jobs."""

    jobs: list[JobResponse]


class Run(BaseModel):
    """One run of a job; times are milliseconds since 1970."""

    id: int
    name: str
    status: str = Field(description="running, done, failed, skipped or lost")
    due_at: int | None = Field(description="When the schedule called for it; null: asked for by hand.")
    executed_at: int
    finished_at: int | None
    heartbeat: int
    worker: str
    users: int | None = Field(description="Users processed.")
    records: int | None = Field(description="Records processed.")
    metadata: dict[str, Any] = Field(description="Statistics of a training, figures of a check, or an error.")


class Runs(BaseModel):
    """Runs, newest first."""

    runs: list[Run]


class RunStartedResponse(BaseModel):
    """A run that was begun."""

    run: int


class Drift(BaseModel):
    """The last check of drift."""

    run: Run | None = Field(description="null: there was none yet.")


class DayRewards(BaseModel):
    """Rewards of one version and variant in one day."""

    day: int = Field(description="Days since 1970, UTC.")
    version: int
    variant: str
    rewards: int
    mean: float


class Rewards(BaseModel):
    """Rewards by day, version and variant."""

    rows: list[DayRewards]


async def scheduler_of(request: Request) -> Scheduler:
    """The scheduler of the app that a request came to."""
    scheduler: Scheduler = request.app.state.scheduler
    return scheduler


Asked = Annotated[Scheduler, Depends(scheduler_of)]


@router.get("/jobs", response_model=Jobs)
def jobs(caller: Reader, here: StateDep, scheduler: Asked) -> Response:  # noqa: ARG001
    """List the jobs, when they run and when they are due next."""
    with _store(here).connect() as connection:
        due = {one.name: one.next_at for one in all_of(connection)}
    crons = scheduler.crons()
    rows = [
        {"name": name, "description": job.description, "cron": crons[name], "next_at": _time(due.get(name))}
        for name, job in scheduler.jobs.items()
    ]
    return json_response({"jobs": rows})


@router.post("/jobs/{name}", response_model=RunStartedResponse, status_code=202)
def run_job(name: str, parameters: Parameters, caller: Operator, here: StateDep, scheduler: Asked) -> Response:
    """Begin a run now; it is answered at once, and `runs/ID` tells how it goes."""
    _store(here)
    if name not in scheduler.jobs:
        raise HTTPException(404, f"no job of this name; there are {', '.join(scheduler.jobs)}")
    return json_response({"run": scheduler.trigger(name, parameters.model_extra or {}, caller.name)}, 202)


@router.get("/runs", response_model=Runs)
def runs(
    caller: Reader,  # noqa: ARG001
    here: StateDep,
    name: Annotated[str | None, Query(max_length=64, description="Only of this job.")] = None,
    limit: Annotated[int, Query(ge=1, le=_MOST_RUNS)] = 50,
) -> Response:
    """List the latest runs, newest first."""
    with _store(here).connect() as connection:
        return json_response({"runs": runs_of.runs(connection, name, limit)})


@router.get("/runs/{number}", response_model=Run)
def run(number: Annotated[int, Path(ge=1, le=_LARGEST)], caller: Reader, here: StateDep) -> Response:  # noqa: ARG001
    """Show one run."""
    with _store(here).connect() as connection:
        found = runs_of.run(connection, number)
    if found is None:
        raise HTTPException(404, "no run of this number")
    return json_response(found)


@router.get("/drift", response_model=Drift)
def drift(caller: Reader, here: StateDep) -> Response:  # noqa: ARG001
    """Show the last check of drift that was done."""
    with _store(here).connect() as connection:
        return json_response({"run": runs_of.latest_done(connection, DRIFT)})


@router.get("/rewards", response_model=Rewards)
def rewards(
    caller: Reader,  # noqa: ARG001
    here: StateDep,
    days: Annotated[int, Query(ge=1, le=_MOST_DAYS)] = 7,
) -> Response:
    """Show counts and means of rewards by day, version and variant."""
    with _store(here).connect() as connection:
        rows = daily_rewards(connection, now_ms() - days * DAY_MS)
    return json_response({"rows": [vars(row) for row in rows]})


def _store(here: AppState) -> Any:
    """The engine; 404 for a server that keeps nothing."""
    try:
        return here.require_store().engine
    except StoreError as error:
        raise HTTPException(404, str(error)) from None


def _time(next_at: int | None) -> int | None:
    return None if next_at is None or next_at == NEVER else next_at
