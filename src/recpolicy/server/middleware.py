"""ASGI middleware: authentication, rate limits, timeouts, access log, and a last-resort 500.

It can reject a request before it reads the body. It never rejects /healthz, /readyz and /metrics. HEAD is answered as
GET; the HTTP protocol leaves out the body.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter

from starlette.responses import JSONResponse, Response

from recpolicy.core.errors import StoreError
from recpolicy.server.active_request import SCOPE_KEY, ActiveRequest, ClientGoneError, Deadline, Message, Receive, Send
from recpolicy.server.allowed_hosts import AllowedHosts
from recpolicy.server.answer_limits import PIECE_BYTES, AnswerLimits, RejectedError, overloaded, rate_limited
from recpolicy.server.auth.keys import KeyCache, unauthorized
from recpolicy.server.json_output import LoggedRequest, error_response, exception_location
from recpolicy.server.rate_limit import ClientAddresses, TokenBuckets, client_network
from recpolicy.server.settings import LimitsConfig

logger = logging.getLogger(__name__)

ADMIN = "/v1/admin"
CLIENT_GONE = 499
"""Status in log and metrics of a request whose client closed the connection before it got an answer."""
_FREE = ("/healthz", "/readyz", "/metrics")
_MIN_RESERVE = 4

App = Callable[[Message, Receive, Send], Awaitable[None]]
FastPath = Callable[[ActiveRequest, bytes], Awaitable[Response]]
"""Answers a frequent request (with its body) without the cost of the app's layers."""


class RequestMiddleware:
    """ASGI middleware; its log has the route (`/v1/predict`), but never the URL, the body, the key or the client."""

    def __init__(
        self, app: App, observe: Callable[[str, str, int, float], None], keys: KeyCache,
        limits: LimitsConfig | None = None, fast_paths: Mapping[tuple[str, str], FastPath] | None = None,
        allowed_hosts: Sequence[str] = (),
    ):  # fmt: skip
        self._app, self._observe, self._keys = app, observe, keys
        self._fast_paths = fast_paths or {}
        self._limits = limits or LimitsConfig()
        self._buckets = TokenBuckets(self._limits.rate, self._limits.burst)
        self._answers = AnswerLimits(self._limits, self._buckets)
        self._addresses = ClientAddresses(self._limits.trusted_proxies)
        self._hosts = AllowedHosts(allowed_hosts)
        self._free = {*_FREE, os.environ.get("AIP_HEALTH_ROUTE", "/healthz")}
        self._predict = os.environ.get("AIP_PREDICT_ROUTE", "/v1/")
        self._receiving: dict[str, int] = {}
        self._receiving_total = self._in_flight = 0
        self._log = RequestLog()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, method = perf_counter(), scope["method"]
        if method == "HEAD":
            scope = {**scope, "method": "GET"}
        request = ActiveRequest(scope, receive, send, self._limits.seconds, self._answers)
        await self._answer(request)
        seconds = perf_counter() - begun
        route = getattr(scope.get("route"), "path", "other")
        self._observe(method, route, request.status, seconds)
        logged = LoggedRequest(time.time(), method, route, request.status, round(1e3 * seconds, 1))
        if request.failed:
            logger.error("request", extra={"fields": {**logged.fields(), **request.failed}})
        else:
            self._log.add(logged)

    async def _answer(self, request: ActiveRequest) -> None:
        """Answer within the time limit."""
        deadline = request.deadline = Deadline(request.seconds)
        try:
            response = await self._refusal(request) or await self._take(request)
            deadline.end()
        except asyncio.CancelledError:
            if not deadline.end():
                raise
            if request.received:
                request.failed = {"exception": "timeout"}
                response = error_response(
                    503, "timeout", "the request takes too long; send a smaller one", {"retry-after": "5"}
                )
            else:
                response = error_response(408, "timeout", "the request did not arrive in time", {"connection": "close"})
        except RejectedError as error:
            deadline.end()
            response = error.response
        except ClientGoneError:
            deadline.end()
            request.status = request.status or CLIENT_GONE
            return
        except Exception as error:
            deadline.end()
            request.failed, response = exception_location(error), internal_error()
        request.deadline = None
        if response is not None and request.status == 0:
            await response(request.scope, request.receive, request.send)

    async def _refusal(self, request: ActiveRequest) -> JSONResponse | None:
        """Return the refusal for this caller, or None."""
        scope = request.scope
        if scope["path"] in self._free:
            return None
        headers, client = scope["headers"], scope.get("client")
        if not self._hosts.allow(headers):
            message = "this server does not answer to that Host header; the setting [limits] allowed_hosts lists names"
            return error_response(400, "invalid_request", message)
        address = "nobody" if client is None else client[0]
        if self._limits.trusted_proxies:
            address = self._addresses.client(address, headers)
        request.address = request.client = client_network(address)
        key, down, recent = request_key(headers), None, None
        if key:
            recent = self._keys.recent(key)
            request.client = f"key {recent.name}" if recent else request.address
        wait = self._buckets.take(request.client)  # before the database is asked for a key that nobody knows
        if wait:
            return rate_limited(self._limits, wait)
        if key:
            try:
                request.caller = await self._keys.caller(key)
            except StoreError as error:
                down = error_response(503, "database_unavailable", str(error), {"retry-after": "5"})
            if request.caller is not None and recent is None:  # the first request with this key pays for itself
                self._buckets.give_back(request.address)
                request.client = f"key {request.caller.name}"
                wait = self._buckets.take(request.client)
                if wait:
                    return rate_limited(self._limits, wait)
        if request.caller is None and self._needs_key(scope["path"]):
            return down or error_response(*unauthorized(key))
        return None

    def _needs_key(self, path: str) -> bool:
        if path.startswith(ADMIN):
            return True
        return self._limits.require_key and path.startswith(("/v1/", "/personalizer/", self._predict))

    async def _take(self, request: ActiveRequest) -> Response | None:
        """Read the body and let the app answer; return a refusal, or a response that is still to be sent."""
        if request.streams:
            request.received = True
            await self._route(request, request.receive)
            return None
        body = await self._body(request)
        if body is None:
            message = f"the body has more than {self._limits.body_bytes} bytes; send a smaller one"
            return error_response(413, "too_large", message, {"connection": "close"})
        request.received, path = True, request.scope["path"]
        if not _has_room(self._in_flight, self._limits.in_flight, request) and path not in self._free:
            return overloaded()
        self._in_flight += 1
        try:
            fast_path = self._fast_paths.get((request.scope["method"], path))
            if fast_path is None:
                await self._route(request, _replay(body, request.receive))
                return None
            request.scope["route"] = _Route(path)
            response = await fast_path(request, body)
        finally:
            self._in_flight -= 1
        if len(response.body) > PIECE_BYTES:  # within the time limit
            if not self._answers.has_room(request.client, len(response.body)):
                return overloaded("too many large answers wait for their clients; try again")
            await response(request.scope, request.receive, request.send)
            return None
        return response

    async def _route(self, request: ActiveRequest, receive: Receive) -> None:
        """Let the app answer; its handlers find the request in the scope."""
        request.scope[SCOPE_KEY] = request
        try:
            await self._app(request.scope, receive, request.send)
        finally:
            del request.scope[SCOPE_KEY]  # a cycle would keep both until the next garbage collection

    async def _body(self, request: ActiveRequest) -> bytes | None:
        """Return the body; None if it is too large. Raises RejectedError if too many bodies are arriving."""
        limits, client = self._limits, request.client
        of_client = self._receiving.get(client, 0)
        if not _has_room(self._receiving_total, limits.receiving, request) or (
            of_client >= limits.receiving_per_client and request.scope["path"] not in self._free
        ):
            raise RejectedError(overloaded())
        self._receiving_total += 1
        self._receiving[client] = of_client + 1
        try:
            return await _read(request.receive, limits.body_bytes)
        finally:
            self._receiving_total -= 1
            left = self._receiving.pop(client) - 1
            if left:
                self._receiving[client] = left


