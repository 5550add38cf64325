"""Heads that are late, endless or no HTTP, against a real socket."""

import asyncio
import inspect
import json
import socket
import threading
import time
from contextlib import asynccontextmanager, contextmanager

import pytest
import uvicorn
from client_helpers import served
from fastapi import FastAPI, Request
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from recpolicy.server.protocol import BoundedProtocol, Connections, JoinedWrites
from recpolicy.server.schemas.responses import ErrorResponse
from recpolicy.server.settings import LimitsConfig, Settings

WHOLE = b"GET /said HTTP/1.1\r\nhost: here\r\n\r\n"


@contextmanager
def listening(limits, app=None):
    """The address of a server in a thread."""
    server = uvicorn.Server(uvicorn.Config(app or saying(limits), http=BoundedProtocol, log_config=None))
    listener = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join()


def saying(limits):
    @asynccontextmanager
    async def life(_app):
        yield {"limits": limits}

    app = FastAPI(lifespan=life)

    @app.get("/said")
    def said():
        return "said"

    @app.post("/length")
    async def length(request: Request):
        return len(await request.body())

    return app


def test_uvicorn_still_has_no_limits_of_its_own_and_the_hooks_that_ours_overrides():
    """If this fails after an upgrade, prefer uvicorn's limits to BoundedProtocol (server/protocol.py)."""
    options = set(inspect.signature(uvicorn.Config).parameters)
    assert "h11_max_incomplete_event_size" in options  # a limit of the other parser
    assert not {option for option in options if ("header" in option and "size" in option) or "request_start" in option}
    assert {option for option in options if option.startswith("timeout")} == {
        "timeout_keep_alive", "timeout_notify", "timeout_graceful_shutdown", "timeout_worker_healthcheck",
    }  # fmt: skip
    ours = {name for name in vars(BoundedProtocol) if name.startswith(("on_", "data_", "connection_", "send_"))}
    assert ours <= set(dir(HttpToolsProtocol))
    assert {"response_started", "disconnected", "message_event"} <= set(RequestResponseCycle.__init__.__code__.co_names)
    assert {"cycle", "pipeline", "parser", "timeout_keep_alive_task", "app_state"} <= set(
        HttpToolsProtocol.__init__.__code__.co_names
    )


def all_said(connection):
    """What comes until the other side closes."""
    connection.settimeout(20)
    pieces = []
    while piece := connection.recv(65536):
        pieces.append(piece)
    return b"".join(pieces)


def answered(connection, status=200, end=b'"said"'):
    """Whether the whole answer came; the connection stays open."""
    connection.settimeout(20)
    said = b""
    while not said.endswith(end):
        piece = connection.recv(65536)
        if not piece:
            return False
        said += piece
    return said.startswith(b"HTTP/1.1 %d" % status)


def status_and_error(said):
    """Of one refusal, which must have the documented shape and close the connection."""
    head, _, body = said.partition(b"\r\n\r\n")
    assert b"connection: close" in head.lower()
    return int(head.split()[1]), ErrorResponse.model_validate(json.loads(body), extra="forbid").error.code


@pytest.fixture(scope="module")
def hasty():
    with listening(LimitsConfig(seconds=0.3, header_bytes=2_000)) as address:
        yield address


@pytest.fixture(scope="module")
def patient():
    """For what must be answered, on a machine that may stand still for a second."""
    with listening(LimitsConfig()) as address:
        yield address


def test_a_head_that_does_not_end_is_refused(hasty):
    with socket.create_connection(hasty) as connection:
        connection.sendall(WHOLE[:-2])
        assert status_and_error(all_said(connection)) == (408, "timeout")


def test_a_connection_that_says_nothing_is_closed(hasty):
    with socket.create_connection(hasty) as connection:
        assert all_said(connection) == b""


def test_a_head_that_begins_late_on_an_open_connection_has_to_end_as_well(hasty):
    with socket.create_connection(hasty) as connection:
        connection.sendall(WHOLE)
        assert answered(connection)
        connection.sendall(WHOLE[:10])
        assert status_and_error(all_said(connection)) == (408, "timeout")


def test_an_open_connection_may_rest_between_requests(hasty):
    with socket.create_connection(hasty) as connection:
        for _ in range(2):
            connection.sendall(WHOLE)
            assert answered(connection)
            time.sleep(0.5)  # longer than a head may take


def test_a_head_in_pieces_is_read(patient):
    with socket.create_connection(patient) as connection:
        for byte in WHOLE:
            connection.sendall(bytes([byte]))
        assert answered(connection)


