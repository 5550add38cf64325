"""The guard: who is let in, how much and how long, over a plain app that does what the test says."""

import asyncio
import json
import logging
import socket
import threading
import time

import httpx
import pytest
from api_keys import bearing, listening
from client_helpers import ask, refusal
from fastapi import FastAPI, Request
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import OperationalError
from waiting import PATIENCE, wait_until

from recpolicy.server.active_request import Deadline
from recpolicy.server.allowed_hosts import LOOPBACK_HOSTS, default_hosts
from recpolicy.server.auth.keys import Caller, KeyCache, key_digest
from recpolicy.server.json_output import JsonFormatter, LoggedRequest
from recpolicy.server.middleware import RequestLog, RequestMiddleware
from recpolicy.server.rate_limit import TokenBuckets
from recpolicy.server.settings import LimitsConfig

KEYS = {key_digest("anna's"): Caller("anna", "client"), key_digest("ben's"): Caller("ben", "operator")}


def guarded(load=lambda: KEYS, seen=None, allowed_hosts=(), **limits):
    """A plain app behind a guard."""
    app, seen = FastAPI(), [] if seen is None else seen

    @app.get("/healthz")
    @app.get("/readyz")
    @app.get("/metrics")
    @app.get("/page")
    @app.get("/v1/admin/things")
    async def plain():
        return "ok"

    @app.post("/v1/echo")
    async def echo(request: Request):
        return len(await request.body())

    @app.get("/v1/quick")
    async def quick():
        return "done"

    app.state.entered, app.state.released = [], threading.Event()

    @app.get("/v1/held")
    async def held():
        app.state.entered.append("held")
        async with asyncio.timeout(PATIENCE):
            while not app.state.released.is_set():
                await asyncio.sleep(0.01)
        return "done"

    @app.get("/v1/thread")
    def thread():
        app.state.entered.append("thread")
        assert app.state.released.wait(PATIENCE)
        return "done"

    @app.get("/v1/events")
    async def events(kind: str):
        async def lines():
            for _ in range(8):
                yield b"data: x\n\n"
                await asyncio.sleep(0.2)

        return StreamingResponse(lines(), media_type=kind)

    app.add_middleware(
        RequestMiddleware,
        observe=lambda *one: seen.append(one),
        keys=KeyCache(load),
        limits=LimitsConfig(**limits),
        allowed_hosts=allowed_hosts,
    )
    return app


def statuses(app, count, path="/v1/quick", **words):
    return [ask(app, "GET", path, **words).status_code for _ in range(count)]


def test_a_caller_that_is_too_fast_is_told_when_to_come_back():
    app = guarded(rate=0.5, burst=3)
    assert statuses(app, 3) == [200] * 3
    answer = ask(app, "GET", "/v1/quick")
    refusal(answer, 429, "rate_limited")
    assert answer.headers["retry-after"] == "2"


def test_every_key_has_its_own_rate_and_unknown_ones_share_that_of_the_address():
    app = guarded(rate=0.01, burst=2)
    assert statuses(app, 3, headers=bearing("anna's")) == [200, 200, 429]
    assert statuses(app, 3, headers=bearing("ben's")) == [200, 200, 429]
    assert [statuses(app, 1, headers=bearing(f"guess {n}"))[0] for n in range(3)] == [200, 200, 429]
    assert statuses(app, 1) == [429]


def test_guesses_at_keys_are_limited_as_everything_else():
    app = guarded(rate=0.01, burst=2)
    tried = [statuses(app, 1, "/v1/admin/things", headers=bearing(f"guess {n}"))[0] for n in range(3)]
    assert tried == [401, 401, 429]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_health_is_never_limited(path):
    app = guarded(rate=0.01, burst=1, in_flight=1, require_key=True)

    async def while_busy():
        async with client_of(app) as client:
            slow = asyncio.create_task(client.get("/v1/held", headers=bearing("anna's")))
            await entered(app, 1)
            found = [(await client.get(path)).status_code for _ in range(20)]
            app.state.released.set()
            return found, (await slow).status_code

    assert asyncio.run(while_busy()) == ([200] * 20, 200)


def client_of(app):
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here")


async def entered(app, count):
    """Wait until the app works on this many requests that it holds."""
    await asyncio.to_thread(wait_until, lambda: len(app.state.entered) >= count, f"the entry of {count} requests")


def test_more_at_once_than_it_works_on_are_told_so_and_later_ones_are_answered():
    app = guarded(in_flight=3)

    async def five():
        async with client_of(app) as client:
            held = [asyncio.create_task(client.get("/v1/held")) for _ in range(3)]
            await entered(app, 3)
            refused = [await client.get("/v1/held") for _ in range(2)]
            app.state.released.set()
            return await asyncio.gather(*held), refused, await client.get("/v1/quick")

    answered, refused, later = asyncio.run(five())
    assert [one.status_code for one in answered] == [200, 200, 200]
    for busy in refused:
        refusal(busy, 429, "overloaded")
        assert busy.headers["retry-after"] == "1"
    assert later.status_code == 200


