"""Routes for API keys; they need an operator's key."""

from typing import Annotated

from fastapi import APIRouter, Path, Response
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from starlette.exceptions import HTTPException

from recpolicy.server.auth.initial_key import GIVEN
from recpolicy.server.auth.keys import key_digest, new_key
from recpolicy.server.auth.roles import KeyCacheDep, Operator
from recpolicy.server.db import audit, keys
from recpolicy.server.db.engine import transaction
from recpolicy.server.deps import StateDep
from recpolicy.server.json_response import json_response
from recpolicy.server.schemas.admin import ADMIN_ERROR_RESPONSES, KEY_NAME, KeyList, KeyRequest, KeyResponse, NewKey

router = APIRouter(prefix="/v1/admin", tags=["admin"], responses=ADMIN_ERROR_RESPONSES)
_RESERVED = (audit.SERVER, GIVEN)
Name = Annotated[str, Path(pattern=KEY_NAME)]


@router.get("/keys", response_model=KeyList)
def listed(_: Operator, state: StateDep) -> Response:
    """List all keys, also revoked ones."""
    with state.require_store().engine.connect() as connection:
        return json_response({"keys": keys.listed(connection)})


@router.post("/keys", response_model=NewKey, status_code=201)
def create(request: KeyRequest, caller: Operator, state: StateDep, known: KeyCacheDep) -> Response:
    """Make a key. The answer is the only place where it is ever shown."""
    if request.name in _RESERVED:
        raise HTTPException(409, f"{request.name!r} is the server's own name for somebody else; choose another one")
    key = new_key()
    try:
        with transaction(state.require_store().engine) as connection:
            row = keys.add(connection, request.name, request.role, key_digest(key))
            audit.write_audit(connection, caller.name, "create_key", {"name": request.name, "role": request.role})
    except IntegrityError:
        raise HTTPException(409, f"there is, or was, a key named {request.name!r}; choose another name") from None
    known.forget()
    return json_response({**row, "key": key}, 201)


@router.delete("/keys/{name}", response_model=KeyResponse)
def revoke(name: Name, caller: Operator, state: StateDep, known: KeyCacheDep) -> Response:
    """Let a key work no more, within two seconds in every process. The last operator key stays."""
    with transaction(state.require_store().engine) as connection:
        _revoke(connection, name)
        audit.write_audit(connection, caller.name, "revoke_key", {"name": name})
        row = keys.named(connection, name)
    known.forget()
    return json_response(row)


def _revoke(connection: Connection, name: str) -> None:
    operators = keys.operators(connection)  # first, so that two operators cannot revoke each other's key at once
    found = keys.named(connection, name)
    if found is None:
        raise HTTPException(404, f"no key named {name!r}")
    if found["revoked_at"] is not None:
        raise HTTPException(409, f"the key {name!r} is revoked already")
    if operators == [name]:
        raise HTTPException(409, f"{name!r} is the last operator key; make another one first")
    keys.revoke(connection, name)
