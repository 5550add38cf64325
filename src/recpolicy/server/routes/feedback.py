"""Routes for feedback on recommended items."""

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

from recpolicy.server.db.events import now_ms
from recpolicy.server.db.feedback import FeedbackItem, Outcome
from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.errors import ERROR_RESPONSES
from recpolicy.server.json_response import json_response
from recpolicy.server.middleware import error_response
from recpolicy.server.schemas.requests import FeedbackBatch, FeedbackRequest
from recpolicy.server.schemas.responses import ErrorResponse, FeedbackResponse, FeedbackResults

STATUS_OF = {"unknown_event": 404, "conflict": 409, "unknown_item": 422, "rating_out_of_range": 422}
_REFUSED = ERROR_RESPONSES | {
    404: {"model": ErrorResponse, "description": "No event with this id (`unknown_event`)."},
    409: {"model": ErrorResponse, "description": "The same was said before with another value (`conflict`)."},
}
router = APIRouter(prefix="/v1", tags=["feedback"], responses=_REFUSED)


@router.post("/feedback", response_model=FeedbackResponse)
async def feedback(said: FeedbackRequest, state: StateDep) -> Response:
    """Take what a user did with an item of an event. Sending it again is safe: it is taken once."""
    (outcome,) = await _take(state, [said])
    if outcome.status in STATUS_OF:
        return error_response(STATUS_OF[outcome.status], outcome.status, outcome.message)
    return json_response({"status": outcome.status, "reward": outcome.reward})


@router.post("/feedback/batch", response_model=FeedbackResults)
async def feedback_batch(batch: FeedbackBatch, state: StateDep) -> Response:
    """Take several pieces, in order; one that is refused does not stop the others."""
    outcomes = await _take(state, batch.items)
    results = [{"status": one.status, "reward": one.reward, "message": one.message} for one in outcomes]
    return json_response({"results": results})


async def _take(state: AppState, batch: list[FeedbackRequest]) -> list[Outcome]:
    if state.store is None:
        raise HTTPException(404, "this server keeps no events and takes no feedback (--no-store)")
    said = [FeedbackItem(one.event_id, one.item, one.type, 1.0 if one.value is None else one.value) for one in batch]
    outcomes = await state.store.writer.feedback(said, now_ms())
    low = state.reward_rules().scale[0]
    for outcome in outcomes:
        state.metrics.feedback.labels(outcome.status).inc()
        if outcome.reward is not None:
            state.metrics.reward_sum.inc(outcome.reward - low)
            state.metrics.reward_count.inc()
    return outcomes