@pytest.mark.parametrize("path", ["/v1/held", "/v1/thread"])
def test_what_takes_too_long_is_ended(path, caplog):
    app = guarded(seconds=0.5)
    try:
        refusal(ask(app, "GET", path), 503, "timeout")  # although it was never released
    finally:
        app.state.released.set()
    assert json.loads(JsonFormatter().format(caplog.records[-1]))["exception"] == "timeout"


def test_a_timeout_inside_the_app_is_its_own_failure():
    app = guarded()

    @app.get("/v1/broken")
    async def broken():
        raise TimeoutError("of user 7")

    assert "7" not in refusal(ask(app, "GET", "/v1/broken"), 500, "internal")


def test_a_stream_of_events_has_no_end_and_another_answer_has():
    app = guarded(seconds=0.5)  # an answer that takes longer than 1 s is cut, and this one takes 1.6 s
    assert ask(app, "GET", "/v1/events?kind=text/event-stream").text.count("data") == 8
    with listening(guarded(seconds=0.5)) as (host, port), pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://{host}:{port}/v1/events?kind=text/plain")


def raw(address, sent, pieces=()):
    """Return the answer to these bytes over a socket, up to the end of the connection."""
    with socket.create_connection(address, timeout=PATIENCE) as client:
        client.sendall(sent)
        for piece in pieces:
            time.sleep(0.1)
            client.sendall(piece)
        answer = b""
        while part := client.recv(65536):
            answer += part
        return answer.decode()


def test_a_client_that_does_not_send_its_body_is_given_up():
    head = b"POST /v1/echo HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n"
    with listening(guarded(seconds=0.8)) as address:
        nothing, dripping = raw(address, head), raw(address, head, [b"x"] * 3)
    for answer in (nothing, dripping):
        assert answer.startswith("HTTP/1.1 408 ")
        assert json.loads(answer.partition("\r\n\r\n")[2])["error"]["code"] == "timeout"
    whole = head.replace(b"100", b"3").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    with listening(guarded()) as address:
        assert raw(address, whole, [b"abc"]).endswith("\r\n\r\n3")


def test_bodies_on_their_way_are_bounded():
    head = b"POST /v1/echo HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n\r\n"
    with listening(guarded(seconds=PATIENCE, receiving=2)) as (host, port):

        def refused():
            answer = httpx.post(f"http://{host}:{port}/v1/echo", content=b"abc")
            return None if answer.is_success else answer

        assert refused() is None
        waiting = [socket.create_connection((host, port), timeout=PATIENCE) for _ in range(2)]
        for client in waiting:
            client.sendall(head)
        answer = wait_until(refused, "the arrival of two heads")
        for client in waiting:
            client.close()
    refusal(answer, 429, "overloaded")


def stuck_bodies(address, count, headers=b""):
    """Clients that send a head and one byte of a body."""
    head = b"POST /v1/echo HTTP/1.1\r\nHost: here\r\nContent-Length: 100\r\n%b\r\nx"
    clients = [socket.create_connection(address, timeout=PATIENCE) for _ in range(count)]
    for client in clients:
        client.sendall(head % headers)
    return clients


def test_one_client_does_not_take_the_room_of_others_whose_bodies_arrive():
    """With a key, a client is another one than the address."""
    with listening(guarded(seconds=PATIENCE, receiving=100, receiving_per_client=3)) as (host, port):
        url = f"http://{host}:{port}/v1/echo"
        clients = stuck_bodies((host, port), 3)
        wait_until(lambda: httpx.post(url, content=b"abc").status_code == 429, "the arrival of three heads")
        assert httpx.post(url, content=b"abc", headers=bearing("anna's")).json() == 3
        for client in clients:
            client.close()
        wait_until(lambda: httpx.post(url, content=b"abc").status_code == 200, "the end of three clients")


@pytest.mark.parametrize("limit", ["receiving", "in_flight"])
def test_callers_with_a_key_have_room_of_their_own_and_operators_more(limit):
    app = guarded(**{limit: 8}, seconds=PATIENCE)  # 4 more with a key, 8 more for the admin routes
    app.middleware_stack = guard = app.build_middleware_stack()
    while not isinstance(guard, RequestMiddleware):
        guard = guard.app

    async def statuses_at(used):
        setattr(guard, {"receiving": "_receiving_total", "in_flight": "_in_flight"}[limit], used)
        async with client_of(app) as client:
            asked = [("/v1/quick", None), ("/v1/quick", "anna's"), ("/v1/admin/things", "ben's")]
            return [(await client.get(path, headers=bearing(key))).status_code for path, key in asked]

    assert asyncio.run(statuses_at(7)) == [200, 200, 200]
    assert asyncio.run(statuses_at(8)) == [429, 200, 200]
    assert asyncio.run(statuses_at(12)) == [429, 429, 200]
    assert asyncio.run(statuses_at(16)) == [429, 429, 429]


