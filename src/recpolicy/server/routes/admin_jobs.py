"""Routes for jobs, runs, the latest drift check, new items, rewards and signals by day, and the checklist."""

from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from starlette.exceptions import HTTPException

from recpolicy.core.errors import ArtifactError, StoreError
from recpolicy.server.auth.roles import Operator, Reader
from recpolicy.server.checklist import as_body, production_checklist
from recpolicy.server.db import jobs as job_runs
from recpolicy.server.db.events import daily_rewards, now_ms
from recpolicy.server.db.feedback import DAY_MS
from recpolicy.server.db.jobs import NEVER, list_schedules
from recpolicy.server.db.recent_ranks import list_recent, summarize_recent
from recpolicy.server.db.signal_rates import plain_interval, signal_rates
from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.errors import hide_folders
from recpolicy.server.jobs.drift import NAME as DRIFT
from recpolicy.server.jobs.scheduler import Scheduler
from recpolicy.server.json_output import json_response
from recpolicy.server.new_items.allocation import allocation_path, read_allocation
from recpolicy.server.schemas.admin import (
    Checklist,
    DriftResponse,
    JobList,
    NewItemList,
    RankOverview,
    RewardList,
    RunList,
    RunParameters,
    RunResponse,
    RunStartedResponse,
    SignalList,
)
from recpolicy.server.schemas.requests import Text

router = APIRouter(prefix="/v1/admin", tags=["admin"])
_MAX_DAYS, _MAX_RUNS, _MAX_NUMBER = 365, 500, 2**31 - 1


async def get_scheduler(request: Request) -> Scheduler:
    """Return the scheduler of the app that handles the request."""
    scheduler: Scheduler = request.app.state.scheduler
    return scheduler


SchedulerDep = Annotated[Scheduler, Depends(get_scheduler)]


@router.get("/jobs", response_model=JobList)
def list_jobs(_: Reader, state: StateDep, scheduler: SchedulerDep) -> Response:
    """List the jobs with their schedules and next start times."""
    with _engine(state).connect() as connection:
        due = {schedule.name: schedule.next_at for schedule in list_schedules(connection)}
    crons = scheduler.crons()
    rows = [
        {"name": name, "description": job.description, "cron": crons[name], "next_at": _time(due.get(name))}
        for name, job in scheduler.jobs.items()
    ]
    return json_response({"jobs": rows})


@router.post("/jobs/{name}", response_model=RunStartedResponse, status_code=202)
def run_job(
    name: Annotated[Text, Path(description="Name of the job.")],
    parameters: RunParameters,
    caller: Operator,
    state: StateDep,
    scheduler: SchedulerDep,
) -> Response:
    """Start a run of a job now. The response does not wait for its end; GET /v1/admin/runs/{number} shows it."""
    _engine(state)
    if name not in scheduler.jobs:
        raise HTTPException(404, f"no job has this name; the jobs are {', '.join(scheduler.jobs)}")
    return json_response({"run": scheduler.trigger(name, parameters.model_extra or {}, caller.name)}, 202)


