"""HTTP with limits on request lines, headers and connections, and with the checks that HTTP/1.1 asks of a server.

uvicorn waits forever for the end of the headers and keeps all of them. A time limit is missing
(https://github.com/encode/uvicorn/issues/157). A limit on the size (https://github.com/encode/uvicorn/pull/1684) was
closed unmerged. A test compares uvicorn.Config with this module, so we notice an upgrade that adds such limits. uvicorn
also takes requests without a Host header, or with two (RFC 9112, section 3.2), and any list of transfer codings that
ends with chunked (section 6.1).

The middleware (middleware.py) limits the body, but it sees a request only after its headers. Behind a proxy with limits
on headers, this protocol is optional.
"""

import asyncio
from collections import Counter
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from recpolicy.server.json_output import error_response
from recpolicy.server.processes import MAX_OPEN_FILES
from recpolicy.server.rate_limit import ClientAddresses, client_network
from recpolicy.server.settings import LimitsConfig

_JOINED_BYTES = 1 << 16
"""Longest body that is copied to join it with its head."""
_REFUSAL_HEAD = (
    b"content-type: application/json\r\ncontent-length: %d\r\nx-content-type-options: nosniff\r\n"
    b"cache-control: no-store\r\nconnection: close\r\n\r\n"
)


class JoinedWrites:
    """A transport that sends the head of a response together with its body.

    uvicorn writes the two separately, and each write is a call to the operating system, the most expensive step of a
    small response. The first bytes wait for the next ones, at most until the event loop has called what was ready.

    A closed connection would keep bytes for a client that does not read them, without end. They are dropped after
    `seconds`.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, seconds: float = 10.0):
        self._transport, self._loop, self._seconds = transport, loop, seconds
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
        if not self._transport.is_closing() and self._transport.get_write_buffer_size():
            self._loop.call_later(self._seconds, self._transport.abort)
        self._transport.close()

    def is_closing(self) -> bool:
        """Return True if the transport is closed or closes."""
        return self._transport.is_closing()

    def _flush(self) -> None:
        if self._first:
            first, self._first = self._first, b""
            self._transport.write(first)


class Connections:
    """The open connections of the clients of a process, with the most of one client and of all."""

    def __init__(self, limits: LimitsConfig, most_of_all: int = MAX_OPEN_FILES):
        self._most, self._of_client = limits.connections_per_client, Counter[str]()
        self.most_of_all = most_of_all
        """Connections for which the process has open files."""
        self._addresses = ClientAddresses(limits.trusted_proxies)

    def add(self, address: str) -> str | None:
        """Count a connection; return its client for `remove`, or None for a proxy, which has no limit.

        Raises ConnectionRefusedError if the client has too many.
        """
        if not self._most or self._addresses.trusts(address):
            return None
        client = client_network(address)
        if self._of_client[client] >= self._most:
            raise ConnectionRefusedError
        self._of_client[client] += 1
        return client

    def remove(self, client: str) -> None:
        """Count a closed connection."""
        self._of_client[client] -= 1
        if not self._of_client[client]:
            del self._of_client[client]


class BoundedProtocol(HttpToolsProtocol):
    """An HTTP protocol that rejects late headers (408), large headers (431) and invalid HTTP (400, 501) in the shape of
    all errors.

    The app's lifespan sets the limits as `limits`, and counts connections in `connections`. A connection that sends
    nothing is closed without an answer.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start to wait for the first headers; close a connection for which there may be no open files."""
        super().connection_made(transport)
        self._limits: LimitsConfig = self.app_state.get("limits") or LimitsConfig()
        self.transport = JoinedWrites(transport, self.loop, self._limits.seconds)  # type: ignore[assignment]
        self._in_head, self._in_body, self._bare, self._bare_bytes = False, False, True, 0
        self._hosts, self._codings = 0, b""
        self._fault: tuple[int, str] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._connections: Connections | None = self.app_state.get("connections")
        self._counted: str | None = None
        if self._connections is not None and len(self.connections) > self._connections.most_of_all:
            transport.abort()
            return
        try:
            if self._connections is not None and self.client is not None:
                self._counted = self._connections.add(self.client[0])
        except ConnectionRefusedError:
            most = self._limits.connections_per_client
            self._refuse(429, "overloaded", f"more than {most} connections from this address; use fewer")
        else:
            self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._forget_timer()
        if self._connections is not None and self._counted is not None:
            self._connections.remove(self._counted)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse a piece; counts bytes outside of bodies (headers, trailers, empty lines).

        If no answer is in progress, the headers must end in time: uvicorn stops its own timer at the first byte.
        """
        if self.transport.is_closing():
            return
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
        self._in_head, self._hosts, self._codings = True, 0, b""
        self._forget_timer()
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; trailers after a body are ignored."""
        if self._in_head:
            if len(name) == 4 and name.lower() == b"host":
                self._hosts += 1
            elif len(name) == 17 and name.lower() == b"transfer-encoding":
                self._codings += b"," + value
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Check the headers; an exception here ends the connection (`send_400_response`)."""
        self._in_head = self._bare = False
        self._forget_timer()
        self._fault = self._head_fault()
        if self._fault is not None:
            raise ValueError(self._fault[1])
        super().on_headers_complete()
        self._in_body = True

    def on_body(self, body: bytes) -> None:
        """Note a part of a body."""
        self._bare = False
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Note the end of a request."""
        self._bare = self._in_body = False
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse invalid HTTP."""
        status, message = self._fault or (400, msg)
        self._refuse(status, "not_implemented" if status == 501 else "invalid_request", message)

    def _head_fault(self) -> tuple[int, str] | None:
        """Return status and message for headers that HTTP/1.1 forbids; None for valid ones."""
        if self._hosts > 1:
            return 400, "the request has more than one Host header"
        if not self._hosts and self.parser.get_http_version() == "1.1":
            return 400, "the request has no Host header"
        if self._codings:
            codings = [coding.strip().lower() for coding in self._codings.split(b",") if coding.strip()]
            if codings[-1:] != [b"chunked"]:
                return 400, "the last transfer coding of a request must be chunked"
            if len(codings) > 1:
                return 501, "the only transfer coding that this server knows is chunked"
        return None

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
        """Answer and close, unless the connection is closing or other requests wait for their answers.

        A request whose body turns out to be invalid has an answer in progress: it is given up if it has not begun.
        """
        if self.transport.is_closing():
            return
        if self._idle or (self._in_body and not self.cycle.response_started and not self.pipeline):
            body = bytes(error_response(status, code, message).body)
            self.transport.write(STATUS_LINE[status] + _REFUSAL_HEAD % len(body) + body)
            if not self._idle:
                self.cycle.disconnected = True
                self.cycle.message_event.set()
        self.transport.close()
