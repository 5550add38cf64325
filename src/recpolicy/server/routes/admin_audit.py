"""The audit: changes by operators and by the server."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from recpolicy.server.auth.roles import Reader
from recpolicy.server.db import audit
from recpolicy.server.deps import StateDep
from recpolicy.server.json_response import json_response
from recpolicy.server.schemas.admin import ADMIN_ERROR_RESPONSES, AuditList

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=ADMIN_ERROR_RESPONSES)


@router.get("/audit", response_model=AuditList)
def latest(_: Reader, state: StateDep, count: Annotated[int, Query(ge=1, le=1000)] = 50) -> Response:
    """Show the last changes, newest first."""
    with state.require_store().engine.connect() as connection:
        return json_response({"audit": audit.latest(connection, count)})
