"""Roles: a handler names the lowest role that may call it as the type of a parameter.

    def runs(caller: Reader, state: StateDep) -> Response: ...

Clients send the key as `Authorization: Bearer KEY` or `X-API-Key: KEY`. Errors: 401 `unauthorized` without a known key,
403 `forbidden` if the role is too low, 503 `database_unavailable` if keys cannot be checked.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.exceptions import HTTPException

from recpolicy.server.auth.keys import Caller, KeyCache, unauthorized
from recpolicy.server.middleware import request_key

__all__ = ["Caller", "Client", "KeyCacheDep", "Operator", "OptionalCaller", "Reader"]

_BEARER = HTTPBearer(auto_error=False, scheme_name="Bearer", description="An API key.")
_HEADER = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="X-API-Key", description="An API key.")


async def get_key_cache(request: Request) -> KeyCache:
    """Return the keys of the app that handles the request."""
    keys: KeyCache = request.app.state.keys
    return keys


async def current_caller(request: Request) -> Caller | None:
    """Return the caller; None without a known key. Raises StoreError if keys cannot be checked."""
    key = request_key(request.scope["headers"])
    keys: KeyCache = request.app.state.keys
    return await keys.caller(key) if key else None


def require_role(role: str) -> Callable[..., Coroutine[Any, Any, Caller]]:
    """Return a dependency that accepts callers of this role or a higher one."""

    async def caller(
        request: Request, _bearer: Annotated[Any, Security(_BEARER)], _header: Annotated[Any, Security(_HEADER)]
    ) -> Caller:
        known = await current_caller(request)
        if known is None:
            status, _, message, headers = unauthorized(request_key(request.scope["headers"]))
            raise HTTPException(status, message, headers)
        if not known.has_role(role):
            raise HTTPException(
                403, f"this request needs the role {role}; the key {known.name!r} has the role {known.role}"
            )
        return known

    return caller


KeyCacheDep = Annotated[KeyCache, Depends(get_key_cache)]
OptionalCaller = Annotated[Caller | None, Depends(current_caller)]
"""The caller, or None; for routes that need no key."""
Client = Annotated[Caller, Depends(require_role("client"))]
"""A caller with any key."""
Reader = Annotated[Caller, Depends(require_role("reader"))]
"""A caller who may read the state of the server."""
Operator = Annotated[Caller, Depends(require_role("operator"))]
"""A caller who may change the routing, jobs and keys."""
