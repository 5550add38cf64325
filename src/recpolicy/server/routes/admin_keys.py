"""Routes for API keys, which need an operator's key, and for the audit of changes."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Response
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from starlette.exceptions import HTTPException

from recpolicy.server.auth.keys import ENVIRONMENT_KEY, key_digest, new_key
from recpolicy.server.auth.roles import KeyCacheDep, Operator, Reader
from recpolicy.server.db import admin
from recpolicy.server.db.engine import transaction
from recpolicy.server.deps import StateDep
from recpolicy.server.json_output import json_response
from recpolicy.server.schemas.admin import (
    KEY_NAME,
    AuditList,
    KeyList,
    KeyRequest,
    KeyResponse,
    NewKey,
)

router = APIRouter(prefix="/v1/admin", tags=["admin"])
_RESERVED = (admin.SERVER, ENVIRONMENT_KEY)
Name = Annotated[str, Path(pattern=KEY_NAME, description="Name of the key.")]


@router.get("/keys", response_model=KeyList)
def list_api_keys(_: Operator, state: StateDep) -> Response:
    """List all API keys, revoked ones included."""
    with state.require_store().engine.connect() as connection:
        return json_response({"keys": admin.list_keys(connection)})


@router.post("/keys", response_model=NewKey, status_code=201)
def create_api_key(request: KeyRequest, caller: Operator, state: StateDep, known: KeyCacheDep) -> Response:
    """Create an API key. Only this response shows it."""
    if request.name in _RESERVED:
        raise HTTPException(409, f"the name {request.name!r} is reserved; choose another name")
    key = new_key()
    try:
        with transaction(state.require_store().engine) as connection:
            row = admin.add_key(connection, request.name, request.role, key_digest(key))
            admin.write_audit(connection, caller.name, "create_key", {"name": request.name, "role": request.role})
    except IntegrityError:
        raise HTTPException(409, f"a key already has, or had, the name {request.name!r}; choose another name") from None
    known.forget()
    return json_response({**row, "key": key}, 201)


@router.delete("/keys/{name}", response_model=KeyResponse)
def revoke_api_key(name: Name, caller: Operator, state: StateDep, known: KeyCacheDep) -> Response:
    """Revoke an API key. Every process rejects it within two seconds. The last operator key cannot be revoked."""
    with transaction(state.require_store().engine) as connection:
        _revoke(connection, name)
        admin.write_audit(connection, caller.name, "revoke_key", {"name": name})
        row = admin.get_key(connection, name)
    known.forget()
    return json_response(row)


@router.get("/audit", response_model=AuditList)
def list_audit(
    _: Reader,
    state: StateDep,
    count: Annotated[int, Query(ge=1, le=1000, description="Largest number of changes.")] = 50,
) -> Response:
    """List the latest changes by operators and by the server, newest first."""
    with state.require_store().engine.connect() as connection:
        return json_response({"audit": admin.latest_audit(connection, count)})


def _revoke(connection: Connection, name: str) -> None:
    operators = admin.operator_names(
        connection
    )  # before the key is read: two operators could revoke each other's key at once
    key = admin.get_key(connection, name)
    if key is None:
        raise HTTPException(404, f"no key has the name {name!r}")
    if key["revoked_at"] is not None:
        raise HTTPException(409, f"the key {name!r} is already revoked")
    if operators == [name]:
        raise HTTPException(409, f"{name!r} is the last operator key; create another one first")
    admin.revoke_key(connection, name)