class RequestLog:
    """The access log: requests that end in the same turn of the event loop share a record, each with its line.

    A record of its own for each request would cost more than the recommendation.
    """

    def __init__(self) -> None:
        self._waiting: list[LoggedRequest] = []

    def add(self, request: LoggedRequest) -> None:
        """Log a request at the end of this turn."""
        if not self._waiting:
            asyncio.get_running_loop().call_soon(self._write)
        self._waiting.append(request)

    def _write(self) -> None:
        waiting, self._waiting = self._waiting, []
        logger.info("request", extra={"requests": waiting})


@dataclass(frozen=True)
class _Route:
    """A route name for the log, for a request that was answered here."""

    path: str


def _has_room(used: int, limit: int, request: ActiveRequest) -> bool:
    """Return True if there is room for one more; callers with a key have a reserve, and the admin routes twice that."""
    if used < limit:
        return True
    if request.caller is None:
        return False
    reserve = max(_MIN_RESERVE, limit // 4)
    return used < limit + (2 * reserve if request.scope["path"].startswith(ADMIN) else reserve)


def internal_error() -> JSONResponse:
    """Return the response to a failure of the service."""
    return error_response(500, "internal", "the server failed; its log has the reason")


async def _read(receive: Receive, limit: int) -> bytes | None:
    """Return the body, or None as soon as it is larger than `limit`; raises ClientGoneError if it does not end."""
    pieces, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGoneError
        piece = message.get("body", b"")
        size += len(piece)
        if size > limit:
            return None
        pieces.append(piece)
        if not message.get("more_body", False):
            return b"".join(pieces)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a receive function that yields the body again; later messages come from the client."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def request_key(headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    """Return the key of a request (ASGI headers: names in lower case); with two keys, the bearer's."""
    key = None
    for name, value in headers:
        if name == b"authorization" and value[:7].lower() == b"bearer ":
            return value[7:].strip().decode("latin-1")
        if name in (b"x-api-key", b"ocp-apim-subscription-key"):
            key = value.strip().decode("latin-1")
    return key