@router.get("/runs", response_model=RunList)
def list_runs(
    _: Reader,
    state: StateDep,
    name: Annotated[
        Text | None, Query(max_length=64, description="Name of a job; if omitted, runs of all jobs.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=_MAX_RUNS, description="Largest number of runs.")] = 50,
) -> Response:
    """List the latest runs, newest first."""
    with _engine(state).connect() as connection:
        rows = job_runs.runs(connection, name, limit)
    return json_response({"runs": [_without_folders(state, row) for row in rows]})


@router.get("/runs/{number}", response_model=RunResponse)
def show_run(
    number: Annotated[int, Path(ge=1, le=_MAX_NUMBER, description="Number of the run.")],
    _: Reader,
    state: StateDep,
) -> Response:
    """Show one run."""
    with _engine(state).connect() as connection:
        row = job_runs.run(connection, number)
    if row is None:
        raise HTTPException(404, "no run has this number")
    return json_response(_without_folders(state, row))


@router.get("/drift", response_model=DriftResponse)
def show_drift(_: Reader, state: StateDep) -> Response:
    """Show the latest completed drift check."""
    with _engine(state).connect() as connection:
        return json_response({"run": job_runs.latest_done(connection, DRIFT)})


@router.get("/rewards", response_model=RewardList)
def list_rewards(
    _: Reader,
    state: StateDep,
    days: Annotated[int, Query(ge=1, le=_MAX_DAYS, description="Number of days up to now.")] = 7,
) -> Response:
    """List the number and the mean of the rewards by day, version and variant."""
    with _engine(state).connect() as connection:
        rows = daily_rewards(connection, now_ms() - days * DAY_MS)
    return json_response({"rows": [vars(row) for row in rows]})


@router.get("/signals", response_model=SignalList)
def list_signals(
    _: Reader,
    state: StateDep,
    days: Annotated[int, Query(ge=1, le=_MAX_DAYS, description="Number of days up to now, today included.")] = 7,
) -> Response:
    """List the rates of each type of signal, such as the like rate, by day, version and task."""
    first_day = now_ms() // DAY_MS - (days - 1)
    with _engine(state).connect() as connection:
        rows = signal_rates(connection, first_day * DAY_MS)
    return json_response({"rows": [row.as_dict() for row in rows]})


@router.get("/ranks", response_model=RankOverview)
def show_ranks(
    _: Reader, state: StateDep,
    count: Annotated[int, Query(ge=1, le=_MAX_RUNS, description="Most ranks.")] = 50,
) -> Response:  # fmt: skip
    """Show the model of ranks, the rewards of the latest ranks, and the latest ranks without contexts and users."""
    version, service = state.ranking_version(), state.rank.current
    with _engine(state).connect() as connection:
        summary = summarize_recent(connection, service.reward)
        ranks = list_recent(connection, service.reward, count)
    ends = {name: plain_interval(getattr(summary, name)) for name in ("positive", "mean")}
    policy = {"version": version.number, "agent": version.agent, "policy_digest": version.policy_digest}
    return json_response({
        "policy": policy, "mode": service.mode, "exploration": service.exploration, "learning": service.learning,
        "summary": {**vars(summary), **ends}, "ranks": ranks,
    })  # fmt: skip


@router.get("/checklist", response_model=Checklist)
def show_checklist(_: Reader, state: StateDep) -> Response:
    """Show the production checklist: each item as kept or not, with its figure."""
    _engine(state)
    return json_response(as_body(production_checklist(state)))


@router.get("/new-items", response_model=NewItemList)
def list_new_items(_: Reader, state: StateDep) -> Response:
    """List the new items of the latest allocation, with the beliefs about them and their shares."""
    _engine(state)
    assert state.folder is not None, "a server with a store has a state folder"
    champion = state.models.live.champion
    try:
        allocation = read_allocation(allocation_path(state.folder))
    except ArtifactError as error:
        raise HTTPException(409, hide_folders(state, str(error))) from None
    body: dict[str, Any] = {"share": state.settings.new_items.share, "items": []}
    if allocation is None:
        return json_response({**body, "day": None, "version": None, "horizon": None})
    for item in allocation.items:
        arm = None if champion.ranks else champion.scorer.arm(item.item_id)
        title = None if arm is None else champion.scorer.titles[champion.scorer.action_items[arm]]
        body["items"].append({**asdict(item), "title": title})
    return json_response({**body, "day": allocation.day, "version": allocation.version, "horizon": allocation.horizon})


def _without_folders(state: AppState, row: dict[str, Any]) -> dict[str, Any]:
    """Return a run whose error names no folder of this server."""
    metadata = row["metadata"]
    if not isinstance(metadata, dict) or not isinstance(metadata.get("error"), str):
        return row
    return {**row, "metadata": {**metadata, "error": hide_folders(state, metadata["error"])}}


def _engine(state: AppState) -> Any:
    """Return the engine; raises HTTPException 404 for a server that stores nothing."""
    try:
        return state.require_store().engine
    except StoreError as error:
        raise HTTPException(404, str(error)) from None


def _time(next_at: int | None) -> int | None:
    return None if next_at is None or next_at == NEVER else next_at
