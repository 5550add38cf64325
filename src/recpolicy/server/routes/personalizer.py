"""Routes of Azure AI Personalizer that an application calls: rank, reward and activate, also for several slots.

Version 1.0 has its routes under /personalizer/v1.0, the version 2022-09-01-preview under /personalizer.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from recpolicy.server.active_request import ActiveDep, ActiveRequest
from recpolicy.server.db.feedback import Outcome
from recpolicy.server.db.rank_signals import RankSignal
from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.errors import ERROR_RESPONSES
from recpolicy.server.json_output import error_response, json_response
from recpolicy.server.rank import personalizer
from recpolicy.server.rank.ranking import rank
from recpolicy.server.routes.rank import STATUS_OF, store_activation, store_signals
from recpolicy.server.schemas.personalizer import (
    PersonalizerMultiSlotRank,
    PersonalizerRank,
    PersonalizerReward,
    PersonalizerSlotRewards,
)
from recpolicy.server.schemas.rank import EventName
from recpolicy.server.schemas.responses import ErrorResponse

PREFIXES = ("/personalizer/v1.0", "/personalizer")
PERSONALIZER_ERRORS: dict[int | str, dict[str, Any]] = ERROR_RESPONSES | {
    404: {"model": ErrorResponse, "description": "No such event or slot (`unknown_event`, `unknown_slot`)."},
    409: {"model": ErrorResponse, "description": "The champion is a policy of ratings (`wrong_policy_kind`), or the id"
          " belongs to another request (`conflict`)."},
}  # fmt: skip
EventId = Annotated[EventName, Path(description="The eventId of a rank.")]
router = APIRouter(tags=["personalizer"], responses=PERSONALIZER_ERRORS)


@router.post("/rank", status_code=201)
async def rank_single(request: PersonalizerRank, state: StateDep, active: ActiveDep) -> Response:
    """Rank actions; the rewardActionId is to be shown."""
    active.admit([len(request.actions)])
    ranked = await rank(state, personalizer.rank_input(request, active.caller is not None))
    return json_response(personalizer.rank_body(ranked, request), 201)


@router.post("/multislot/rank", status_code=201)
async def rank_slots(request: PersonalizerMultiSlotRank, state: StateDep, active: ActiveDep) -> Response:
    """Fill several slots, each with another action."""
    active.admit([len(request.actions) * len(request.slots)])
    ranked = await rank(state, personalizer.multi_slot_input(request, active.caller is not None))
    return json_response(personalizer.multi_slot_body(ranked), 201)


@router.post("/multislot/events/{event_id:path}/reward", status_code=204)
async def reward_slots(
    event_id: EventId, request: PersonalizerSlotRewards, state: StateDep, active: ActiveDep
) -> Response:
    """Reward the actions of slots."""
    values = [(reward.slot_id, reward.value) for reward in request.reward]
    return await _reward(state, active, event_id, values)


@router.post("/events/{event_id:path}/reward", status_code=204)
async def reward_single(event_id: EventId, request: PersonalizerReward, state: StateDep, active: ActiveDep) -> Response:
    """Reward the rewardActionId of an event."""
    return await _reward(state, active, event_id, [(None, request.value)])


@router.post("/multislot/events/{event_id:path}/activate", status_code=204)
@router.post("/events/{event_id:path}/activate", status_code=204)
async def activate(event_id: EventId, state: StateDep) -> Response:
    """Activate a deferred event."""
    return _answer(await store_activation(state, event_id))


async def _reward(
    state: AppState, active: ActiveRequest, event_id: str, values: Sequence[tuple[str | None, float]]
) -> Response:
    has_key = active.caller is not None
    signals = [RankSignal(event_id, "reward", value, slot_id=slot, has_key=has_key) for slot, value in values]
    return _answer(await store_signals(state, signals))


def _answer(outcomes: list[Outcome]) -> Response:
    """Return 204 without a body, or the first rejection."""
    for outcome in outcomes:
        if outcome.status in STATUS_OF:
            return error_response(STATUS_OF[outcome.status], outcome.status, outcome.message)
    return Response(status_code=204)