@pytest.mark.parametrize(
    "endless", [b"GET /" + b"a" * 500, b"GET / HTTP/1.1\r\nx: " + b"a" * 500, b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 90]
)
def test_a_head_without_end_is_refused_before_it_is_large(hasty, endless):
    with socket.create_connection(hasty) as connection:
        connection.sendall(endless)
        for _ in range(1_000):
            try:
                connection.sendall(b"b" * 1_000 + b"\r\nx: " * (b"\r\n" in endless))
            except OSError:  # the other side has closed
                break
            time.sleep(0.002)
        else:
            pytest.fail("a megabyte was taken")


def test_the_refusal_of_a_large_head_has_the_one_shape(hasty):
    with socket.create_connection(hasty) as connection:
        connection.sendall(b"GET /" + b"a" * 2_100)
        assert status_and_error(all_said(connection)) == (431, "too_large")


def test_a_body_may_be_larger_and_slower_than_a_head(patient):
    with socket.create_connection(patient) as connection:
        connection.sendall(b"POST /length HTTP/1.1\r\nhost: here\r\nconnection: close\r\ncontent-length: 9000\r\n\r\n")
        for _ in range(9):
            time.sleep(0.05)
            connection.sendall(b"c" * 1_000)
        assert all_said(connection).endswith(b"9000")


def test_whole_requests_before_an_unfinished_head_are_answered_however_many_bytes_they_have(hasty):
    """All in one piece: a body, or many requests, and the beginning of the next head."""
    body = b"POST /length HTTP/1.1\r\nhost: here\r\ncontent-length: 9000\r\n\r\n" + b"c" * 9_000
    for many, answer in ((body, b"9000"), (WHOLE * 100, b'"said"')):
        with socket.create_connection(hasty) as connection:
            connection.sendall(many + b"GET / HT")
            said = all_said(connection)  # until the head is late
            assert said.startswith(b"HTTP/1.1 200")
            assert answer in said


@pytest.mark.parametrize("more", [b"\r\n", b"c" * 10, b"c" * 100])
def test_what_follows_an_answer_leaves_no_connection_open_for_ever(hasty, more):
    """An empty line; a part of the body, or all of it, of a request that was answered before its body came."""
    with socket.create_connection(hasty) as connection:
        connection.sendall(b"POST /said HTTP/1.1\r\nhost: here\r\ncontent-length: 100\r\n\r\n")
        assert answered(connection, 405, b'Not Allowed"}')
        connection.sendall(more)
        all_said(connection)


def test_trailers_are_not_kept_and_have_their_bounds(hasty):
    with socket.create_connection(hasty) as connection:
        connection.sendall(b"POST /said HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n")
        assert answered(connection, 405, b'Not Allowed"}')
        connection.sendall(b"0\r\n" + b"x: y\r\n" * 500)
        assert status_and_error(all_said(connection)) == (431, "too_large")


def test_what_is_no_http_is_refused_in_the_one_shape(hasty):
    with socket.create_connection(hasty) as connection:
        connection.sendall(b"\x16\x03\x01 no HTTP at all\r\n\r\n")
        assert status_and_error(all_said(connection)) == (400, "invalid_request")


CHUNKED = b"POST /length HTTP/1.1\r\nhost: here\r\ntransfer-encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET /said HTTP/1.1\r\n\r\n", 400),
        (b"GET /said HTTP/1.1\r\nhost: here\r\nHost: here\r\n\r\n", 400),
        (b"GET /said HTTP/1.0\r\nhost: here\r\nhost: there\r\n\r\n", 400),
        (CHUNKED.replace(b"chunked", b"gzip, chunked") + b"0\r\n\r\n", 501),
        (CHUNKED.replace(b"chunked", b"gzip\r\nTransfer-Encoding: chunked") + b"0\r\n\r\n", 501),
        (CHUNKED.replace(b"chunked", b"xchunked") + b"0\r\n\r\n", 400),
        (CHUNKED.replace(b"chunked", b"chunked, gzip") + b"0\r\n\r\n", 400),
        (CHUNKED + b"zz\r\n", 400),
        (CHUNKED + b"-1\r\nx\r\n", 400),
        (CHUNKED + b"3\r\nabcdef\r\n", 400),
        (CHUNKED + b"ffffffffffffffffffff\r\n", 400),
    ],
)
def test_a_request_that_http_forbids_gets_an_answer(patient, sent, status):
    with socket.create_connection(patient) as connection:
        connection.sendall(sent)
        code = {400: "invalid_request", 501: "not_implemented"}[status]
        assert status_and_error(all_said(connection)) == (status, code)


def test_a_body_that_turns_out_to_be_invalid_gets_an_answer(patient):
    with socket.create_connection(patient) as connection:
        connection.sendall(CHUNKED + b"3\r\nabc\r\n")
        time.sleep(0.2)
        connection.sendall(b"no size\r\n")
        assert status_and_error(all_said(connection)) == (400, "invalid_request")


