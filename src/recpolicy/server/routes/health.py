"""Routes for liveness, readiness and metrics."""

from fastapi import APIRouter, Response

from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.json_output import json_response
from recpolicy.server.live_models import CHALLENGER, CHAMPION
from recpolicy.server.schemas.responses import LivenessResponse, ReadinessResponse

router = APIRouter(tags=["state"])
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/healthz", response_model=LivenessResponse)
async def show_liveness() -> Response:
    """Report that the process is alive."""
    return json_response({"status": "alive"})


@router.get("/readyz", response_model=ReadinessResponse)
async def show_readiness(state: StateDep) -> Response:
    """Report that a policy is loaded, and the state of the database."""
    served, fault = state.models.live.champion, state.models.fault
    answer = {"status": "ready", "policy": served.describe(CHAMPION), "store": store_state(state)}
    return json_response(answer if fault is None else {**answer, "fault": fault})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def show_metrics(state: StateDep) -> Response:
    """Return the metrics in the text format of Prometheus."""
    live, values = state.models.live, state.metrics
    if state.store is not None:
        values.waiting.set(state.store.writer.waiting)
        values.spooled.set(state.store.writer.spooled)
        values.store_up.set(0 if state.store.writer.down else 1)
    values.version.labels(CHAMPION).set(live.champion.number or 0)
    values.version.labels(CHALLENGER).set(live.challenger.number or 0 if live.challenger else 0)
    values.traffic_fraction.set(live.traffic_fraction)
    return Response(values.text(), media_type=_PROMETHEUS)


def store_state(state: AppState) -> str:
    """Return the state of the database: up, down or none."""
    if state.store is None:
        return "none"
    return "down" if state.store.writer.down else "up"
