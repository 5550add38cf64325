"""Routes for rating estimates, and the prediction routes of KServe (v1) and Vertex AI.

recommend.py has the route for recommendations, open_inference.py the routes of version 2 of KServe's protocol.

KServe and Vertex AI send `instances` and expect `predictions`. Vertex AI names its routes in AIP_PREDICT_ROUTE and
AIP_HEALTH_ROUTE; without them KServe's routes are used.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from fastapi import APIRouter, Response
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.inference.block_prediction import rating_interval, user_blocks
from recpolicy.inference.scorer import Prediction, Scorer
from recpolicy.server.active_request import ActiveDep, ActiveRequest
from recpolicy.server.computed_lists import NEVER
from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.errors import ERROR_RESPONSES, item_error
from recpolicy.server.json_output import JsonText, encode, finite, json_response
from recpolicy.server.live_models import LoadedVersion
from recpolicy.server.middleware import FastPath
from recpolicy.server.recommend import (
    ServedList,
    list_response,
    persist,
    recommend_all,
    without_routing,
)
from recpolicy.server.routes.health import show_liveness
from recpolicy.server.schemas.requests import Instance, Instances, PredictRequest
from recpolicy.server.schemas.responses import Estimates, LivenessResponse, ModelList, ModelState, Predictions
from recpolicy.server.users.service import NO_USERS, RequestUsers

router = APIRouter(prefix="/v1", tags=["policy"], responses=ERROR_RESPONSES)


@router.post("/predict", response_model=Estimates)
async def predict(request: PredictRequest, state: StateDep, active: ActiveDep) -> Response:
    """Estimate the ratings that users would give to items.

    An answer has at most 20,000 rows, users times items (setting `answer_rows`). It costs as many requests of the rate
    limit as it has hundreds of rows.
    """
    version = state.models.live.champion
    scorer = version.scorer
    per_user = len(scorer.item_ids if request.items is None else request.items)
    rows = active.admit([per_user] * len(request.users))
    users = await state.users.read_for([version.trained], request.users)
    return JsonText(
        await active.compute(rows, lambda stop: estimates(version, request.users, request.items, stop, users))
    )


def prediction_routes(model: str) -> APIRouter:
    """Return the routes of KServe and Vertex AI for a model of this name; the environment may name other paths."""

    async def list_models() -> Response:
        """List the models: the one of this server."""
        return json_response({"models": [model]})

    async def model_ready() -> Response:
        """Report that the model is ready."""
        return json_response({"name": model, "ready": True})

    routes = APIRouter(tags=["prediction servers"])
    routes.add_api_route(
        _predict_path(model), predict_instances, methods=["POST"], response_model=Predictions, responses=ERROR_RESPONSES
    )
    routes.add_api_route("/v1/models", list_models, methods=["GET"], response_model=ModelList)
    routes.add_api_route(f"/v1/models/{model}", model_ready, methods=["GET"], response_model=ModelState)
    health_at = os.environ.get("AIP_HEALTH_ROUTE", "/healthz")
    if health_at != "/healthz":
        routes.add_api_route(health_at, show_liveness, methods=["GET"], response_model=LivenessResponse)
    return routes


def fast_path(state: AppState) -> Mapping[tuple[str, str], FastPath]:
    """Return the requests that RequestMiddleware answers itself, by method and path."""

    async def estimate(request: PredictRequest, active: ActiveRequest) -> Response:
        return await predict(request, state, active)

    async def instances(request: Instances, active: ActiveRequest) -> Response:
        return await predict_instances(request, state, active)

    return {
        ("POST", "/v1/predict"): without_routing(PredictRequest, estimate),
        ("POST", _predict_path(state.settings.prediction.model_name)): without_routing(Instances, instances),
    }


def _predict_path(model: str) -> str:
    return os.environ.get("AIP_PREDICT_ROUTE", f"/v1/models/{model}:predict")


async def predict_instances(request: Instances, state: StateDep, active: ActiveDep) -> Response:
    """Answer each instance with rating estimates, or with a recommendation if it names no items.

    An answer has at most 20,000 rows (setting `answer_rows`), and costs as many requests of the rate limit as it has
    hundreds of rows, each instance at least a tenth of a request.
    """
    version = state.models.live.champion
    with_items = [each for each in request.instances if each.items is not None]
    lists = [each for each in request.instances if each.items is None]
    rows = active.admit(
        [each.list_size(version.list_size) if each.items is None else len(each.items) for each in request.instances]
    )
    served = iter(await recommend_all(state, lists, active, rows))
    estimated: Iterator[bytes | dict[str, Any]] = iter(())
    if with_items:
        users = await state.users.read_for([version.trained], [each.user for each in with_items])
        estimated = iter(await active.compute(rows, lambda stop: _estimate_all(version, with_items, stop, users)))
    predictions = [next(served if each.items is None else estimated) for each in request.instances]
    stored = await persist(state, [each for each in predictions if isinstance(each, ServedList)])
    return list_response("predictions", predictions, stored)


def estimates(
    version: LoadedVersion,
    users: list[Any],
    items: list[Any] | None,
    stop: threading.Event = NEVER,
    described: RequestUsers = NO_USERS,
) -> bytes:
    """Return {"rows": [...]} as JSON: the rows of the users one after the other, items in the order of the request.

    The encoder blocks all other threads while it works, so it works user by user. No more than one block of users is
    held as arrays, and one user as objects. Ends early once `stop` is set. `described` has the users whom a posterior
    describes.
    """
    scorer = version.scorer
    rows = np.arange(len(scorer.item_ids)) if items is None else np.array([scorer.item_row(item) for item in items])
    rows = rows.astype(np.intp)
    names = [(scorer.item_ids[row], scorer.titles[row]) for row in rows]
    pieces = []
    for block in user_blocks(users, len(scorer.item_ids)):
        answer = scorer.predict(block, learned=described.learned(version.trained, block))
        for place, user in enumerate(block):
            if stop.is_set():
                return b""
            piece = encode(_user_rows(scorer, answer, place, user, rows, names))[1:-1]
            if piece:
                pieces.append(piece.encode())
    return b'{"rows":[%b]}' % b",".join(pieces)


def _user_rows(
    scorer: Scorer, answer: Prediction, place: int, user: Any, rows: NDArray[np.intp], names: list[tuple[Any, Any]]
) -> list[dict[str, Any]]:
    """Return the rows of one user, the one at `place` in the answer."""
    rating, std = answer.rating[place, rows], answer.std[place, rows]
    low, high = rating_interval(scorer.artifact, rating, std)
    own = {"value": answer.value, "probability": answer.probability}
    parts = {name: part[place, rows] for name, part in own.items() if part is not None}
    every = {"rating": rating, "std": std, "low": low, "high": high, **parts}
    columns = {name: finite(part) for name, part in every.items()}
    session = answer.session_value
    whole = {} if session is None else {"session_value": finite(session[place : place + 1])[0]}
    return [
        {"user_id": user, "item_id": item, "title": title, **dict(zip(columns, numbers, strict=True)), **whole}
        for (item, title), numbers in zip(names, zip(*columns.values(), strict=True), strict=True)
    ]


def _estimate_all(
    version: LoadedVersion, instances: list[Instance], stop: threading.Event, users: RequestUsers
) -> list[bytes | dict[str, Any]]:
    """Return the estimates for each instance as JSON, or an error in their place."""
    answers: list[bytes | dict[str, Any]] = []
    for instance in instances:
        if stop.is_set():
            break
        try:
            answers.append(estimates(version, [instance.user], instance.items, described=users))
        except (DataError, ConfigError) as error:
            answers.append(item_error(error))
    return answers
