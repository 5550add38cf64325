"""The route that erases a user."""

from dataclasses import asdict
from typing import cast

from fastapi import APIRouter, Response

from recpolicy.core.ids import convert_id
from recpolicy.server import erasure
from recpolicy.server.auth.roles import Operator
from recpolicy.server.deps import StateDep
from recpolicy.server.json_output import json_response
from recpolicy.server.schemas.admin import ErasedUserResponse, EraseUserRequest

router = APIRouter(prefix="/v1/admin", tags=["admin"])


@router.post("/users/erase", response_model=ErasedUserResponse)
def erase_user(request: EraseUserRequest, caller: Operator, state: StateDep) -> Response:
    """Erase all events, feedback, rewards and signals of a user from the database and the spool.

    Versions that were trained on them, backups, and exported logs are out of reach. Erasing again does no harm.
    """
    user = request.user
    if request.as_policy and isinstance(user, str):
        champion = state.models.live.champion
        like = [0] if champion.ranks else champion.scorer.user_ids  # a policy of features types no user ids
        user = cast(int | str, convert_id(user, like))
    return json_response({"user": user, **asdict(erasure.erase_user(state, user, caller.name))})
