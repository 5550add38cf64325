"""HTTP with limits on the size and the time of request lines and headers.

uvicorn waits forever for the end of the headers and keeps all of them. A time limit is missing
(https://github.com/encode/uvicorn/issues/157). A limit on the size (https://github.com/encode/uvicorn/pull/1684) was
closed unmerged. A test compares uvicorn.Config with this module, so we notice an upgrade that adds such limits.

The middleware (middleware.py) limits the body, but it sees a request only after its headers. Behind a proxy with limits
on headers, this protocol is optional.
"""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from recpolicy.server.middleware import error_response
from recpolicy.server.settings import LimitsConfig

_JOINED_BYTES = 1 << 16
"""Longest body that is copied to join it with its head."""


class JoinedWrites:
    """A transport that sends the head of a response together with its body.

    uvicorn writes the two separately, and each write is a call to the operating system, the most expensive step of a
    small response. The first bytes wait for the next ones, at most until the event loop has called what was ready.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop):
        self._transport, self._loop = transport, loop
        self._first = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send bytes, with those that wait."""
        if not self._first:
            self._first = data
            self._loop.call_soon(self._flush)
        elif len(data) <= _JOINED_BYTES:
            first, self._first = self._first, b""
            self._transport.write(first + data)
        else:
            self._flush()
            self._transport.write(data)

    def close(self) -> None:
        """Send what waits, then close."""
        self._flush()
        self._transport.close()

    def is_closing(self) -> bool:
        """Return True if the transport is closed or closes."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._first:
            first, self._first = self._first, b""
            self._transport.write(first)


class BoundedProtocol(HttpToolsProtocol):
    """An HTTP protocol that rejects late headers (408), large headers (431) and invalid HTTP (400) in the shape of all
    errors.

    The app's lifespan sets the limits as `limits`. A connection that sends nothing is closed without an answer.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first headers."""
        super().connection_made(transport)
        self.transport = JoinedWrites(transport, self.loop)  # type: ignore[assignment]
        self._limits: LimitsConfig = self.app_state.get("limits", LimitsConfig())
        self._in_head, self._bare, self._bare_bytes = False, True, 0
        self._timer: asyncio.TimerHandle | None = None
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._forget_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a piece; counts bytes outside of bodies (headers, trailers, empty lines).

        If no answer is in progress, the headers must end in time: uvicorn stops its own timer at the first byte.
        """
        self._bare = True
        super().data_received(data)
        if self.transport.is_closing():
            return
        self._bare_bytes = self._bare_bytes + len(data) if self._bare else 0
        if self._bare_bytes > self._limits.header_bytes:
            self._refuse(431, "too_large", f"request line and headers have more than {self._limits.header_bytes} bytes")
        elif self._idle and self._timer is None and self.timeout_keep_alive_task is None:
            self._start_timer()

    def on_message_begin(self) -> None:
        """Start the time limit of new headers."""
        self._in_head = True
        self._forget_timer()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers after a body are ignored."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Note the end of the headers."""
        self._in_head = self._bare = False
        self._forget_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Note a part of a body."""
        self._bare = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the end of a request."""
        self._bare = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse invalid HTTP."""
        self._refuse(400, "invalid_request", msg)

    @property
    def _idle(self) -> bool:
        """True if no answer is in progress."""
        return self.cycle is None or self.cycle.response_complete

    def _start_timer(self) -> None:
        self._timer = self.loop.call_later(self._limits.seconds, self._late)

    def _forget_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _late(self) -> None:
        self._timer = None
        if self._in_head:
            self._refuse(408, "timeout", "the request did not arrive in time")
        else:
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer and close, unless the connection is closing or an answer is in progress."""
        if not self.transport.is_closing():
            if self._idle:
                body = bytes(error_response(status, code, message).body)
                head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
                self.transport.write(STATUS_LINE[status] + head.encode() + body)
            self.transport.close()
