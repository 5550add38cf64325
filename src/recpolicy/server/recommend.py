"""POST /v1/recommend in reading order: parse, choose, fall back, persist.

Most requests ask for the best items of a known user and get the same list again and again. We cache that list as JSON
with the version that computed it; only the event is new. We first decide at random whether to explore. Only greedy
lists are cached; logged propensities account for both branches.
"""

import asyncio
import json
import logging
import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import numpy as np
from fastapi import APIRouter, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from recpolicy.core.errors import ConfigError, DataError, StoreError, UnknownIdError
from recpolicy.inference.scorer import FoldIn, Prediction, Scorer
from recpolicy.inference.slate_selection import ExplorationConfig, Slate, allowed_rows, choose_slate, explain
from recpolicy.server.db.events import Event, id_key, new_event_id, now_ms
from recpolicy.server.db.writer import QueueFullError
from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.errors import ERROR_RESPONSES, answer_or_error, response_to_error
from recpolicy.server.json_output import exception_location
from recpolicy.server.live_models import CHALLENGER, CHAMPION, LiveState
from recpolicy.server.middleware import FastPath, Message
from recpolicy.server.rollout.stage_metrics import VariantHealth
from recpolicy.server.schemas.requests import RecommendBatch, RecommendRequest
from recpolicy.server.schemas.responses import Recommendation, Recommendations

logger = logging.getLogger(__name__)
router = APIRouter(prefix="/v1", tags=["policy"], responses=ERROR_RESPONSES)

NO_EXPLORATION = ExplorationConfig(share=0.0)
ENCODE = json.JSONEncoder(allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode
_LIST_OVERHEAD = 1_000
"""Bytes of a cached list beyond its texts."""

Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True)
class ComputedList:
    """A list of items without the parts that are new in each request."""

    items: str
    """The items of the response, JSON."""
    item_ids: str
    """Item ids [K], JSON."""
    propensities: str
    """Propensities [K], JSON."""
    ratings: str
    """Predicted ratings [K], JSON."""
    allowed: bytes | None
    """Packed bits over the catalog; None: every item was allowed."""
    context: bytes | None
    """The float32 context of a user whom the version does not know; None for a known user."""

    @property
    def size(self) -> int:
        """Approximate bytes in memory."""
        texts = len(self.items) + len(self.item_ids) + len(self.propensities) + len(self.ratings)
        return _LIST_OVERHEAD + texts + len(self.allowed or b"") + len(self.context or b"")


@dataclass(frozen=True)
class ServedList:
    """A list for one user, and the event to store before it is sent."""

    event: Event
    policy: str
    """The serving version, JSON."""
    items: str
    """The items of the response, JSON."""

    @property
    def item_ids(self) -> list[Any]:
        """Item ids, first position first."""
        ids: list[Any] = json.loads(self.event.item_ids)
        return ids

    @property
    def ratings(self) -> list[float | None]:
        """Predicted ratings of the items."""
        ratings: list[float | None] = json.loads(self.event.ratings)
        return ratings

    def to_json(self, stored: bool = True) -> str:
        """Return the response body; the event id is null if the event was not stored."""
        event_id = f'"{self.event.id}"' if stored else "null"
        explored = "true" if self.event.explored else "false"
        return (
            f'{{"event_id":{event_id},"user":{self.event.user_key},"policy":{self.policy},"explored":{explored},'
            f'"items":{self.items}}}'
        )


@router.post("/recommend", response_model=Recommendation)
async def recommend(request: RecommendRequest, state: StateDep) -> Response:
    """Recommend items to a user, best first, and store the event."""
    # The fast path: RequestMiddleware calls this function through `fast_path` below, before routing, because FastAPI's
    # routing and dependency resolution cost more than the recommendation. Everything runs in the event loop for the
    # same reason: handing a cached list to a thread takes longer than serving it.
    served = recommend_with_fallback(state, request, state.models.live)
    stored = await persist(state, [served])
    return Response(served.to_json(stored), media_type="application/json")


