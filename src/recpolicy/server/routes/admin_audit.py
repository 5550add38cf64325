"""Who changed what."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from recpolicy.server.admin_answers import ADMIN_REFUSALS, AuditList
from recpolicy.server.auth import Reader
from recpolicy.server.json_answer import json_answer
from recpolicy.server.state import Here
from recpolicy.server.store import audit

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=ADMIN_REFUSALS)


@router.get("/audit", response_model=AuditList)
def latest(_: Reader, here: Here, count: Annotated[int, Query(ge=1, le=1000)] = 50) -> Response:
    """Show the last changes, newest first."""
    with here.kept().engine.connect() as connection:
        return json_answer({"audit": audit.latest(connection, count)})
