"""HTTP whose request lines and headers arrive in time and in bounds.

uvicorn waits forever for the end of a head and keeps all of it; a body is bounded by the guard (guard.py), which sees a
request only after its head.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from recpolicy.server.middleware import error_response
from recpolicy.server.settings import LimitsConfig


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a head that is late (408) or too large (431), and what is no HTTP (400), in the one shape of errors.

    The bounds are those that the app's lifespan names `limits`. A connection that says nothing at all is closed.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._limits: LimitsConfig = self.app_state.get("limits", LimitsConfig())
        self._in_head, self._bare, self._bare_bytes = False, True, 0
        self._timer: asyncio.TimerHandle | None = None
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._forget_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a piece; what comes without a body or an end of something (heads, trailers, empty lines) is counted.

        Where no answer is under way, the connection must go on within the time for a head, for uvicorn gives up its
        own timer at the first byte.
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
        """A head begins, and has its time from now on."""
        self._in_head = True
        self._forget_timer()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; nobody reads those that follow a body."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The head is there."""
        self._in_head = self._bare = False
        self._forget_timer()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body is there."""
        self._bare = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is there."""
        self._bare = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed."""
        self._refuse(400, "invalid_request", msg)

    @property
    def _idle(self) -> bool:
        """Whether no answer is under way."""
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
        """Answer and close, unless the connection is closing or an answer is under way."""
        if not self.transport.is_closing():
            if self._idle:
                body = bytes(error_response(status, code, message).body)
                head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
                self.transport.write(STATUS_LINE[status] + head.encode() + body)
            self.transport.close()
