"""The Open Inference Protocol, version 2 of KServe's: metadata, readiness, and inference over tensors.

n users, m items, k recommendations. With the input `item` the outputs are rating estimates [n, m]; without it they are
recommendations [n, k], which are stored as events like those of /v1/recommend. A tensor has no gaps, so every user
must have k items left, and one unknown id refuses the whole request.
Source: https://github.com/kserve/open-inference-protocol.
"""

import json
import threading
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import numpy as np
from fastapi import APIRouter, Response

from recpolicy.core.errors import DataError, UnknownIdError
from recpolicy.inference.block_prediction import user_blocks
from recpolicy.server.active_request import ActiveDep, ActiveRequest
from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.errors import ERROR_RESPONSES
from recpolicy.server.json_output import finite, json_response
from recpolicy.server.recommend import ServedList, persist, recommend_all
from recpolicy.server.routes.health import UNAVAILABLE, show_liveness, show_readiness
from recpolicy.server.schemas.inference import (
    InferenceRequest,
    InferenceResponse,
    ModelMetadata,
    ServerLive,
    ServerMetadata,
    ServerReady,
)
from recpolicy.server.schemas.requests import MAX_K, Instance
from recpolicy.server.schemas.responses import ModelState

Ids = Sequence[int | str]


def open_inference_routes(model: str) -> APIRouter:
    """Return the routes of the protocol for a model of this name."""
    routes = APIRouter(prefix="/v2", tags=["prediction servers"])

    @routes.get("", response_model=ServerMetadata)
    async def describe_server() -> Response:
        """Describe the server."""
        return json_response({"name": "recpolicy", "version": "2", "extensions": []})

    @routes.get("/health/live", response_model=ServerLive, responses=UNAVAILABLE)
    async def show_live(state: StateDep) -> Response:
        """Report that the process is alive."""
        answer = await show_liveness(state)
        return json_response({"live": True}) if answer.status_code == HTTPStatus.OK else answer

    @routes.get("/health/ready", response_model=ServerReady, responses=UNAVAILABLE)
    async def show_ready(state: StateDep) -> Response:
        """Report that the server can answer, and that every background task runs."""
        answer = await show_readiness(state)
        return json_response({"ready": True}) if answer.status_code == HTTPStatus.OK else answer

    @routes.get(f"/models/{model}", response_model=ModelMetadata)
    async def describe_model(state: StateDep) -> Response:
        """Describe inputs and outputs of the model."""
        return json_response(_metadata(model, state))

    @routes.get(f"/models/{model}/ready", response_model=ModelState)
    async def show_model_ready() -> Response:
        """Report that the model is ready."""
        return json_response({"name": model, "ready": True})

    @routes.post(f"/models/{model}/infer", response_model=InferenceResponse, responses=ERROR_RESPONSES)
    async def infer(request: InferenceRequest, state: StateDep, active: ActiveDep) -> Response:
        """Estimate ratings of items, or recommend k items, for each user.

        An answer costs as many requests of the rate limit as it has hundreds of rows.
        """
        users, items, k = request.values("user") or [], request.values("item"), request.values("k")
        if items is None:
            count = int(k[0]) if k else min(state.models.live.champion.list_size, MAX_K)
            outputs = await _recommend(state, active, users, count)
        else:
            outputs = await _estimate(state, active, users, items)
        answer = {"model_name": model, "model_version": _version(state), "outputs": outputs}
        return json_response(answer if request.id is None else {**answer, "id": request.id})

    return routes


async def _estimate(state: AppState, active: ActiveRequest, users: Ids, items: Ids) -> list[dict[str, Any]]:
    """Return rating, std and probability of the items for each user."""
    version = state.models.live.champion
    scorer = version.scorer
    rows, columns = active.admit([len(items)] * len(users)), scorer.item_rows(items)

    described = await state.users.read_for([version.trained], users)

    def work(stop: threading.Event) -> dict[str, list[float | None]]:
        found: dict[str, list[float | None]] = {"rating": [], "std": [], "probability": []}
        for block in user_blocks(users, len(scorer.item_ids)):
            if stop.is_set():
                break
            answer = scorer.predict(block, learned=described.learned(version.trained, block))
            for name, values in found.items():
                values += finite(np.asarray(getattr(answer, name))[:, columns].ravel())
        return found

    shape = [len(users), len(items)]
    return [_tensor(name, "FP64", shape, data) for name, data in (await active.compute(rows, work)).items()]


async def _recommend(state: AppState, active: ActiveRequest, users: Ids, k: int) -> list[dict[str, Any]]:
    """Return the k best items of each user, with their ratings and propensities, and the ids of the stored events."""
    instances = [Instance(user=user, k=k, exclude_rated=True) for user in users]
    rows = active.admit([k] * len(users))
    lists = []
    for user, served in zip(users, await recommend_all(state, instances, active, rows), strict=True):
        if not isinstance(served, ServedList):
            error = served["error"]
            raise (UnknownIdError if error["code"] == "unknown_id" else DataError)(error["message"])
        if len(served.item_ids) < k:
            raise DataError(f"user {user} has only {len(served.item_ids)} items left, but k is {k}")
        lists.append(served)
    stored = await persist(state, lists)
    shape = [len(users), k]
    return [
        _tensor("item_id", _id_type(state), shape, [item for each in lists for item in each.item_ids]),
        _tensor("rating", "FP64", shape, [rating for each in lists for rating in each.ratings]),
        _tensor("propensity", "FP64", shape, [p for each in lists for p in json.loads(each.event.propensities)]),
        _tensor("event_id", "BYTES", [len(users)], [each.event.id if stored else "" for each in lists]),
    ]


def _metadata(model: str, state: AppState) -> dict[str, Any]:
    kind = _id_type(state)
    inputs = [("user", kind, [-1]), ("item", kind, [-1]), ("k", "INT64", [1])]
    tables = [("item_id", kind), *((name, "FP64") for name in ("rating", "propensity", "std", "probability"))]
    outputs = [*((name, datatype, [-1, -1]) for name, datatype in tables), ("event_id", "BYTES", [-1])]
    described = [
        [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in tensors]
        for tensors in (inputs, outputs)
    ]
    return {
        "name": model, "versions": [_version(state)], "platform": "recpolicy", "inputs": described[0],
        "outputs": described[1],
    }  # fmt: skip


def _tensor(name: str, datatype: str, shape: list[int], data: list[Any]) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def _id_type(state: AppState) -> str:
    """Return the type of the policy's ids of items."""
    return "BYTES" if isinstance(state.models.live.champion.scorer.item_ids[0], str) else "INT64"


def _version(state: AppState) -> str:
    return str(state.models.live.champion.number or 0)
