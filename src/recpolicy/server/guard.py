"""What stands around every request: a bound on its body, one line in the log, and an answer when all else failed."""

import logging
from collections.abc import Awaitable, Callable, MutableMapping
from time import perf_counter
from typing import Any

from starlette.responses import JSONResponse

from recpolicy.server.json_log import where

logger = logging.getLogger(__name__)

MAX_BODY = 1 << 20
"""Bytes; 100 users with fold-in ratings of some hundred movies each."""
_LONGEST_MESSAGE = 500

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]


def error_answer(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Answer in the one shape of every error; the message may hold a name from the request, of any length and kind."""
    text = message[:_LONGEST_MESSAGE].encode("utf-8", "replace").decode()
    return JSONResponse({"error": {"code": code, "message": text}}, status, headers)


class Guard:
    """ASGI middleware; the log names the route (`/v1/predict`), never the URL, the body or the client."""

    def __init__(self, app: App, observe: Callable[[str, str, int, float], None], max_body: int = MAX_BODY):
        self._app, self._observe, self._max_body = app, observe, max_body

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, status = perf_counter(), 0

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        body = await _read(receive, self._max_body)
        failed: dict[str, str] = {}
        if body is None:
            too_large = error_answer(413, "too_large", f"the body is larger than {self._max_body} bytes; ask for less")
            await too_large(scope, receive, noting)
        else:
            try:
                await self._app(scope, _replay(body, receive), noting)
            except Exception as error:
                failed = where(error)
                if status == 0:
                    broken = error_answer(500, "internal", "the service failed; its log says where")
                    await broken(scope, receive, noting)
        route = getattr(scope.get("route"), "path", "other")
        seconds = perf_counter() - begun
        self._observe(scope["method"], route, status, seconds)
        fields = {"method": scope["method"], "route": route, "status": status, "ms": round(1e3 * seconds, 1), **failed}
        logger.log(logging.ERROR if failed else logging.INFO, "request", extra={"fields": fields})


async def _read(receive: Receive, limit: int) -> bytes | None:
    """The body, or None as soon as it is larger than `limit`."""
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return b""
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            return None
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Give the body that was read once; what the client does afterwards comes from the client."""
    given = False

    async def again() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
