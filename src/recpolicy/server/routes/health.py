"""Whether the server lives, whether it can answer, and what it counts."""

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
async def readyz(here: StateDep) -> Response:
    """Say that a policy is loaded, which one, and whether the store takes what it is given."""
    served = here.policies.live.champion
    return json_response({"status": "ready", "policy": served.describe(CHAMPION), "store": store_state(here)})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def metrics(here: StateDep) -> Response:
    """Counters and histograms in Prometheus' text form."""
    live, counted = here.policies.live, here.metrics
    if here.store is not None:
        counted.waiting.set(here.store.writer.waiting)
        counted.spooled.set(here.store.writer.spooled)
        counted.store_up.set(0 if here.store.writer.down else 1)
    counted.version.labels(CHAMPION).set(live.champion.number or 0)
    counted.version.labels(CHALLENGER).set(live.challenger.number or 0 if live.challenger else 0)
    counted.share.set(live.share)
    return Response(counted.text(), media_type=_PROMETHEUS)


def store_state(here: AppState) -> str:
    """In one word: up, down or none."""
    if here.store is None:
        return "none"
    return "down" if here.store.writer.down else "up"
