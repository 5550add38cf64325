"""HTTP whose request lines and headers arrive in time and in bounds.

uvicorn waits forever for the end of a head and keeps all of it; a body is bounded by the guard (guard.py), which sees a
request only after its head.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from recpolicy.server.guard import error_answer
from recpolicy.server.limits import LimitsConfig


class BoundedProtocol(HttpToolsProtocol):
    """Refuses a head that is late (408) or too large (431), and what is no HTTP (400), in the one shape of errors.

    The bounds are those that the app's lifespan names `limits`. A connection that says nothing at all is closed.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._limits: LimitsConfig = self.app_state.get("limits", LimitsConfig())
        self._in_head, self._head_bytes = False, 0
        self._head_timer: asyncio.TimerHandle | None = self._timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._forget_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a piece; where all of it belongs to a head that is not there yet, it is counted."""
        before = self._head_bytes if self._in_head else 0
        after_a_body = not self._in_head and self.cycle is not None and not self.cycle.response_complete
        super().data_received(data)
        if not self._in_head or self.transport.is_closing():
            return
        self._head_bytes = before + (0 if after_a_body else len(data))
        if self._head_bytes > self._limits.header_bytes:
            self._refuse(431, "too_large", f"request line and headers have more than {self._limits.header_bytes} bytes")
        elif self._head_timer is None:
            self._head_timer = self._timer()

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """It is there."""
        self._in_head = False
        self._forget_timer()
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed."""
        self._refuse(400, "invalid_request", msg)

    def _timer(self) -> asyncio.TimerHandle:
        return self.loop.call_later(self._limits.seconds, self._late)

    def _forget_timer(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _late(self) -> None:
        self._head_timer = None
        if self._in_head:
            self._refuse(408, "timeout", "the request did not arrive in time")
        else:
            self.transport.close()

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer and close, unless the connection is closing or an answer is under way."""
        if not self.transport.is_closing():
            if self.cycle is None or self.cycle.response_complete:
                body = bytes(error_answer(status, code, message).body)
                head = f"content-type: application/json\r\ncontent-length: {len(body)}\r\nconnection: close\r\n\r\n"
                self.transport.write(STATUS_LINE[status] + head.encode() + body)
            self.transport.close()
