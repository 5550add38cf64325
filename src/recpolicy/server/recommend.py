"""POST /v1/recommend in reading order: parse, choose, fall back, persist.

Most requests ask for the best items of a known user and get the same list again and again. We cache that list as JSON
with the version that computed it; only the event is new. We first decide at random whether to explore. Only greedy
lists are cached; logged propensities account for both branches.
"""

import json
import random
import re
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ValidationError

from recpolicy.core.errors import ConfigError, DataError, StoreError
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.server.active_request import ActiveDep, ActiveRequest, Message
from recpolicy.server.computed_lists import NEVER, ListRequest, compute_list, compute_lists, list_key
from recpolicy.server.db.events import Event, id_key, new_event_id, now_ms
from recpolicy.server.db.rollouts import ConflictError
from recpolicy.server.db.writer import QueueFullError
from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.errors import ERROR_RESPONSES, item_error, response_to_error
from recpolicy.server.json_output import JsonText, encode
from recpolicy.server.live_models import LiveState, bucket
from recpolicy.server.middleware import FastPath
from recpolicy.server.rollout.variant_answers import answer_by_variant
from recpolicy.server.schemas.requests import RecommendBatch, RecommendRequest
from recpolicy.server.schemas.responses import Recommendation, Recommendations
from recpolicy.server.sessions import NO_SESSIONS, RequestSessions, SessionPlace
from recpolicy.server.users.service import NO_USERS, RequestUsers

router = APIRouter(prefix="/v1", tags=["policy"], responses=ERROR_RESPONSES)

NO_EXPLORATION = ExplorationConfig(share=0.0)
_JSON_TYPE = re.compile(rb"\s*application/(?:[^;/]*\+)?json\s*(?:;.*)?", re.IGNORECASE | re.DOTALL)
"""Content types that FastAPI takes for JSON."""

Body = TypeVar("Body", bound=BaseModel)


@dataclass(frozen=True)
class ServedList:
    """A list for one user, and the event to store before it is sent."""

    event: Event
    policy: str
    """The serving version, JSON."""
    items: bytes
    """The items of the response, JSON."""
    note: bytes = b""
    """Further fields of the response, JSON after a comma."""
    mean_std: float = float("nan")
    """Mean standard deviation of the predicted ratings of the items."""
    greedy: bool = True
    """False: the scores of the items are not those of the best list."""
    posterior: str = ""
    """The start of the posterior that describes the user; empty: the user is as in the training."""
    session: bytes = b""
    """The session of the list, JSON after a comma; empty: none."""
    fallback: bool = False
    """True: static weights, or the policy's own score, ranked in place of a tuned layer."""

    @property
    def explored(self) -> bool:
        """True if the list was drawn to explore."""
        return self.event.explored

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

    def to_json(self, stored: bool = True) -> bytes:
        """Return the response body; if the event was not stored, the event id is null and there is no session."""
        event_id = f'"{self.event.id}"' if stored else "null"
        explored = "true" if self.event.explored else "false"
        head = f'{{"event_id":{event_id},"user":{self.event.user_key},"policy":{self.policy},"explored":{explored}'
        return b'%b,"items":%b%b%b}' % (head.encode(), self.items, self.note, self.session if stored else b"")


@router.post("/recommend", response_model=Recommendation)
async def recommend(request: RecommendRequest, state: StateDep) -> Response:
    """Recommend items to a user, best first, and store the event."""
    # The fast path: RequestMiddleware calls this function through `fast_path` below, before routing, because FastAPI's
    # routing and dependency resolution cost more than the recommendation. Everything runs in the event loop for the
    # same reason: handing a cached list to a thread takes longer than serving it.
    live = state.models.live
    users = await state.users.read(live, [request.user])
    sessions = await state.sessions.read(live, [request])
    served = recommend_with_fallback(state, request, live, users, sessions)
    stored = await persist(state, [served])
    return JsonText(served.to_json(stored))


