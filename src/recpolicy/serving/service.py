"""The HTTP service of a loaded policy: estimates and recommendations over JSON (no TensorFlow).

`make_app(policy)` is a FastAPI app for any ASGI server; `recpolicy serve` runs it. Every error has the shape
{"error": {"code", "message"}}. Handlers that compute are plain functions, which FastAPI runs in threads: the event loop
stays free to answer /healthz. Numbers that are not finite are `null`, never NaN.
"""

import json
from http import HTTPStatus
from typing import Annotated, Any

import numpy as np
import pandas as pd
from fastapi import APIRouter, Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from recpolicy.core.errors import ConfigError, DataError, UnknownIdError
from recpolicy.serving.predictor import Policy
from recpolicy.serving.service_guard import Guard, error_answer
from recpolicy.serving.service_models import (
    Alive,
    ErrorAnswer,
    Estimates,
    PredictRequest,
    Ready,
    Recommendations,
    RecommendRequest,
    ServedPolicy,
)

_REFUSALS: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorAnswer, "description": "A user or movie is not known (`unknown_id`)."},
    413: {"model": ErrorAnswer, "description": "The body is too large (`too_large`)."},
    422: {"model": ErrorAnswer, "description": "The request is not as described (`invalid_request`, `refused`)."},
}
_ROWS_AT_ONCE = 1_000
_ENCODE = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
router = APIRouter()


def make_app(policy: Policy) -> FastAPI:
    """The service of `policy`. There are no pages that load scripts from elsewhere: only /openapi.json."""
    app = FastAPI(
        title="recpolicy", version="1", summary="Rating estimates and recommendations of a trained policy.",
        docs_url=None, redoc_url=None,
    )  # fmt: skip
    app.state.policy = policy
    app.include_router(router)
    app.add_middleware(Guard)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _no_such)
    for kind in (DataError, ConfigError):
        app.add_exception_handler(kind, _refused)
    return app


async def served_policy(request: Request) -> Policy:
    """The policy that answers now."""
    policy: Policy = request.app.state.policy
    return policy


Served = Annotated[Policy, Depends(served_policy)]


@router.get("/healthz", tags=["state"])
async def healthz() -> Alive:
    """Say that the process lives; says nothing about the policy."""
    return Alive(status="alive")


@router.get("/readyz", tags=["state"])
async def readyz(policy: Served) -> Ready:
    """Say that the policy is loaded, and which one it is."""
    return Ready(status="ready", policy=ServedPolicy(name=policy.about["agent"], digest=policy.about["content"]))


@router.post("/v1/predict", response_model=Estimates, responses=_REFUSALS, tags=["policy"])
def predict(asked: PredictRequest, policy: Served) -> Response:
    """Estimate ratings of movies (all when none are named) by users."""
    return _rows(policy.predict(asked.users, asked.movies))


@router.post("/v1/recommend", response_model=Recommendations, responses=_REFUSALS, tags=["policy"])
def recommend(asked: RecommendRequest, policy: Served) -> Response:
    """List the movies that the policy values most for each user, best first."""
    return _rows(policy.recommend(asked.users, asked.k, asked.exclude_rated, asked.ratings_of_newcomers()))


def _rows(frame: pd.DataFrame) -> Response:
    """The rows as JSON, written here: checking 10^5 of them against the model again would take seconds."""
    names = list(frame)
    rows = list(zip(*(_plain(frame[name]) for name in names), strict=True))
    # In pieces, for the encoder lets no other thread run while it works.
    pieces = [
        _ENCODE([dict(zip(names, row, strict=True)) for row in rows[start : start + _ROWS_AT_ONCE]])[1:-1]
        for start in range(0, len(rows), _ROWS_AT_ONCE)
    ]
    return Response('{"rows":[' + ",".join(pieces) + "]}", media_type="application/json")


def _plain(column: "pd.Series[Any]") -> list[Any]:
    """Python values; None for what is missing or not finite."""
    missing = column.isna().to_numpy()
    if column.dtype.kind == "f":
        missing = missing | ~np.isfinite(column.to_numpy(np.float64, na_value=np.nan))
    values = column.tolist()
    return [None if gone else value for value, gone in zip(values, missing, strict=True)] if missing.any() else values


def _invalid(_: Request, error: Exception) -> Response:
    """Where and why the body is not as described; what was found is not repeated."""
    assert isinstance(error, RequestValidationError)
    first, *others = error.errors()
    place = ".".join(map(str, first["loc"]))
    more = f" (and {len(others)} more)" if others else ""
    return error_answer(422, "invalid_request", f"{place}: {first['msg'].removeprefix('Value error, ')}{more}")


def _no_such(_: Request, error: Exception) -> Response:
    """No such path, method or encoding."""
    assert isinstance(error, HTTPException)
    code = HTTPStatus(error.status_code).name.lower()
    headers = dict(error.headers) if error.headers else None
    return error_answer(error.status_code, "invalid_request" if code == "bad_request" else code, error.detail, headers)


def _refused(_: Request, error: Exception) -> Response:
    """What the library says of the caller's input; its other errors are the service's own and answer 500."""
    unknown = isinstance(error, UnknownIdError)
    return error_answer(404 if unknown else 422, "unknown_id" if unknown else "refused", str(error))
