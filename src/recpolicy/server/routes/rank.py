"""Routes to rank actions with features, to reward the chosen action and to activate a deferred event."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Path, Response
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from recpolicy.server.active_request import ActiveDep, ActiveRequest
from recpolicy.server.db.events import id_key, now_ms
from recpolicy.server.db.feedback import Outcome
from recpolicy.server.db.rank_signals import Activation, RankSignal
from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.errors import ERROR_RESPONSES
from recpolicy.server.json_output import JsonText, error_response, json_response
from recpolicy.server.middleware import FastPath
from recpolicy.server.rank.ranking import Ranked, rank
from recpolicy.server.rank.slot_decisions import RankInput, Slot
from recpolicy.server.recommend import without_routing
from recpolicy.server.schemas.rank import (
    ActivationResponse,
    EventName,
    RankRequest,
    RankResponse,
    RewardRequest,
    RewardResponse,
)
from recpolicy.server.schemas.responses import ErrorResponse

if TYPE_CHECKING:
    from recpolicy.server.db.writer import GroupCommitWriter

STATUS_OF = {"unknown_event": 404, "unknown_slot": 404, "conflict": 409, "invalid_value": 422}
_RANK_ERRORS = ERROR_RESPONSES | {
    404: {"model": ErrorResponse, "description": "The server has no database (`not_found`), or no such event"
          " (`unknown_event`)."},
    409: {"model": ErrorResponse, "description": "The champion is a policy of ratings (`wrong_policy_kind`), or the id"
          " belongs to another request or signal (`conflict`)."},
}  # fmt: skip
EventIdPath = Annotated[EventName, Path(description="The event_id of a rank.")]
router = APIRouter(prefix="/v1", tags=["rank"], responses=_RANK_ERRORS)


@router.post("/rank", response_model=RankResponse)
async def rank_actions(request: RankRequest, state: StateDep, active: ActiveDep) -> Response:
    """Choose one of several actions by their features, and store the event.

    A request costs as many requests of the rate limit as it has hundreds of actions.
    """
    active.admit([len(request.actions)])
    user = None if request.user is None else id_key(request.user)
    actions = [(action["id"], action.get("features", {})) for action in request.actions]
    slot = Slot(excluded=frozenset(request.excluded))
    has_key = active.caller is not None
    wanted = RankInput(request.context, actions, (slot,), request.event_id, user, request.deferred, has_key)
    ranked = await rank(state, wanted)
    return JsonText(to_json(rank_body(ranked)))


def rank_body(ranked: Ranked) -> dict[str, Any]:
    """Return the response to a request without slots."""
    ranking = ranked.slots[0].ranking
    return {
        "event_id": ranked.event_id if ranked.stored else None,
        "action": ranking[0][0],
        "ranking": [{"id": identity, "probability": probability} for identity, probability in ranking],
        "policy": ranked.policy,
        "mode": ranked.mode,
    }


@router.post("/events/{event_id:path}/reward", response_model=RewardResponse)
async def send_reward(event_id: EventIdPath, request: RewardRequest, state: StateDep, active: ActiveDep) -> Response:
    """Store a signal that rewards the chosen action of an event. A signal with a `signal_id` can be sent again."""
    signal = RankSignal(
        event_id, request.type, request.value, signal_id=request.signal_id, has_key=active.caller is not None
    )
    (outcome,) = await store_signals(state, [signal])
    if outcome.status in STATUS_OF:
        return error_response(STATUS_OF[outcome.status], outcome.status, outcome.message)
    return json_response({"status": outcome.status, "message": outcome.message})


@router.post("/events/{event_id:path}/activate", response_model=ActivationResponse)
async def activate_event(event_id: EventIdPath, state: StateDep) -> Response:
    """Activate a deferred event: the caller has used the chosen action. An active event stays active."""
    (outcome,) = await store_activation(state, event_id)
    if outcome.status in STATUS_OF:
        return error_response(STATUS_OF[outcome.status], outcome.status, outcome.message)
    return json_response({"status": outcome.status})


async def store_signals(state: AppState, signals: list[RankSignal]) -> list[Outcome]:
    """Store signals and count their outcomes; raises DataError for a type or value that the server does not take."""
    state.check_signals(signals)
    outcomes = await _writer(state).feedback(signals, now_ms())
    for signal, outcome in zip(signals, outcomes, strict=True):
        state.metrics.signals.labels(outcome.status).inc()
        if outcome.version is not None:
            state.metrics.count_signal(outcome.version, outcome.task, signal.type)
        if outcome.status == "accepted":
            state.metrics.not_learned.inc(not outcome.online)
    return outcomes


async def store_activation(state: AppState, event_id: str) -> list[Outcome]:
    """Store an activation."""
    return await _writer(state).feedback([Activation(event_id)], now_ms())


def _writer(state: AppState) -> "GroupCommitWriter":
    if state.store is None:
        raise HTTPException(404, "this server has no database, so it takes no rewards (--no-store)")
    return state.store.writer


def fast_path(state: AppState) -> Mapping[tuple[str, str], FastPath]:
    """Return the requests that RequestMiddleware answers itself, by method and path."""

    async def one(request: RankRequest, active: ActiveRequest) -> Response:
        return await rank_actions(request, state, active)

    return {("POST", "/v1/rank"): without_routing(RankRequest, one)}