def test_a_key_that_nobody_knows_costs_no_look_up_beyond_the_rate_limit():
    looked = []

    def load():
        looked.append(1)
        return KEYS

    app = guarded(load, rate=0.01, burst=2)
    assert [statuses(app, 1, headers=bearing(f"guess {n}"))[0] for n in range(30)] == [200, 200] + [429] * 28
    assert len(looked) == 2


def test_a_request_whose_body_does_not_arrive_whole_is_not_handled(caplog):
    caplog.set_level(logging.INFO, "recpolicy")
    seen = []
    app = guarded(seen=seen)
    with listening(app) as address:
        (client,) = stuck_bodies(address, 1)
        client.close()
        wait_until(lambda: seen, "the end of the request")
    assert [status for _, _, status, _ in seen] == [499]


@pytest.mark.parametrize(
    ("allowed", "host", "status"),
    [
        ((), "evil.example", 200),
        (LOOPBACK_HOSTS, "localhost", 200),
        (LOOPBACK_HOSTS, "LocalHost:8080", 200),
        (LOOPBACK_HOSTS, "127.0.0.1:1", 200),
        (LOOPBACK_HOSTS, "[::1]:8080", 200),
        (LOOPBACK_HOSTS, "localhost.", 200),
        (LOOPBACK_HOSTS, "evil.example", 400),
        (LOOPBACK_HOSTS, "localhost.evil.example", 400),
        (LOOPBACK_HOSTS, "evil.localhost", 400),
        (LOOPBACK_HOSTS, "127.0.0.1.nip.io:80", 400),
        (LOOPBACK_HOSTS, "[::1", 400),
        (LOOPBACK_HOSTS, "", 400),
        (LOOPBACK_HOSTS, "x" * 5000, 400),
        (("shop.example", "*.shop.example"), "shop.example", 200),
        (("*.shop.example",), "a.shop.example:443", 200),
        (("*.shop.example",), "shop.example", 400),
        (("*.shop.example",), "notshop.example", 400),
        (("*",), "evil.example", 200),
    ],
)
def test_only_allowed_names_are_answered(allowed, host, status):
    app = guarded(allowed_hosts=allowed)
    assert statuses(app, 1, headers={"host": host}) == [status]
    assert statuses(app, 1, "/healthz", headers={"host": host}) == [200]


