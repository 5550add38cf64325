"""Estimates and recommendations.

A single recommendation is computed where the request is read: it takes less time than to hand it to a thread. What may
take longer runs in threads, so that the event loop stays free.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import numpy as np
from fastapi import APIRouter, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from recpolicy.core.errors import ConfigError, DataError, StoreError
from recpolicy.inference.scorer import Scorer
from recpolicy.server.db.writer import QueueFullError
from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.errors import ERROR_RESPONSES, response_to_error, status_and_code
from recpolicy.server.json_response import rows_response
from recpolicy.server.middleware import FastPath, Message
from recpolicy.server.recommend import ENCODE, Chosen, finite
from recpolicy.server.recommend_with_fallback import choose_safely
from recpolicy.server.schemas.requests import PredictRequest, RecommendBatch, RecommendRequest
from recpolicy.server.schemas.responses import Estimates, Recommendation, Recommendations

Body = TypeVar("Body", bound=BaseModel)
Answered = TypeVar("Answered")
router = APIRouter(prefix="/v1", tags=["policy"], responses=ERROR_RESPONSES)


@router.post("/predict", response_model=Estimates)
def predict(asked: PredictRequest, here: StateDep) -> Response:
    """Estimate ratings of items (all when none are named) by users."""
    return rows_response(estimates(here.policies.live.champion.scorer, asked.users, asked.items))


@router.post("/recommend", response_model=Recommendation)
async def recommend(asked: RecommendRequest, here: StateDep) -> Response:
    """List the items that the policy values most for a user, best first, and remember what was shown."""
    return await recommended(here, asked)


def fast_paths(here: AppState) -> Mapping[tuple[str, str], FastPath]:
    """The same recommendation on a shorter way: from the bytes of the request, past the app."""

    async def recommend_bytes(scope: Message, body: bytes) -> Response:
        try:
            return await recommended(here, parsed(RecommendRequest, scope, body))
        except (RequestValidationError, DataError, ConfigError, StoreError) as error:
            return response_to_error(error)

    return {("POST", "/v1/recommend"): recommend_bytes}


async def recommended(here: AppState, asked: RecommendRequest) -> Response:
    """The answer to one request, after its event is on the disk."""
    chosen = choose_safely(here, asked, here.policies.live)
    stored = await remember(here, [chosen])
    return Response(chosen.text(stored), media_type="application/json")


@router.post("/recommend/batch", response_model=Recommendations)
async def recommend_batch(asked: RecommendBatch, here: StateDep) -> Response:
    """Answer several requests; one that is refused does not stop the others."""
    answers = await asyncio.to_thread(answer_each, here, asked.requests)
    stored = await remember(here, [one for one in answers if isinstance(one, Chosen)])
    return listed("answers", answers, stored)


def parsed(model: type[Body], scope: Message, body: bytes) -> Body:
    """The body as a request; raises RequestValidationError that names the place, as the app does."""
    kind = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    try:
        if kind.partition(b";")[0].strip().lower() != b"application/json":
            raise RequestValidationError([{"loc": ("body",), "msg": "expected content-type: application/json"}])
        return model.model_validate_json(body)
    except ValidationError as error:
        found = [{**one, "loc": ("body", *one["loc"])} for one in error.errors(include_input=False)]
        raise RequestValidationError(found) from None


def answer_each(here: AppState, requests: list[RecommendRequest]) -> list[Chosen | dict[str, Any]]:
    """What was chosen for each request, or the error in its place."""
    live = here.policies.live
    return [or_refusal(partial(choose_safely, here, asked, live)) for asked in requests]


def or_refusal(answer: Callable[[], Answered]) -> Answered | dict[str, Any]:
    """What is answered to one request of several, or the error in its place."""
    try:
        return answer()
    except (DataError, ConfigError) as error:
        return {"error": {"code": status_and_code(error)[1], "message": str(error)}}


async def remember(here: AppState, chosen: list[Chosen]) -> bool:
    """Write the events; returns whether they are on the disk.

    Where neither database nor spool takes them, people get their recommendations all the same, without an event id.
    Raises QueueFullError where too much waits.
    """
    stored = here.store is not None
    if here.store is not None and chosen:
        try:
            await here.store.writer.events([one.row for one in chosen])
        except QueueFullError:
            raise
        except StoreError:
            here.metrics.lost.inc(len(chosen))
            stored = False
    for one in chosen:
        here.metrics.shown(one.row["version"], one.row["variant"], one.row["explored"])
    return stored


def listed(name: str, answers: list[Chosen | dict[str, Any]], stored: bool) -> Response:
    """Answers and errors in order, under a name."""
    texts = [one.text(stored) if isinstance(one, Chosen) else ENCODE(one) for one in answers]
    return Response(f'{{"{name}":[{",".join(texts)}]}}', media_type="application/json")


def estimates(scorer: Scorer, users: list[Any], items: list[Any] | None) -> list[dict[str, Any]]:
    """Rows of the users one after the other, items in the order asked."""
    rows = np.arange(len(scorer.item_ids)) if items is None else np.array([scorer.item_row(one) for one in items])
    rows = rows.astype(np.intp)
    answer = scorer.predict(users)
    ids, titles = [scorer.item_ids[row] for row in rows], [scorer.titles[row] for row in rows]
    table = []
    for place, user in enumerate(users):
        numbers = (finite(part[place, rows]) for part in (answer.rating, answer.std, answer.propensity))
        value = {} if answer.value is None else {"value": finite(answer.value[place : place + 1])[0]}
        table += [
            {"user_id": user, "item_id": item, "title": title, "rating": r, "std": s, "propensity": p, **value}
            for item, title, r, s, p in zip(ids, titles, *numbers, strict=True)
        ]
    return table
