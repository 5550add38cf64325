"""Routes for feedback on recommended items."""

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

from recpolicy.server.active_request import ActiveDep
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.feedback import FeedbackItem, Outcome
from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.errors import ERROR_RESPONSES
from recpolicy.server.json_output import error_response, json_response
from recpolicy.server.schemas.requests import FeedbackBatch, FeedbackRequest
from recpolicy.server.schemas.responses import ErrorResponse, FeedbackResponse, FeedbackResults

STATUS_OF = {"unknown_event": 404, "conflict": 409, "unknown_item": 422, "rating_out_of_range": 422}
_FEEDBACK_ERRORS = ERROR_RESPONSES | {
    404: {
        "model": ErrorResponse,
        "description": "No event has this id (`unknown_event`), or the server has no database (`not_found`).",
    },
    409: {"model": ErrorResponse, "description": "The server has the same feedback with another value (`conflict`)."},
}
router = APIRouter(prefix="/v1", tags=["feedback"], responses=_FEEDBACK_ERRORS)


@router.post("/feedback", response_model=FeedbackResponse)
async def send_feedback(request: FeedbackRequest, state: StateDep) -> Response:
    """Store a user's feedback on a recommended item. The server ignores a repeated request, so retries are safe."""
    (outcome,) = await _store(state, [request])
    if outcome.status in STATUS_OF:
        return error_response(STATUS_OF[outcome.status], outcome.status, outcome.message)
    return json_response({"status": outcome.status, "reward": outcome.reward})


@router.post("/feedback/batch", response_model=FeedbackResults)
async def send_feedback_batch(batch: FeedbackBatch, state: StateDep, active: ActiveDep) -> Response:
    """Store several pieces of feedback in order. A rejected piece does not stop the others.

    Ten pieces cost one request of the rate limit.
    """
    active.admit([0] * len(batch.items))
    outcomes = await _store(state, batch.items)
    results = [{"status": outcome.status, "reward": outcome.reward, "message": outcome.message} for outcome in outcomes]
    return json_response({"results": results})


async def _store(state: AppState, batch: list[FeedbackRequest]) -> list[Outcome]:
    if state.store is None:
        raise HTTPException(404, "this server has no database, so it takes no feedback (--no-store)")
    items = [
        FeedbackItem(piece.event_id, piece.item, piece.type, 1.0 if piece.value is None else piece.value)
        for piece in batch
    ]
    outcomes = await state.store.writer.feedback(items, now_ms())
    low = state.reward_rules().scale[0]
    for outcome in outcomes:
        state.metrics.feedback.labels(outcome.status).inc()
        if outcome.reward is not None:
            state.metrics.reward_sum.inc(outcome.reward - low)
            state.metrics.reward_count.inc()
    return outcomes
