"""The forms of KServe (v1) and Vertex AI: `instances` in, `predictions` out, on the routes that they name.

Vertex tells its routes by AIP_PREDICT_ROUTE and AIP_HEALTH_ROUTE. Without them KServe's are used.
"""

import asyncio
import os
from functools import partial
from typing import Any

from fastapi import APIRouter, Response

from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.errors import ERROR_RESPONSES
from recpolicy.server.json_response import json_response
from recpolicy.server.recommend import Chosen
from recpolicy.server.recommend_with_fallback import choose_safely
from recpolicy.server.routes.policy import estimates, listed, or_refusal, remember
from recpolicy.server.schemas.requests import Instance, Instances, RecommendRequest
from recpolicy.server.schemas.responses import LivenessResponse, ModelState, Predictions

MODEL = "recpolicy"


def prediction_routes() -> APIRouter:
    """The routes, at the places that the environment names."""
    router = APIRouter(tags=["prediction servers"])
    predict_at = os.environ.get("AIP_PREDICT_ROUTE", f"/v1/models/{MODEL}:predict")
    router.add_api_route(predict_at, predict, methods=["POST"], response_model=Predictions, responses=ERROR_RESPONSES)
    router.add_api_route(f"/v1/models/{MODEL}", ready, methods=["GET"], response_model=ModelState)
    health_at = os.environ.get("AIP_HEALTH_ROUTE", "/healthz")
    if health_at != "/healthz":
        router.add_api_route(health_at, health, methods=["GET"], response_model=LivenessResponse)
    return router


async def predict(asked: Instances, here: StateDep) -> Response:
    """One prediction an instance: estimates where it names items, a recommendation where it does not."""
    predictions = await asyncio.to_thread(
        lambda: [or_refusal(partial(_predict_one, here, one)) for one in asked.instances]
    )
    stored = await remember(here, [one for one in predictions if isinstance(one, Chosen)])
    return listed("predictions", predictions, stored)


async def ready() -> Response:
    """Say that the model can be asked."""
    return json_response({"name": MODEL, "ready": True})


async def health() -> Response:
    """Say that the process lives."""
    return json_response({"status": "alive"})


def _predict_one(here: AppState, instance: Instance) -> Chosen | dict[str, Any]:
    live = here.policies.live
    if instance.items is not None:
        return {"rows": estimates(live.champion.scorer, [instance.user], instance.items)}
    asked = RecommendRequest(user=instance.user, k=instance.k, exclude_rated=instance.exclude_rated)
    return choose_safely(here, asked, live)