def fast_path(state: AppState) -> Mapping[tuple[str, str], FastPath]:
    """Return the requests that RequestMiddleware answers itself, by method and path."""

    async def recommend_bytes(scope: Message, body: bytes) -> Response:
        try:
            return await recommend(parse(RecommendRequest, scope, body), state)
        except (RequestValidationError, DataError, ConfigError, StoreError) as error:
            return response_to_error(error)

    return {("POST", "/v1/recommend"): recommend_bytes}


@router.post("/recommend/batch", response_model=Recommendations)
async def recommend_batch(batch: RecommendBatch, state: StateDep) -> Response:
    """Answer several requests. A rejected request does not stop the others."""
    live = state.models.live

    def answer_all() -> list[ServedList | dict[str, Any]]:
        return [answer_or_error(partial(recommend_with_fallback, state, each, live)) for each in batch.requests]

    answers = await asyncio.to_thread(answer_all)
    stored = await persist(state, [answer for answer in answers if isinstance(answer, ServedList)])
    return list_response("answers", answers, stored)


def parse(model: type[Body], scope: Message, body: bytes) -> Body:
    """Return the request in a body; raises RequestValidationError that names the field, as FastAPI does."""
    content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    try:
        if content_type.partition(b";")[0].strip().lower() != b"application/json":
            raise RequestValidationError([{"loc": ("body",), "msg": "expected content-type: application/json"}])
        return model.model_validate_json(body)
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors(include_input=False)]
        raise RequestValidationError(faults) from None


def recommend_with_fallback(state: AppState, request: RecommendRequest, live: LiveState) -> ServedList:
    """Return the list of the user's variant, or the champion's if the challenger fails; count both during a rollout.

    Raises what the champion raises. Then the caller or the champion is at fault, and nothing counts against the
    challenger. An answer in place of the challenger's is not part of the comparison: its event names no rollout.
    """
    exploration = state.settings.exploration
    if live.challenger is None:
        return choose(live, request, exploration)
    start = perf_counter()
    try:
        served = choose(live, request, exploration)
    except Exception as error:
        seconds = perf_counter() - start
        if live.variant_for(id_key(request.user))[1] == CHAMPION:
            raise
        served = choose(replace(live, challenger=None, rollout=None), request, exploration)
        _count(state, live, CHALLENGER, seconds, failed=True)
        logger.warning("the challenger failed, the champion answered", extra={"fields": exception_location(error)})
        return served
    _count(state, live, served.event.variant, perf_counter() - start)
    if live.shadow and not served.event.explored:
        state.rollout_counters.shadow.offer(live, request, served, state.settings.rollout.shadow_sample)
    return served


def choose(live: LiveState, request: RecommendRequest, exploration: ExplorationConfig) -> ServedList:
    """Return a list for one request with its event.

    Raises what the policy raises for unknown users, items or filters.
    """
    user_key = id_key(request.user)
    version, variant = live.variant_for(user_key)
    exploration = exploration if live.exploring else NO_EXPLORATION
    explored = random.random() < exploration.share
    cacheable = request.plain and not explored
    key = (request.user, request.k, request.exclude_rated, exploration)
    computed = version.lists.get(key) if cacheable else None
    if computed is None:
        computed, tied = _compute(version.scorer, request, exploration, explored)
        if cacheable and not tied:  # ties are broken at random, so another request may get another list
            version.lists.put(key, computed, computed.size)
    event = Event(
        id=new_event_id(),
        time=now_ms(),
        user_key=user_key,
        version=version.number or 0,
        policy_digest=version.policy_digest,
        agent=version.agent,
        variant=variant,
        rollout=live.rollout,
        explored=explored,
        item_ids=computed.item_ids,
        propensities=computed.propensities,
        ratings=computed.ratings,
        allowed=computed.allowed,
        context=computed.context,
    )
    return ServedList(event, version.policy_json[variant], computed.items)


async def persist(state: AppState, served: list[ServedList]) -> bool:
    """Write the events; returns whether they are on disk.

    If neither database nor spool accepts them, users still get their recommendations, without an event id. Raises
    QueueFullError if too many writes wait.
    """
    stored = state.store is not None
    if state.store is not None and served:
        try:
            await state.store.writer.events([each.event for each in served])
        except QueueFullError:
            raise
        except StoreError:
            state.metrics.lost.inc(len(served))
            stored = False
    for each in served:
        state.metrics.count_list(each.event.version, each.event.variant, each.event.explored)
    return stored