@pytest.mark.parametrize(
    "sent", [b"GET /said HTTP/1.0\r\n\r\n", CHUNKED.replace(b"chunked", b"Chunked") + b"0\r\n\r\n"]
)
def test_what_http_allows_is_answered(patient, sent):
    with socket.create_connection(patient) as connection:
        connection.sendall(sent)
        assert answered(connection, end=b'"said"' if b"GET" in sent else b"0")


def test_an_invalid_head_behind_a_request_is_not_its_answer(patient):
    """The first request waits for its body's handler: nothing may be sent in its place."""
    with socket.create_connection(patient) as connection:
        connection.sendall(WHOLE + b"GET /said HTTP/1.1\r\n\r\n")
        said = all_said(connection)
    assert not said or said.startswith(b"HTTP/1.1 200")


def test_one_address_does_not_take_all_connections(tmp_path):
    limits = LimitsConfig(connections_per_client=5)
    with served(tmp_path / "state", settings=Settings(limits=limits)) as app, listening(None, app) as address:
        clients = [socket.create_connection(address) for _ in range(5)]
        time.sleep(0.2)
        with socket.create_connection(address) as connection:
            assert status_and_error(all_said(connection)) == (429, "overloaded")
        clients.pop().close()
        time.sleep(0.2)
        with socket.create_connection(address) as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nhost: here\r\n\r\n")
            assert answered(connection, end=b"}")
        for client in clients:
            client.close()


def test_connections_of_proxies_and_of_others_are_not_counted_together():
    connections = Connections(LimitsConfig(connections_per_client=1, trusted_proxies=("10.0.0.0/8",)))
    assert [connections.add("10.0.0.1") for _ in range(3)] == [None] * 3
    first = connections.add("192.0.2.7")
    assert connections.add("192.0.2.8") == "192.0.2.8"
    with pytest.raises(ConnectionRefusedError):
        connections.add("192.0.2.7")
    connections.remove(first)
    assert connections.add("192.0.2.7") == "192.0.2.7"
    assert Connections(LimitsConfig(connections_per_client=0)).add("192.0.2.7") is None


def test_a_closed_connection_drops_what_its_client_does_not_read():
    class Slow(Sent):
        aborted = False

        def get_write_buffer_size(self):
            return 10

        def abort(self):
            self.aborted = True

    async def close(transport):
        joined = JoinedWrites(transport, asyncio.get_running_loop(), 0.05)
        joined.close()
        joined.close()
        assert not getattr(transport, "aborted", False)
        await asyncio.sleep(0.2)
        return getattr(transport, "aborted", False)

    assert asyncio.run(close(Slow()))
    assert not asyncio.run(close(Sent()))


def test_others_are_answered_while_many_heads_hang(patient):
    hanging = [socket.create_connection(patient) for _ in range(50)]
    try:
        for connection in hanging:
            connection.sendall(WHOLE[:-2])
        with socket.create_connection(patient) as connection:
            connection.sendall(WHOLE)
            assert answered(connection)
    finally:
        for connection in hanging:
            connection.close()


def test_the_app_tells_the_protocol_its_limits(tmp_path):
    limits = LimitsConfig(header_bytes=100)
    with (
        served(tmp_path / "state", settings=Settings(limits=limits)) as app,
        listening(None, app) as address,
        socket.create_connection(address) as connection,
    ):
        connection.sendall(b"GET /" + b"a" * 200)
        assert status_and_error(all_said(connection)) == (431, "too_large")


class Sent:
    """A transport that keeps what is written to it."""

    def __init__(self):
        self.writes, self.closed = [], False

    def write(self, data):
        self.writes.append(data)

    def close(self):
        self.closed = True

    def is_closing(self):
        return self.closed

    def get_write_buffer_size(self):
        return 0


def test_a_head_is_sent_with_its_body_and_waits_no_longer_than_a_turn():
    async def write(*pieces, turn=False):
        sent = Sent()
        joined = JoinedWrites(sent, asyncio.get_running_loop())
        for piece in pieces:
            joined.write(piece)
            if turn:
                await asyncio.sleep(0)
        before_close = list(sent.writes)
        joined.close()
        assert sent.closed
        assert joined.is_closing()
        return before_close, sent.writes

    large = b"x" * 100_000
    assert asyncio.run(write(b"head", b"body")) == ([b"headbody"], [b"headbody"])
    assert asyncio.run(write(b"head", large)) == ([b"head", large], [b"head", large])
    assert asyncio.run(write(b"head", b"body", turn=True)) == ([b"head", b"body"], [b"head", b"body"])
    assert asyncio.run(write(b"refused")) == ([], [b"refused"])
    assert asyncio.run(write(b"a", b"b", b"c", b"d")) == ([b"ab", b"cd"], [b"ab", b"cd"])
