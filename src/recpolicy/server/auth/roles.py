"""Who may ask for what: a handler names the least role that may call it as the type of a parameter.

    def runs(caller: Reader, here: Here) -> Response: ...

The key comes as `Authorization: Bearer KEY` or `X-API-Key: KEY`. Without a known key: 401 `unauthorized`; with one
whose role is too low: 403 `forbidden`; where keys cannot be checked: 503 `store_down`.
"""

from collections.abc import Callable, Coroutine
from typing import Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import APIKeyHeader, HTTPBearer
from starlette.exceptions import HTTPException

from recpolicy.server.auth.keys import Caller, Keys, key_of_headers, unauthorized

__all__ = ["Caller", "Client", "KnownKeys", "Operator", "Reader"]

_BEARER = HTTPBearer(auto_error=False, scheme_name="Bearer", description="An API key.")
_HEADER = APIKeyHeader(name="X-API-Key", auto_error=False, scheme_name="X-API-Key", description="An API key.")


async def known_keys(request: Request) -> Keys:
    """The keys of the app that a request came to."""
    keys: Keys = request.app.state.keys
    return keys


async def known_caller(request: Request) -> Caller | None:
    """Who asks; None for nobody whom we know. Raises StoreError where keys cannot be checked."""
    key = key_of_headers(request.scope["headers"])
    keys: Keys = request.app.state.keys
    return await keys.caller(key) if key else None


def at_least(role: str) -> Callable[..., Coroutine[Any, Any, Caller]]:
    """A dependency that lets callers of this role or a higher one pass."""

    async def caller(
        request: Request, _bearer: Annotated[Any, Security(_BEARER)], _header: Annotated[Any, Security(_HEADER)]
    ) -> Caller:
        known = await known_caller(request)
        if known is None:
            status, _, said, headers = unauthorized(key_of_headers(request.scope["headers"]))
            raise HTTPException(status, said, headers)
        if not known.may(role):
            raise HTTPException(403, f"this needs the role {role}; the key {known.name!r} has the role {known.role}")
        return known

    return caller


KnownKeys = Annotated[Keys, Depends(known_keys)]
Client = Annotated[Caller | None, Depends(known_caller)]
"""Who asks, or None: for what anybody may call."""
Reader = Annotated[Caller, Depends(at_least("reader"))]
"""A caller who may see how the server does."""
Operator = Annotated[Caller, Depends(at_least("operator"))]
"""A caller who may change what is served."""
