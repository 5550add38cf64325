"""Who changed what."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from recpolicy.server.auth.roles import Reader
from recpolicy.server.db import audit
from recpolicy.server.deps import Here
from recpolicy.server.json_response import json_answer
from recpolicy.server.schemas.admin import ADMIN_REFUSALS, AuditList

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=ADMIN_REFUSALS)


@router.get("/audit", response_model=AuditList)
def latest(_: Reader, here: Here, count: Annotated[int, Query(ge=1, le=1000)] = 50) -> Response:
    """Show the last changes, newest first."""
    with here.kept().engine.connect() as connection:
        return json_answer({"audit": audit.latest(connection, count)})
