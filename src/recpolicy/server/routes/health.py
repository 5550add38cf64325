"""Routes for liveness, readiness and metrics."""

from typing import Any

from fastapi import APIRouter, Response

from recpolicy.server.background import WRITER
from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.json_output import error_response, json_response
from recpolicy.server.live_models import CHALLENGER, CHAMPION
from recpolicy.server.log_output import dropped_lines
from recpolicy.server.schemas.responses import ErrorResponse, LivenessResponse, ReadinessResponse

router = APIRouter(tags=["state"])
UNAVAILABLE: dict[int | str, dict[str, Any]] = {
    503: {"model": ErrorResponse, "description": "A background task has ended; the message names it."}
}
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/healthz", response_model=LivenessResponse, responses=UNAVAILABLE)
async def show_liveness(state: StateDep) -> Response:
    """Report that the process is alive: it can answer recommendations."""
    if WRITER in state.background.ended():
        return error_response(503, "not_alive", "the writer of events has ended; restart the server")
    return json_response({"status": "alive"})


@router.get("/readyz", response_model=ReadinessResponse, responses=UNAVAILABLE)
async def show_readiness(state: StateDep) -> Response:
    """Report that a policy is loaded, that every background task runs, and the state of the database."""
    ended = state.background.ended()
    if ended:
        return error_response(503, "not_ready", f"these background tasks have ended: {', '.join(ended)}")
    served, fault = state.models.live.champion, state.models.fault
    answer = {"status": "ready", "policy": served.describe(CHAMPION), "store": store_state(state)}
    return json_response(answer if fault is None else {**answer, "fault": fault})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def show_metrics(state: StateDep) -> Response:
    """Return the metrics in the text format of Prometheus."""
    await set_gauges(state)
    return Response(state.metrics.text(), media_type=_PROMETHEUS)


async def set_gauges(state: AppState) -> None:
    """Set the metrics that tell a state; each process does so once a second, because one of them answers for all."""
    live, values = state.models.live, state.metrics
    if state.store is not None:
        values.waiting.set(state.store.writer.waiting)
        values.spooled.set(state.store.writer.spooled)
        values.rejected.set(state.store.writer.rejected)
        values.store_up.set(0 if state.store.writer.down else 1)
    values.unread.set(state.users.unread)
    values.sessions_unread.set(state.sessions.unread)
    values.log_dropped.set(dropped_lines())
    values.version.labels(CHAMPION).set(live.champion.number or 0)
    values.version.labels(CHALLENGER).set(live.challenger.number or 0 if live.challenger else 0)
    values.traffic_fraction.set(live.traffic_fraction)


def store_state(state: AppState) -> str:
    """Return the state of the database: up, down or none."""
    if state.store is None:
        return "none"
    return "down" if state.store.writer.down else "up"
