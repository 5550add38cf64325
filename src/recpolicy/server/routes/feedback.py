"""Routes for feedback on recommended items."""

import asyncio
from collections.abc import Sequence

from fastapi import APIRouter, Response
from starlette.exceptions import HTTPException

from recpolicy.core.errors import DataError
from recpolicy.server.active_request import ActiveDep, ActiveRequest
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.feedback import REWARD_TYPES, FeedbackItem, Outcome, sets_reward
from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.errors import ERROR_RESPONSES
from recpolicy.server.jobs.alerts import send_alert
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
async def send_feedback(request: FeedbackRequest, state: StateDep, active: ActiveDep) -> Response:
    """Store a user's feedback on a recommended item. The server ignores a repeated request, so retries are safe.

    Online learning learns only from feedback with a key, unless the setting `keyless_per_hour` allows for more.
    """
    (outcome,) = await _store(state, [request], active)
    if outcome.status in STATUS_OF:
        return error_response(STATUS_OF[outcome.status], outcome.status, outcome.message)
    return json_response({"status": outcome.status, "reward": outcome.reward})


@router.post("/feedback/batch", response_model=FeedbackResults)
async def send_feedback_batch(batch: FeedbackBatch, state: StateDep, active: ActiveDep) -> Response:
    """Store several pieces of feedback in order. A rejected piece does not stop the others.

    Ten pieces cost one request of the rate limit.
    """
    active.admit([0] * len(batch.items))
    outcomes = await _store(state, batch.items, active)
    results = [{"status": outcome.status, "reward": outcome.reward, "message": outcome.message} for outcome in outcomes]
    return json_response({"results": results})


async def _store(state: AppState, batch: list[FeedbackRequest], active: ActiveRequest) -> list[Outcome]:
    if state.store is None:
        raise HTTPException(404, "this server has no database, so it takes no feedback (--no-store)")
    low = state.models.live.champion.scorer.scale[0]  # raises for a policy of features, whose events take signals
    _check_types(batch, state.settings.feedback.metrics)
    client = active.address if active.caller is None else None
    items = [
        FeedbackItem(piece.event_id, piece.item, piece.type, 1.0 if piece.value is None else piece.value, client)
        for piece in batch
    ]
    outcomes = await state.store.writer.feedback(items, now_ms())
    for piece, outcome in zip(batch, outcomes, strict=True):
        state.metrics.feedback.labels(outcome.status).inc()
        if outcome.version is not None:
            state.metrics.count_signal(outcome.version, outcome.task, piece.type)
        if outcome.reward is not None:
            state.metrics.reward_sum.inc(outcome.reward - low)
            state.metrics.reward_count.inc()
            state.metrics.not_learned.inc(not outcome.online)
    if not all(outcome.online for outcome in outcomes) and state.keyless.must_alert():
        asyncio.get_running_loop().run_in_executor(None, _alert, state)
    return outcomes


def _check_types(batch: list[FeedbackRequest], metrics: Sequence[str]) -> None:
    """Raise DataError for a type that is neither one of rewards nor a metric of the settings."""
    for piece in batch:
        if not sets_reward(piece.type) and piece.type not in metrics:
            known = ", ".join((*REWARD_TYPES, *metrics))
            raise DataError(
                f"no type of feedback is named {piece.type!r}; expected one of {known}. The setting [feedback] metrics"
                " adds others"
            )


def _alert(state: AppState) -> None:
    """Tell the operator that the bound was reached; the caller of the feedback does not wait for it."""
    bound = state.settings.online.keyless_per_hour
    message = (
        f"feedback without a key reached the bound of {bound} learned rewards an hour for one address or one item;"
        " online learning leaves out the rest ([online] keyless_per_hour)"
    )
    send_alert(state, "online.keyless_feedback", message, {"keyless_per_hour": bound})
