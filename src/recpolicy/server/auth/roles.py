"""Who may ask for what: a handler names the least role that may call it as the type of a parameter.

    def runs(caller: Reader, here: Here) -> Response: ...

The key comes as `Authorization: Bearer KEY` or `X-API-Key: KEY`. Without a known key: 401 `unauthorized`; with one
whose role is too low: 403 `forbidden`; where keys cannot be checked: 503 `database_unavailable`.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.exceptions import HTTPException

from recpolicy.server.auth.keys import Caller, KeyCache, unauthorized
from recpolicy.server.middleware import request_key

__all__ = ["Caller", "KeyCacheDep", "Operator", "OptionalCaller", "Reader"]

_BEARER = HTTPBearer(auto_error=False, scheme_name="Bearer", description="An API key.")
_HEADER = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="X-API-Key", description="An API key.")


async def get_key_cache(request: Request) -> KeyCache:
    """The keys of the app that a request came to."""
    keys: KeyCache = request.app.state.keys
    return keys


async def current_caller(request: Request) -> Caller | None:
    """Who asks; None for nobody whom we know. Raises StoreError where keys cannot be checked."""
    key = request_key(request.scope["headers"])
    keys: KeyCache = request.app.state.keys
    return await keys.caller(key) if key else None


def require_role(role: str) -> Callable[..., Coroutine[Any, Any, Caller]]:
    """A dependency that lets callers of this role or a higher one pass."""

    async def caller(
        request: Request, _bearer: Annotated[Any, Security(_BEARER)], _header: Annotated[Any, Security(_HEADER)]
    ) -> Caller:
        known = await current_caller(request)
        if known is None:
            status, _, said, headers = unauthorized(request_key(request.scope["headers"]))
            raise HTTPException(status, said, headers)
        if not known.has_role(role):
            raise HTTPException(403, f"this needs the role {role}; the key {known.name!r} has the role {known.role}")
        return known

    return caller


KeyCacheDep = Annotated[KeyCache, Depends(get_key_cache)]
OptionalCaller = Annotated[Caller | None, Depends(current_caller)]
"""Who asks, or None: for what anybody may call."""
Reader = Annotated[Caller, Depends(require_role("reader"))]
"""A caller who may see how the server does."""
Operator = Annotated[Caller, Depends(require_role("operator"))]
"""A caller who may change what is served."""
