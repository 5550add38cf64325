"""ASGI middleware: authentication, rate limits, timeouts, access log, and a last-resort 500.

It can reject a request before it reads the body. It never rejects /healthz, /readyz and /metrics.
"""

import asyncio
import logging
import math
import os
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_network
from time import perf_counter
from typing import Any

from starlette.responses import JSONResponse, Response

from recpolicy.core.errors import StoreError
from recpolicy.server.auth.keys import Caller, KeyCache, unauthorized
from recpolicy.server.json_output import LoggedRequest, exception_location
from recpolicy.server.settings import LimitsConfig

logger = logging.getLogger(__name__)

ADMIN, IMPORT = "/v1/admin", "/v1/admin/versions/import"
IMPORT_SECONDS = 600.0
_FREE = ("/healthz", "/readyz", "/metrics")
_LONGEST_MESSAGE = 500

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
FastPath = Callable[[Message, bytes], Awaitable[Response]]
"""Answers a frequent request (scope and body) without the cost of the app's layers."""


def error_response(status: int, code: str, message: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """Return an error in the shape of all errors; the message may contain any text from the request."""
    text = message[:_LONGEST_MESSAGE].encode("utf-8", "replace").decode()
    return JSONResponse({"error": {"code": code, "message": text}}, status, headers)


class RequestMiddleware:
    """ASGI middleware; its log has the route (`/v1/predict`), but never the URL, the body, the key or the client."""

    def __init__(
        self, app: App, observe: Callable[[str, str, int, float], None], keys: KeyCache,
        limits: LimitsConfig | None = None, fast_paths: Mapping[tuple[str, str], FastPath] | None = None,
    ):  # fmt: skip
        self._app, self._observe, self._keys = app, observe, keys
        self._fast_paths = fast_paths or {}
        self._limits = limits or LimitsConfig()
        self._buckets = TokenBuckets(self._limits.rate, self._limits.burst)
        self._free = {*_FREE, os.environ.get("AIP_HEALTH_ROUTE", "/healthz")}
        self._predict = os.environ.get("AIP_PREDICT_ROUTE", "/v1/")
        self._receiving = self._in_flight = 0
        self._log = RequestLog()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begun, request = perf_counter(), _Request(scope, receive, send, self._limits.seconds)
        await self._answer(request)
        seconds = perf_counter() - begun
        route = getattr(scope.get("route"), "path", "other")
        self._observe(scope["method"], route, request.status, seconds)
        logged = LoggedRequest(time.time(), scope["method"], route, request.status, round(1e3 * seconds, 1))
        if request.failed:
            logger.error("request", extra={"fields": {**logged.fields(), **request.failed}})
        else:
            self._log.add(logged)

    async def _answer(self, request: "_Request") -> None:
        """Answer within the time limit."""
        deadline = request.deadline = Deadline(request.seconds)
        try:
            refusal = await self._refusal(request) or await self._take(request)
            deadline.end()
        except asyncio.CancelledError:
            if not deadline.end():
                raise
            if request.received:
                request.failed = {"exception": "timeout"}
                refusal = error_response(
                    503, "timeout", "the request takes too long; send a smaller one", {"retry-after": "5"}
                )
            else:
                refusal = error_response(408, "timeout", "the request did not arrive in time", {"connection": "close"})
        except Exception as error:
            deadline.end()
            request.failed, refusal = exception_location(error), internal_error()
        request.deadline = None
        if refusal is not None and request.status == 0:
            await refusal(request.scope, request.receive, request.send)

    async def _refusal(self, request: "_Request") -> JSONResponse | None:
        """Return the refusal for this caller, or None."""
        scope = request.scope
        if scope["path"] in self._free:
            return None
        key, caller, down = request_key(scope["headers"]), None, None
        if key:
            try:
                caller = await self._keys.caller(key)
            except StoreError as error:
                down = error_response(503, "database_unavailable", str(error), {"retry-after": "5"})
        wait = self._buckets.take(_name(caller, scope))
        if wait:
            headers = {"retry-after": str(math.ceil(wait))}
            return error_response(429, "rate_limited", f"more than {self._limits.rate:g} requests per second", headers)
        if caller is None and self._needs_key(scope["path"]):
            return down or error_response(*unauthorized(key))
        return None

    def _needs_key(self, path: str) -> bool:
        if path.startswith(ADMIN):
            return True
        return self._limits.require_key and path.startswith(("/v1/", self._predict))

    async def _take(self, request: "_Request") -> Response | None:
        """Read the body and let the app answer; return a refusal, or a response that is still to be sent."""
        if request.streams:
            request.received = True
            await self._app(request.scope, request.receive, request.send)
            return None
        if self._receiving >= self._limits.receiving:
            return _busy()
        self._receiving += 1
        try:
            body = await _read(request.receive, self._limits.body_bytes)
        finally:
            self._receiving -= 1
        if body is None:
            message = f"the body has more than {self._limits.body_bytes} bytes; send a smaller one"
            return error_response(413, "too_large", message, {"connection": "close"})
        request.received = True
        if self._in_flight >= self._limits.in_flight and request.scope["path"] not in self._free:
            return _busy()
        self._in_flight += 1
        try:
            fast_path = self._fast_paths.get((request.scope["method"], request.scope["path"]))
            if fast_path is not None:
                request.scope["route"] = _Route(request.scope["path"])
                return await fast_path(request.scope, body)
            await self._app(request.scope, _replay(body, request.receive), request.send)
        finally:
            self._in_flight -= 1
        return None


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


class Deadline:
    """A time limit that cancels the current task, as `asyncio.timeout` does; that one takes five times as long."""

    __slots__ = ("_before", "_expired", "_loop", "_task", "_timer")

    def __init__(self, seconds: float):
        task = asyncio.current_task()
        assert task is not None, "requests are answered in tasks"
        self._loop, self._task, self._before = asyncio.get_running_loop(), task, task.cancelling()
        self._expired = False
        self._timer = self._loop.call_later(seconds, self._expire)

    def move(self, seconds: float | None) -> None:
        """Set the time that is left from now on, unless it is over; None: there is no limit any more."""
        if not self._expired:
            self._timer.cancel()
            if seconds is not None:
                self._timer = self._loop.call_later(seconds, self._expire)

    def end(self) -> bool:
        """End the limit; return True if it has cancelled the task, and nobody else has."""
        self._timer.cancel()
        return self._expired and self._task.uncancel() <= self._before

    def _expire(self) -> None:
        self._expired = True
        self._task.cancel()


@dataclass(frozen=True)
class _Route:
    """A route name for the log, for a request that was answered here."""

    path: str


class _Request:
    """A request and its progress."""

    __slots__ = ("_send", "deadline", "failed", "receive", "received", "scope", "seconds", "status", "streams")

    def __init__(self, scope: Message, receive: Receive, send: Send, seconds: float):
        self.scope, self.receive, self._send = scope, receive, send
        self.status, self.received = 0, False
        self.failed: dict[str, str] = {}
        self.deadline: Deadline | None = None
        self.streams = scope["path"] == IMPORT and scope["method"] == "POST"  # the handler reads and limits the body
        self.seconds = IMPORT_SECONDS if self.streams else seconds

    async def send(self, message: Message) -> None:
        """Send, and store the status. The first byte starts a separate time limit for the client; a stream has none."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            if self.deadline is not None:
                self.deadline.move(None if _is_stream(message) else 2 * self.seconds)
        await self._send(message)


def _is_stream(message: Message) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in message["headers"])


def _name(caller: Caller | None, scope: Message) -> str:
    """Return the name of the bucket of a request. Unknown keys are limited by client address."""
    if caller is not None:
        return f"key {caller.name}"
    return client_network(scope["client"][0]) if scope.get("client") else "nobody"


def _busy() -> JSONResponse:
    return error_response(
        429, "overloaded", "the server handles too many requests at the moment; try again", {"retry-after": "1"}
    )


def internal_error() -> JSONResponse:
    """Return the response to a failure of the service."""
    return error_response(500, "internal", "the server failed; its log has the reason")


async def _read(receive: Receive, limit: int) -> bytes | None:
    """Return the body, or None as soon as it is larger than `limit`."""
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
        if name == b"x-api-key":
            key = value.strip().decode("latin-1")
    return key


class TokenBuckets:
    """Token buckets, one per caller, full at first; a request takes one token.

    There are at most `most` buckets: the least recently used one is dropped. By then it would most likely be full
    again.
    """

    def __init__(
        self, rate: float, burst: int, clock: Callable[[], float] = time.monotonic, most: int = 10_000
    ) -> None:
        self._rate, self._burst, self._clock, self._most = rate, float(burst), clock, most
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()  # tokens, and the time of that count

    def take(self, name: str) -> float:
        """Take a token of the bucket `name`; return 0, or the seconds until it has one."""
        if not self._rate:
            return 0.0
        now = self._clock()
        tokens, since = self._held.pop(name, (self._burst, now))
        tokens = min(self._burst, tokens + (now - since) * self._rate)
        taken = tokens >= 1
        self._held[name] = (tokens - taken, now)
        if len(self._held) > self._most:
            self._held.popitem(last=False)
        return 0.0 if taken else (1 - tokens) / self._rate

    def __len__(self) -> int:
        return len(self._held)


@lru_cache(4096)
def client_network(address: str) -> str:
    """Return the network that counts as one client: an IPv4 address, or the /64 of an IPv6 address."""
    try:
        bits = 128 if IPv6Address(address).ipv4_mapped else 64
    except ValueError:
        return address
    return str(ip_network(f"{address.partition('%')[0]}/{bits}", strict=False))