def fast_path(state: AppState) -> Mapping[tuple[str, str], FastPath]:
    """Return the requests that RequestMiddleware answers itself, by method and path."""

    async def one(request: RecommendRequest, _: ActiveRequest) -> Response:
        return await recommend(request, state)

    async def several(batch: RecommendBatch, active: ActiveRequest) -> Response:
        return await recommend_batch(batch, state, active)

    return {
        ("POST", "/v1/recommend"): without_routing(RecommendRequest, one),
        ("POST", "/v1/recommend/batch"): without_routing(RecommendBatch, several),
    }


def without_routing(model: type[Body], handler: Callable[[Body, ActiveRequest], Awaitable[Response]]) -> FastPath:
    """Return a handler that takes the bytes of a body, and answers what FastAPI would."""

    async def answer(active: ActiveRequest, body: bytes) -> Response:
        try:
            return await handler(parse(model, active.scope, body), active)
        except (RequestValidationError, DataError, ConfigError, StoreError, ConflictError) as error:
            return response_to_error(error)

    return answer


@router.post("/recommend/batch", response_model=Recommendations)
async def recommend_batch(batch: RecommendBatch, state: StateDep, active: ActiveDep) -> Response:
    """Answer several requests. A rejected request does not stop the others.

    A batch costs as many requests of the rate limit as its lists have hundreds of positions, each list at least a tenth
    of a request.
    """
    default = state.models.live.champion.list_size
    rows = active.admit([request.list_size(default) for request in batch.requests])
    answers = await recommend_all(state, batch.requests, active, rows)
    stored = await persist(state, [answer for answer in answers if isinstance(answer, ServedList)])
    return list_response("answers", answers, stored)


def parse(model: type[Body], scope: Message, body: bytes) -> Body:
    """Return the request in a body; raises RequestValidationError that names the field, as FastAPI does."""
    content_type = next((value for name, value in scope["headers"] if name == b"content-type"), b"")
    try:
        if content_type != b"application/json" and not _JSON_TYPE.fullmatch(content_type):
            raise RequestValidationError([{"loc": ("body",), "msg": "expected content-type: application/json"}])
        return model.model_validate_json(body)
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", *fault["loc"])} for fault in error.errors(include_input=False)]
        raise RequestValidationError(faults) from None


def recommend_with_fallback(
    state: AppState, request: ListRequest, live: LiveState, users: RequestUsers = NO_USERS,
    sessions: RequestSessions = NO_SESSIONS,
) -> ServedList:  # fmt: skip
    """Return the list of the user's variant, or the champion's if the challenger fails; count both during a rollout.

    Raises what the champion raises.
    """
    exploration, share = state.settings.exploration, state.settings.tuning.explore_share
    if live.challenger is None:
        return choose(live, request, exploration, users, sessions, share)
    served = answer_by_variant(
        state, live, id_key(request.user), lambda live: choose(live, request, exploration, users, sessions, share)
    )
    if live.shadow and not served.explored:
        sample = state.settings.rollout.shadow_sample
        state.rollout_counters.shadow.offer(live, request.full(), served, sample, users)
    return served


async def recommend_all(
    state: AppState, requests: Sequence[ListRequest], active: ActiveRequest, rows: int
) -> list[ServedList | dict[str, Any]]:
    """Answer several requests, in a thread unless their lists are cached; an error takes the place of a list.

    Args:
        state: The state of the server.
        requests: The requests.
        active: The HTTP request that contains them.
        rows: Rows of the whole answer.

    Raises:
        RejectedError: Too many large answers wait.
    """
    live = state.models.live
    users = await state.users.read(live, [request.user for request in requests])
    sessions = await state.sessions.read(live, requests)
    exploration = state.settings.exploration if live.exploring else NO_EXPLORATION
    lists, together = live.champion.lists, live.challenger is None  # in a rollout, each request is timed by itself
    cached = together and all(
        request.plain
        and list_key(live.champion, request, exploration, users.find(live.champion.trained, request.user)) in lists
        for request in requests
    )

    def answer_all(stop: threading.Event) -> list[ServedList | dict[str, Any]]:
        if together and not cached:
            compute_lists(live.champion, requests, exploration, stop, users)
        answers: list[ServedList | dict[str, Any]] = []
        for request in requests:
            if stop.is_set():
                break
            try:
                answers.append(recommend_with_fallback(state, request, live, users, sessions))
            except (DataError, ConfigError) as error:
                answers.append(item_error(error))
        return answers

    return answer_all(NEVER) if cached else await active.compute(rows, answer_all)


