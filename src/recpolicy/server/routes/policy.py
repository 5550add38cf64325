"""Routes for rating estimates, and the prediction routes of KServe (v1) and Vertex AI.

recommend.py has the route for recommendations.

KServe and Vertex AI send `instances` and expect `predictions`. Vertex AI names its routes in AIP_PREDICT_ROUTE and
AIP_HEALTH_ROUTE; without them KServe's routes are used.
"""

import asyncio
import os
from collections.abc import Mapping
from typing import Any

import numpy as np
from fastapi import APIRouter, Response

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.inference.scorer import Scorer
from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.errors import ERROR_RESPONSES, item_error
from recpolicy.server.json_output import json_response, rows_response
from recpolicy.server.middleware import FastPath
from recpolicy.server.recommend import ServedList, finite, list_response, persist, recommend_all, without_routing
from recpolicy.server.schemas.requests import Instance, Instances, PredictRequest
from recpolicy.server.schemas.responses import Estimates, LivenessResponse, ModelState, Predictions

MODEL = "recpolicy"
router = APIRouter(prefix="/v1", tags=["policy"], responses=ERROR_RESPONSES)


@router.post("/predict", response_model=Estimates)
def predict(request: PredictRequest, state: StateDep) -> Response:
    """Estimate the ratings that users would give to items."""
    return rows_response(estimates(state.models.live.champion.scorer, request.users, request.items))


def prediction_routes() -> APIRouter:
    """Return the routes of KServe and Vertex AI, at the paths that the environment names."""
    routes = APIRouter(tags=["prediction servers"])
    routes.add_api_route(
        _predict_path(), predict_instances, methods=["POST"], response_model=Predictions, responses=ERROR_RESPONSES
    )
    routes.add_api_route(f"/v1/models/{MODEL}", model_ready, methods=["GET"], response_model=ModelState)
    health_at = os.environ.get("AIP_HEALTH_ROUTE", "/healthz")
    if health_at != "/healthz":
        routes.add_api_route(health_at, health, methods=["GET"], response_model=LivenessResponse)
    return routes


def fast_path(state: AppState) -> Mapping[tuple[str, str], FastPath]:
    """Return the requests that RequestMiddleware answers itself, by method and path."""
    return {("POST", _predict_path()): without_routing(Instances, predict_instances, state)}


def _predict_path() -> str:
    return os.environ.get("AIP_PREDICT_ROUTE", f"/v1/models/{MODEL}:predict")


async def predict_instances(request: Instances, state: StateDep) -> Response:
    """Answer each instance with rating estimates, or with a recommendation if it names no items."""
    scorer = state.models.live.champion.scorer
    with_items = [each for each in request.instances if each.items is not None]
    served = iter(await recommend_all(state, [each for each in request.instances if each.items is None]))
    estimated = iter(await asyncio.to_thread(_estimate_all, scorer, with_items) if with_items else ())
    predictions = [next(served if each.items is None else estimated) for each in request.instances]
    stored = await persist(state, [each for each in predictions if isinstance(each, ServedList)])
    return list_response("predictions", predictions, stored)


async def model_ready() -> Response:
    """Report that the model is ready."""
    return json_response({"name": MODEL, "ready": True})


async def health() -> Response:
    """Report that the process is alive."""
    return json_response({"status": "alive"})


def estimates(scorer: Scorer, users: list[Any], items: list[Any] | None) -> list[dict[str, Any]]:
    """Return the rows of the users one after the other, items in the order of the request."""
    rows = np.arange(len(scorer.item_ids)) if items is None else np.array([scorer.item_row(item) for item in items])
    rows = rows.astype(np.intp)
    answer = scorer.predict(users)
    ids, titles = [scorer.item_ids[row] for row in rows], [scorer.titles[row] for row in rows]
    every = {"rating": answer.rating, "std": answer.std, "value": answer.value, "probability": answer.probability}
    parts, session = {name: part for name, part in every.items() if part is not None}, answer.session_value
    table = []
    for place, user in enumerate(users):
        columns = [(name, finite(part[place, rows])) for name, part in parts.items()]
        names, numbers = [name for name, _ in columns], zip(*(column for _, column in columns), strict=True)
        whole = {} if session is None else {"session_value": finite(session[place : place + 1])[0]}
        table += [
            {"user_id": user, "item_id": item, "title": title, **dict(zip(names, row, strict=True)), **whole}
            for item, title, row in zip(ids, titles, numbers, strict=True)
        ]
    return table


def _estimate_all(scorer: Scorer, instances: list[Instance]) -> list[dict[str, Any]]:
    """Return the estimates for each instance, or an error in their place."""
    answers: list[dict[str, Any]] = []
    for instance in instances:
        try:
            answers.append({"rows": estimates(scorer, [instance.user], instance.items)})
        except (DataError, ConfigError) as error:
            answers.append(item_error(error))
    return answers