@pytest.mark.parametrize(
    ("address", "expected"),
    [("127.0.0.1", True), ("127.8.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("192.0.2.7", False), ("server.example", False)],
)  # fmt: skip
def test_a_server_on_loopback_answers_to_loopback_only(address, expected):
    hosts = default_hosts(address)
    assert bool(hosts) is expected
    assert not expected or {"localhost", "127.0.0.1", address} <= set(hosts)


@pytest.mark.parametrize("path", ["/healthz", "/page", "/v1/quick"])
def test_head_is_answered_as_get_without_a_body(path):
    app = guarded()
    with listening(app) as (host, port):
        head, whole = (httpx.request(method, f"http://{host}:{port}{path}") for method in ("HEAD", "GET"))
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["content-length"] == whole.headers["content-length"] == str(len(whole.content))
    assert ask(app, "HEAD", "/v1/echo").status_code == 405
    assert ask(app, "HEAD", "/v1/admin/things").status_code == 401


def test_answers_are_not_kept_by_caches_and_their_types_not_guessed():
    for path, headers in (("/v1/quick", {}), ("/v1/admin/things", {}), ("/v1/admin/things", bearing("ben's"))):
        answer = ask(guarded(), "GET", path, headers=headers)
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers.get_list("cache-control") == ["no-store"]


def test_the_bound_of_a_body_is_a_setting():
    app = guarded(body_bytes=10)
    assert ask(app, "POST", "/v1/echo", content=b"x" * 10).json() == 10
    assert "10 bytes" in refusal(ask(app, "POST", "/v1/echo", content=b"x" * 11), 413, "too_large")


def test_without_a_key_the_public_api_is_open_unless_the_settings_say_otherwise():
    for key in (None, "unknown", "anna's"):
        assert statuses(guarded(), 1, headers=bearing(key)) == [200]
    closed = guarded(require_key=True)
    answer = ask(closed, "GET", "/v1/quick")
    refusal(answer, 401, "unauthorized")
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert statuses(closed, 1, headers=bearing("unknown")) == [401]
    assert statuses(closed, 1, headers=bearing("anna's")) == [200]
    assert statuses(closed, 1, headers={"X-API-Key": "anna's"}) == [200]
    assert statuses(closed, 1, "/page") == [200]


def test_the_route_that_vertex_names_needs_the_key_too(monkeypatch):
    monkeypatch.setenv("AIP_PREDICT_ROUTE", "/page")
    assert statuses(guarded(require_key=True), 1, "/page") == [401]
    assert statuses(guarded(require_key=True), 1) == [401]


def test_nobody_sends_a_body_to_the_admin_api_without_a_key():
    sent = 0

    async def pieces():
        nonlocal sent
        for _ in range(8):
            sent += 1
            yield b"x" * 1000

    refusal(ask(guarded(), "POST", "/v1/admin/versions/import", content=pieces()), 401, "unauthorized")
    assert sent == 0


def test_while_the_database_is_down_the_public_api_stays_open():
    def down():
        raise OperationalError("SELECT", {}, Exception("no connection"))

    assert statuses(guarded(down), 1, headers=bearing("anna's")) == [200]
    answer = ask(guarded(down, require_key=True), "GET", "/v1/quick", headers=bearing("anna's"))
    refusal(answer, 503, "database_unavailable")
    assert answer.headers["retry-after"] == "5"


def test_what_is_refused_is_counted_and_logged_without_saying_whom(caplog):
    caplog.set_level(logging.DEBUG, "recpolicy")
    seen = []
    app = guarded(seen=seen, rate=0.01, burst=1, body_bytes=100)
    secret = "rp_secret-of-anna"
    ask(app, "GET", "/v1/admin/things?user=carla", headers=bearing(secret))
    ask(app, "GET", "/v1/admin/things", headers={"X-API-Key": secret})
    ask(app, "POST", "/v1/echo", content=b"carla" * 50, headers=bearing("anna's"))
    assert [status for _, _, status, _ in seen] == [401, 429, 413]
    lines = [JsonFormatter().format(record) for record in caplog.records if record.name.startswith("recpolicy")]
    assert [json.loads(line)["status"] for line in lines] == [401, 429, 413]
    others = [record.getMessage() for record in caplog.records if record.name != "httpx"]  # which is the client here
    for word in (secret, "anna", "carla", key_digest(secret)):
        assert word not in "".join(lines + others)


def test_requests_that_end_together_share_a_record_and_have_a_line_each(caplog):
    caplog.set_level(logging.INFO, "recpolicy")
    log = RequestLog()

    async def two_turns():
        log.add(LoggedRequest(1.0625, "GET", '/"odd', 200, 0.3))
        log.add(LoggedRequest(2.5, "POST", "/v1/recommend", 404, 12.0))
        await asyncio.sleep(0)
        log.add(LoggedRequest(3.0, "GET", "other", 404, 1.5))
        await asyncio.sleep(0)

    asyncio.run(two_turns())
    first, second = [record for record in caplog.records if record.name == "recpolicy.server.middleware"]
    lines = [json.loads(line) for line in JsonFormatter().format(first).split("\n")]
    same = {"level": "info", "logger": "recpolicy.server.middleware", "message": "request"}
    assert lines == [
        {"time": "1970-01-01T00:00:01.062+00:00", **same, "method": "GET", "route": '/"odd', "status": 200, "ms": 0.3},
        {"time": "1970-01-01T00:00:02.500+00:00", **same, "method": "POST", "route": "/v1/recommend", "status": 404,
         "ms": 12.0},
    ]  # fmt: skip
    assert json.loads(JsonFormatter().format(second))["route"] == "other"


@pytest.mark.parametrize("other_cancels", [False, True])
def test_a_deadline_tells_its_own_end_from_a_cancellation(other_cancels):
    async def waits():
        deadline = Deadline(0.01)
        try:
            await asyncio.sleep(PATIENCE)
        except asyncio.CancelledError:
            return deadline.end(), asyncio.current_task().cancelling()

    async def go():
        task = asyncio.create_task(waits())
        if other_cancels:
            await asyncio.sleep(0)
            task.cancel()
        return await task

    assert asyncio.run(go()) == ((False, 1) if other_cancels else (True, 0))


def test_a_deadline_that_is_moved_or_removed_does_not_end_early():
    async def go():
        deadline = Deadline(0.01)
        deadline.move(PATIENCE)
        await asyncio.sleep(0.05)
        deadline.move(None)
        return deadline.end()

    assert not asyncio.run(go())


def test_buckets_of_the_guard_are_bounded():
    guard = RequestMiddleware(None, None, KeyCache(dict), LimitsConfig(rate=1))
    assert isinstance(guard._buckets, TokenBuckets)
    for number in range(20_000):
        guard._buckets.take(str(number))
    assert len(guard._buckets) <= 10_000
