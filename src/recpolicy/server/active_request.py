"""A request in progress: its time limit, the room that its answer takes, and the pieces in which it is sent."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Annotated, Any, TypeVar

from fastapi import Depends, Request

from recpolicy.server.answer_limits import LARGE_ROWS, PIECE_BYTES, AnswerLimits, Work, run_in_thread
from recpolicy.server.auth.keys import Caller
from recpolicy.server.json_output import NO_SNIFF, SAFE_HEADERS
from recpolicy.server.rate_limit import MIN_ROWS

IMPORT = "/v1/admin/versions/import"
STREAMED = {("POST", IMPORT), ("PUT", "/personalizer/model"), ("PUT", "/personalizer/v1.0/model")}
"""Requests whose bodies the handlers read themselves: archives of versions."""
CHANGE_ITEMS = "/v1/admin/items"
SLOW = {*STREAMED, ("POST", CHANGE_ITEMS)}
"""Requests that write a version."""
IMPORT_SECONDS = 600.0
SCOPE_KEY = "recpolicy.request"
"""Key of the ASGI scope under which handlers find the request."""

T = TypeVar("T")
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class ClientGoneError(Exception):
    """The client closed the connection before the request was complete or answered."""


class ActiveRequest:
    """A request and its progress; handlers of large answers ask it for room."""

    __slots__ = (
        "_limits", "_send", "address", "caller", "client", "deadline", "failed", "receive", "received", "scope",
        "seconds", "status", "streams",
    )  # fmt: skip

    def __init__(self, scope: Message, receive: Receive, send: Send, seconds: float, limits: AnswerLimits):
        self.scope, self.receive, self._send, self._limits = scope, receive, send, limits
        self.status, self.received = 0, False
        self.failed: dict[str, str] = {}
        self.deadline: Deadline | None = None
        self.caller: Caller | None = None
        self.address = self.client = "nobody"  # `client` is the key's name or, without a key, the address
        self.streams = (scope["method"], scope["path"]) in STREAMED  # the handler reads and limits the body
        self.seconds = IMPORT_SECONDS if (scope["method"], scope["path"]) in SLOW else seconds

    def admit(self, parts: Sequence[int]) -> int:
        """Check the size of the answer, and take the tokens that the request costs beyond the first one.

        Args:
            parts: Rows of each part of the answer: of a list, a user, a piece of feedback (0). Each part costs as much
                as MIN_ROWS rows at least.

        Returns:
            The rows of the whole answer.

        Raises:
            DataError: The answer would be too large.
            RejectedError: The caller has too few tokens.
        """
        rows = sum(parts)
        self._limits.check(rows)
        self._limits.charge(self.client, sum([max(part, MIN_ROWS) for part in parts]))
        return rows

    async def compute(self, rows: int, work: Work[T]) -> T:
        """Return the result of a computation in a thread, which stops when the request is over.

        Raises RejectedError if too many large answers wait, ClientGoneError if the client closes the connection.
        """
        if rows <= LARGE_ROWS:
            return await run_in_thread(work)
        async with self._limits.turn(self.client):
            return await self._while_connected(run_in_thread(work))

    async def send(self, message: Message) -> None:
        """Send, and store the status. The first byte starts a separate time limit for the client; a stream has none."""
        if message["type"] == "http.response.start":
            self.status, headers = message["status"], message["headers"]
            if self.deadline is not None:
                self.deadline.move(None if _is_stream(message) else 2 * self.seconds)
            if NO_SNIFF not in headers:
                message["headers"] = [*headers, *SAFE_HEADERS]
        elif len(message.get("body", b"")) > PIECE_BYTES:
            await self._send_in_pieces(message)
            return
        await self._send(message)

    async def _send_in_pieces(self, message: Message) -> None:
        """Send a large body; before each piece, the protocol waits until the client has read most of the one before."""
        body, more = message["body"], message.get("more_body", False)
        with self._limits.unsent(self.client, len(body)):
            for start in range(0, len(body), PIECE_BYTES):
                end = start + PIECE_BYTES
                piece = {"type": "http.response.body", "body": body[start:end], "more_body": more or end < len(body)}
                await self._send(piece)

    async def _while_connected(self, work: Awaitable[T]) -> T:
        """Return the result; raises ClientGoneError, and cancels the work, if the client closes the connection."""
        task, gone = asyncio.ensure_future(work), asyncio.ensure_future(self._disconnect())
        try:
            await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise ClientGoneError
            return task.result()
        finally:
            task.cancel()
            gone.cancel()

    async def _disconnect(self) -> None:
        """Wait until the client closes the connection; its body was read before."""
        while (await self.receive())["type"] != "http.disconnect":
            pass


async def get_active_request(request: Request) -> ActiveRequest:
    """Return the request as the middleware knows it."""
    active: ActiveRequest = request.scope[SCOPE_KEY]
    return active


ActiveDep = Annotated[ActiveRequest, Depends(get_active_request)]


def _is_stream(message: Message) -> bool:
    return any(name == b"content-type" and value.startswith(b"text/event-stream") for name, value in message["headers"])


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
