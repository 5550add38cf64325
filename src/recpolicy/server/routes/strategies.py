"""Routes of the strategy engine: recommend a strategy, keep and delete profiles, show the table's statistics.

Rewards of a strategy go through POST /v1/events/{id}/reward, as those of ranks.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response
from pydantic_core import to_json
from starlette.exceptions import HTTPException

from recpolicy.core.ids import convert_id
from recpolicy.server.active_request import ActiveDep, ActiveRequest
from recpolicy.server.auth.roles import Client
from recpolicy.server.db.deletion import delete_user_strategies, rewrite_file
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import id_key
from recpolicy.server.db.strategy_profiles import StoredProfile, delete_profile, get_profile, put_profile
from recpolicy.server.deps import AppState, StateDep
from recpolicy.server.errors import ERROR_RESPONSES
from recpolicy.server.json_output import JsonText, json_response
from recpolicy.server.middleware import FastPath
from recpolicy.server.recommend import without_routing
from recpolicy.server.schemas.requests import Text
from recpolicy.server.schemas.responses import ErrorResponse
from recpolicy.server.schemas.strategies import (
    ProfileDeleted,
    ProfileRequest,
    ProfileResponse,
    StrategyRecommendRequest,
    StrategyResponse,
    StrategyStats,
)
from recpolicy.server.strategies.chances import check_profile
from recpolicy.server.strategies.recommend import Recommended, StrategyInput, recommend_strategy
from recpolicy.server.strategies.service import StrategyService, strategy_statistics

_ERRORS = ERROR_RESPONSES | {
    401: {"model": ErrorResponse, "description": "Profiles need an API key (`unauthorized`)."},
    404: {"model": ErrorResponse, "description": "The server has no strategies, or no profile of this user"
          " (`not_found`)."},
    409: {"model": ErrorResponse, "description": "The id belongs to another request (`conflict`)."},
}  # fmt: skip
router = APIRouter(prefix="/v1/strategies", tags=["strategies"], responses=_ERRORS)
UserPath = Annotated[Text, Path(min_length=1, max_length=200, description="Id of the user.")]
IsText = Annotated[bool, Query(description="True: the id is a text, even if it has only digits.")]


@router.post("/recommend", response_model=StrategyResponse)
async def recommend(request: StrategyRecommendRequest, state: StateDep, active: ActiveDep) -> Response:
    """Recommend one of 27 strategies (energy, diversity, novelty) for a profile and a situation; store the event."""
    wanted = StrategyInput(
        content_type=request.content_type, mood=request.mood, time_of_day=request.time_of_day, profile=request.profile,
        user_key=None if request.user is None else id_key(request.user), opt_in=request.opt_in,
        session=request.session, event_id=request.event_id, has_key=active.caller is not None,
    )  # fmt: skip
    return JsonText(to_json(_body(await recommend_strategy(state, strategies(state), wanted))))


def _body(given: Recommended) -> dict[str, Any]:
    answer = given.answer
    expected = answer.expected_reward
    return {
        "event_id": given.event_id if given.stored else None,
        "strategy": answer.strategy, "action": answer.action, "parameters": answer.parameters,
        "item_weights": given.item_weights,
        "propensity": min(answer.propensity, 1.0), "expected_reward": expected if math.isfinite(expected) else None,
        "source": answer.source, "explored": answer.explored, "policy": given.policy,
    }  # fmt: skip


def fast_path(state: AppState) -> Mapping[tuple[str, str], FastPath]:
    """Return the requests that RequestMiddleware answers itself, by method and path."""
    if state.strategies is None:
        return {}

    async def one(request: StrategyRecommendRequest, active: ActiveRequest) -> Response:
        return await recommend(request, state, active)

    return {("POST", "/v1/strategies/recommend"): without_routing(StrategyRecommendRequest, one)}


@router.get("/stats", response_model=StrategyStats)
async def show_stats(state: StateDep) -> Response:
    """Show the statistics of the serving Q-table: states, cells, Q-values, coverage, exploration."""
    return json_response(strategy_statistics(strategies(state).live))


@router.put("/users/{user:path}", response_model=ProfileResponse)
def put_user(user: UserPath, request: ProfileRequest, _: Client, state: StateDep, text: IsText = False) -> Response:
    """Store the profile of a user who agrees, or replace it. Requests can then leave the profile out."""
    check_profile(strategies(state).live.policy, request.profile)
    identity = _typed(user, text)
    with transaction(state.require_store().engine) as connection:
        stored = put_profile(connection, id_key(identity), request.profile)
    return json_response(_shown(identity, stored))


@router.get("/users/{user:path}", response_model=ProfileResponse)
def show_user(user: UserPath, _: Client, state: StateDep, text: IsText = False) -> Response:
    """Show the stored profile of a user."""
    strategies(state)
    identity = _typed(user, text)
    with state.require_store().engine.connect() as connection:
        stored = get_profile(connection, id_key(identity))
    if stored is None:
        raise HTTPException(404, "the server has no profile of this user")
    return json_response(_shown(identity, stored))


@router.delete("/users/{user:path}", response_model=ProfileDeleted)
def delete_user(user: UserPath, _: Client, state: StateDep, text: IsText = False) -> Response:
    """Delete the profile of a user and the strategy events that hold the traits. Deleting again does no harm.

    Lists and ranks of the user stay, and so do backups and trained tables, which hold no user.
    """
    strategies(state)
    identity = _typed(user, text)
    engine = state.require_store().engine
    with transaction(engine) as connection:
        profiles = delete_profile(connection, id_key(identity))
    events = delete_user_strategies(engine, id_key(identity))
    if profiles or events:
        rewrite_file(engine)
    return json_response({"user": identity, "profile": bool(profiles), "events": events})


def strategies(state: AppState) -> StrategyService:
    """Return the service; raise HTTPException 404 for a server without one."""
    if state.strategies is None:
        raise HTTPException(
            404, "this server serves no strategies: set enabled = true in [strategies], and start it with a database"
        )
    return state.strategies


def _typed(user: str, text: bool) -> int | str:
    """Return the id of a path; one that looks like a number is one, unless the caller says that it is a text."""
    identity = user if text else convert_id(user, [0])
    assert isinstance(identity, int | str)
    return identity


def _shown(user: int | str, stored: StoredProfile) -> dict[str, Any]:
    return {"user": user, **vars(stored)}