def choose(
    live: LiveState, request: ListRequest, exploration: ExplorationConfig, users: RequestUsers = NO_USERS,
    sessions: RequestSessions = NO_SESSIONS, weight_share: float = 0.0,
) -> ServedList:  # fmt: skip
    """Return a list for one request with its event; `weight_share` is the share of lists with drawn weights.

    A list that only a comparison needs (`NO_EXPLORATION`) never shows a new item. Raises what the policy raises for
    unknown users, items or filters, and SessionError for a request that does not continue its session.
    """
    user_key = id_key(request.user)
    version, variant = live.variant_for(user_key)
    place = sessions.place(request, user_key, version.scorer.sequential)
    exploration = exploration if live.exploring else NO_EXPLORATION
    share = weight_share if version.weights is not None and exploration is not NO_EXPLORATION else 0.0
    # First: logs leave these lists out, so the propensities of all others must be exact given that it was not drawn.
    draw_weights = _weight_lot(place) < share
    explored = not draw_weights and random.random() < exploration.share
    slot = version.new_items if exploration is not NO_EXPLORATION else None
    show_new = not draw_weights and slot is not None and random.random() < slot.share
    computed = None
    if request.plain and not explored and not show_new and not draw_weights:
        key = list_key(version, request, exploration, users.find(version.trained, request.user))
        computed = version.lists.get(key) or compute_lists(version, [request], exploration, users=users).get(key)
    if computed is None:
        computed = compute_list(version, request.full(), exploration, explored, users, show_new, draw_weights)
    time = now_ms()
    event = Event(
        id=new_event_id(time),
        time=time,
        user_key=user_key,
        version=version.number or 0,
        policy_digest=version.policy_digest,
        agent=version.agent,
        variant=variant,
        rollout=live.rollout,
        explored=computed.explored,
        item_ids=computed.item_ids,
        propensities=computed.propensities,
        ratings=computed.ratings,
        allowed=computed.allowed,
        context=computed.context,
        history=computed.history if request.history is None or place is None else computed.history or b"",
        guardrails=computed.guardrails,
        session_id=None if place is None else place.session_id,
        step=None if place is None else place.step,
        weights=computed.weights,
    )
    session = b"" if place is None else place.note
    return ServedList(
        event, version.policy_json[variant], computed.items, computed.note, computed.mean_std, computed.greedy,
        computed.posterior, session, computed.fallback,
    )  # fmt: skip


def _weight_lot(place: SessionPlace | None) -> float:
    """Return a number in [0, 1), the same for all lists of a session, so that logs have it whole or not at all."""
    if place is None or place.session_id is None:
        return random.random()
    return bucket(place.session_id, "weights")


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
            state.sessions.lossless = False
            stored = False
    counts: dict[tuple[int, str, bool], int] = {}
    for each in served:
        labels = each.event.version, each.event.variant, each.event.explored
        counts[labels] = counts.get(labels, 0) + 1
        state.metrics.observe_choice_of_list(each.event.version, each.greedy, each.mean_std)
        if each.fallback:
            state.metrics.count_weight_fallback(each.event.version)
        if each.posterior:
            state.metrics.count_described(each.posterior)
    for labels, count in counts.items():
        state.metrics.count_lists(*labels, count)
    return stored


def list_response(name: str, answers: Sequence[ServedList | bytes | dict[str, Any]], stored: bool) -> Response:
    """Return the answers in order, under a name: lists, ready JSON and errors."""
    bodies = [_answer_json(each, stored) for each in answers]
    return JsonText(b'{"%b":[%b]}' % (name.encode(), b",".join(bodies)))


def _answer_json(answer: ServedList | bytes | dict[str, Any], stored: bool) -> bytes:
    if isinstance(answer, ServedList):
        return answer.to_json(stored)
    return answer if isinstance(answer, bytes) else encode(answer).encode()
