"""Routes for liveness, readiness and metrics."""

from fastapi import APIRouter, Response

from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.json_response import json_response
from recpolicy.server.live_models import CHALLENGER, CHAMPION
from recpolicy.server.schemas.responses import LivenessResponse, ReadinessResponse

router = APIRouter(tags=["state"])
_PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"


@router.get("/healthz", response_model=LivenessResponse)
async def healthz() -> Response:
    """Say that the process lives; says nothing about the policy."""
    return json_response({"status": "alive"})


@router.get("/readyz", response_model=ReadinessResponse)
async def readyz(state: StateDep) -> Response:
    """Say that a policy is loaded, which one, and whether the store takes what it is given."""
    served = state.models.live.champion
    return json_response({"status": "ready", "policy": served.describe(CHAMPION), "store": store_state(state)})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(state: StateDep) -> Response:
    """Counters and histograms in Prometheus' text form."""
    live, counted = state.models.live, state.metrics
    if state.store is not None:
        counted.waiting.set(state.store.writer.waiting)
        counted.spooled.set(state.store.writer.spooled)
        counted.store_up.set(0 if state.store.writer.down else 1)
    counted.version.labels(CHAMPION).set(live.champion.number or 0)
    counted.version.labels(CHALLENGER).set(live.challenger.number or 0 if live.challenger else 0)
    counted.traffic_fraction.set(live.traffic_fraction)
    return Response(counted.text(), media_type=_PROMETHEUS)


def store_state(state: AppState) -> str:
    """Return the state of the database: up, down or none."""
    if state.store is None:
        return "none"
    return "down" if state.store.writer.down else "up"