def list_response(name: str, answers: list[ServedList | dict[str, Any]], stored: bool) -> Response:
    """Return the answers and errors in order, under a name."""
    texts = [each.to_json(stored) if isinstance(each, ServedList) else ENCODE(each) for each in answers]
    return Response(f'{{"{name}":[{",".join(texts)}]}}', media_type="application/json")


def finite(values: Any) -> list[float | None]:
    """Return the array as plain numbers; None where a value is not finite."""
    numbers: list[float | None] = values.tolist()
    if np.isfinite(values).all():
        return numbers
    return [number if ok else None for number, ok in zip(numbers, np.isfinite(values).tolist(), strict=True)]


def _compute(
    scorer: Scorer, request: RecommendRequest, exploration: ExplorationConfig, explored: bool
) -> tuple[ComputedList, bool]:
    """Return a new list, and whether ties in it were broken at random."""
    fold_in = request.fold_in()
    context = None if request.context is None else np.array(request.context, np.float32)
    known = fold_in is None and context is None
    if known and not scorer.knows(request.user):
        raise UnknownIdError(
            f"no user with id {request.user} in this policy; describe the user by `ratings` or `context`"
        )
    answer = scorer.predict_one(request.user, fold_in, request.session(), context)
    excluded = [*request.exclude, *(each.item for each in request.history or ())]
    years = request.first_and_last_year()
    allowed = allowed_rows(scorer, request.user, request.exclude_rated, request.genres, years, excluded, fold_in)
    slate = choose_slate(answer.score, allowed, request.k, exploration, np.random.default_rng(), explored)
    items = _describe(scorer, request, slate, answer)
    computed = ComputedList(
        items=ENCODE(items),
        item_ids=ENCODE([item["item_id"] for item in items]),
        propensities=ENCODE(slate.propensity.tolist()),
        ratings=ENCODE([item["rating"] for item in items]),
        allowed=None if allowed.all() else np.packbits(allowed).tobytes(),
        context=None if known else _context_bytes(scorer, request, fold_in, context),
    )
    return computed, slate.tied


def _context_bytes(scorer: Scorer, request: RecommendRequest, fold_in: FoldIn | None, context: Any) -> bytes:
    """Return the context that the policy used for a user whom it does not know."""
    contexts = None if context is None else context[np.newaxis]
    row, _ = next(scorer.contexts([request.user], fold_in or {}, 1, contexts))
    return bytes(row[0].astype(np.float32).tobytes())


def _describe(scorer: Scorer, request: RecommendRequest, slate: Slate, answer: Prediction) -> list[dict[str, Any]]:
    """Return the items of a slate as the response shows them."""
    rows = scorer.action_items[slate.arms]
    columns = zip(
        rows.tolist(),
        finite(answer.rating[rows]),
        finite(answer.std[rows]),
        [None] * len(rows) if answer.value is None else finite(answer.value[rows]),
        slate.propensity.tolist(),
        explain(scorer, request.user, rows, request.fold_in()),
        strict=True,
    )
    return [
        {
            **_item(scorer, row),
            "rating": rating,
            "std": std,
            "value": value,
            "propensity": propensity,
            "explanations": [_item(scorer, near) for near in nearest],
        }
        for row, rating, std, value, propensity, nearest in columns
    ]


def _item(scorer: Scorer, row: int) -> dict[str, Any]:
    return {"item_id": scorer.item_ids[row], "title": scorer.titles[row]}


def _count(state: AppState, live: LiveState, variant: str, seconds: float, *, failed: bool = False) -> None:
    """Count one answer of a variant during a rollout."""
    slow = 1e3 * seconds > state.settings.rollout.slow_ms
    health = VariantHealth(1, int(failed), int(slow), seconds)
    state.metrics.observe_choice(variant, health.failures, seconds)
    if live.rollout is not None:
        state.rollout_counters.counts.add(live.rollout, variant, health)
