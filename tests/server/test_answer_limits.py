"""Small requests for large answers take neither the memory nor the turns of others, and stop when nobody waits."""

import asyncio
import threading
from pathlib import Path

import httpx
import pytest
from client_helpers import ask, refusal, served
from trained_policies import trained
from waiting import PATIENCE, wait_until

from recpolicy.inference.load_scorer import load_scorer
from recpolicy.server.active_request import ActiveRequest, ClientGoneError
from recpolicy.server.answer_limits import LARGE_ROWS, PIECE_BYTES, AnswerLimits, RejectedError
from recpolicy.server.app import make_app
from recpolicy.server.computed_lists import compute_lists
from recpolicy.server.lifespan import stateless_state
from recpolicy.server.live_models import LoadedVersion
from recpolicy.server.rate_limit import TokenBuckets
from recpolicy.server.routes.policy import estimates
from recpolicy.server.schemas.requests import RecommendRequest
from recpolicy.server.settings import LimitsConfig, Settings

ITEMS = 80


def app_with(**limits):
    """A server without a store over a policy of 60 users and 80 items."""
    return make_app(stateless_state(trained("linucb"), Settings(limits=LimitsConfig(**({"rate": 0} | limits)))))


@pytest.mark.parametrize(
    ("path", "body", "rows"),
    [
        ("/v1/predict", {"users": list(range(1, 61))}, 60 * ITEMS),
        ("/v1/predict", {"users": list(range(1, 61)), "items": list(range(1, 41))}, 60 * 40),
        ("/v1/recommend/batch", {"requests": [{"user": 1, "k": 100}] * 21}, 2_100),
        ("/v1/models/recpolicy:predict", {"instances": [{"user": 1, "k": 100}] * 21}, 2_100),
        ("/v1/models/recpolicy:predict", {"instances": [{"user": 1, "items": list(range(1, 81))}] * 26}, 26 * ITEMS),
    ],
)
def test_an_answer_has_at_most_as_many_rows_as_the_setting_says(path, body, rows):
    message = refusal(ask(app_with(answer_rows=2_000), "POST", path, body), 422, "invalid_value")
    assert f"would have {rows} rows; expected at most 2000; ask for fewer users or items" in message
    assert ask(app_with(answer_rows=rows), "POST", path, body).status_code == 200


def test_the_default_bound_admits_every_batch_and_a_hundred_users_of_two_hundred_items():
    assert LimitsConfig().answer_rows >= max(100 * 100, 100 * 200)


def test_a_large_answer_costs_more_of_the_rate_limit_than_a_small_one():
    app = app_with(rate=0.001, burst=100)
    assert ask(app, "POST", "/v1/predict", {"users": list(range(1, 61))}).status_code == 200  # 48 tokens
    assert ask(app, "POST", "/v1/predict", {"users": list(range(1, 61))}).status_code == 200
    answer = ask(app, "POST", "/v1/predict", {"users": list(range(1, 61))})
    assert "a batch or a large answer counts as several" in refusal(answer, 429, "rate_limited")
    assert int(answer.headers["retry-after"]) > 1
    assert ask(app, "POST", "/v1/predict", {"users": [1], "items": [1]}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "tokens"),
    [
        ("/v1/recommend/batch", {"requests": [{"user": 1, "k": 1}] * 100}, 10),
        ("/v1/recommend/batch", {"requests": [{"user": 1, "k": 100}] * 100}, 100),
        ("/v1/models/recpolicy:predict", {"instances": [{"user": 1, "items": [1]}] * 100}, 10),
        ("/v1/recommend", {"user": 1, "k": 100}, 1),
    ],
)
def test_every_part_of_a_batch_counts(path, body, tokens):
    assert ask(app_with(rate=1e-6, burst=tokens), "POST", path, body).status_code == 200
    if tokens > 1:
        app = app_with(rate=1e-6, burst=tokens)
        assert ask(app, "GET", "/v1/models/recpolicy").status_code == 200  # takes one
        refusal(ask(app, "POST", path, body), 429, "rate_limited")


def test_pieces_of_feedback_in_a_batch_count(tmp_path):
    piece = {"event_id": "0" * 32, "type": "like"}
    with served(tmp_path / "state", settings=Settings(limits=LimitsConfig(rate=1e-6, burst=10))) as app:
        refusal(ask(app, "POST", "/v1/feedback/batch", {"items": [piece] * 101}), 429, "rate_limited")
        assert ask(app, "POST", "/v1/feedback/batch", {"items": [piece] * 10}).status_code == 200


def test_a_request_that_costs_more_than_a_full_bucket_passes_when_it_is_full():
    buckets = TokenBuckets(1.0, 5, lambda: 0.0)
    assert buckets.take("a", 200) == 0.0
    assert buckets.take("a") == 1.0


def test_large_answers_wait_for_their_turn_and_no_client_takes_all_of_them():
    limits = AnswerLimits(LimitsConfig(large_answers=1), TokenBuckets(0, 1))
    at_work, most = 0, 0

    async def compute(client):
        nonlocal at_work, most
        async with limits.turn(client):
            at_work += 1
            most = max(most, at_work)
            await asyncio.sleep(0.01)
            at_work -= 1

    async def crowd():
        many = [asyncio.create_task(compute("greedy")) for _ in range(20)]
        other = asyncio.create_task(compute("other"))
        return await asyncio.gather(*many, return_exceptions=True), await other

    async def twice():
        await crowd()
        return await crowd()  # all turns are free again

    results, _ = asyncio.run(twice())
    rejected = [result for result in results if isinstance(result, RejectedError)]
    assert (most, len(rejected)) == (1, 18)
    assert rejected[0].response.headers["retry-after"] == "1"


class Gone:
    """A client that sends its request and closes the connection when it is told to."""

    def __init__(self):
        self.closed = asyncio.Event()

    async def receive(self):
        await self.closed.wait()
        return {"type": "http.disconnect"}


@pytest.mark.parametrize("how", ["the client goes", "the time is over"])
def test_the_computation_ends_when_nobody_waits_for_it(how):
    begun, ended = threading.Event(), threading.Event()

    def work(stop):
        begun.set()
        assert stop.wait(PATIENCE)
        ended.set()

    async def go():
        client = Gone()
        scope = {"path": "/v1/predict", "method": "POST"}
        request = ActiveRequest(scope, client.receive, None, 10.0, AnswerLimits(LimitsConfig(), TokenBuckets(0, 1)))
        task = asyncio.create_task(request.compute(LARGE_ROWS + 1, work))
        await asyncio.to_thread(begun.wait, PATIENCE)
        if how == "the client goes":
            client.closed.set()
        else:
            task.cancel()
        with pytest.raises((ClientGoneError, asyncio.CancelledError)):
            await task
        assert await asyncio.to_thread(ended.wait, PATIENCE)

    asyncio.run(go())


def test_predictions_and_lists_look_at_the_stop_between_users():
    scorer, stop = load_scorer(trained("linucb")), threading.Event()
    asked = []
    predict = scorer.predict

    def counting(users, learned):
        asked.append(users)
        stop.set()
        return predict(users, learned=learned)

    scorer.predict = counting
    assert estimates(LoadedVersion(scorer, 1), list(range(1, 61)), None, stop) == b""
    assert len(asked) == 1  # of two blocks
    version = app_with().state.server.models.live.champion
    requests = [RecommendRequest(user=user) for user in range(1, 41)]
    assert len(compute_lists(version, requests, Settings().exploration, stop)) == 1
    assert len(compute_lists(version, requests, Settings().exploration)) == 39


class Sink:
    """A client of an ASGI app that reads when it is told to."""

    def __init__(self):
        self.pieces, self.reading = [], asyncio.Event()

    async def send(self, message):
        if message["type"] == "http.response.body":
            self.pieces.append(message)
            if message["more_body"]:
                await self.reading.wait()

    async def receive(self):
        await asyncio.Event().wait()


def test_a_large_answer_is_sent_in_pieces_and_counts_until_it_is_sent():
    limits = AnswerLimits(LimitsConfig(unsent_bytes=8 * PIECE_BYTES), TokenBuckets(0, 1))
    body = bytes(range(256)) * (2 * PIECE_BYTES // 256)

    async def go():
        sink = Sink()
        request = ActiveRequest({"path": "/", "method": "GET"}, sink.receive, sink.send, 10.0, limits)
        sending = asyncio.create_task(request.send({"type": "http.response.body", "body": body}))
        await asyncio.sleep(0)
        assert not limits.has_room("nobody", 1)  # a quarter of the room
        assert limits.has_room("other", 2 * PIECE_BYTES)
        sink.reading.set()
        await sending
        assert limits.has_room("nobody", 2 * PIECE_BYTES)
        return sink.pieces

    pieces = asyncio.run(go())
    assert b"".join(piece["body"] for piece in pieces) == body
    assert [(len(piece["body"]), piece["more_body"]) for piece in pieces] == [(PIECE_BYTES, True), (PIECE_BYTES, False)]


def test_an_answer_for_which_there_is_no_room_is_refused():
    users = {"users": list(range(1, 61))}
    size = len(ask(app_with(), "POST", "/v1/predict", users).content)
    assert size > PIECE_BYTES
    refusal(ask(app_with(unsent_bytes=3 * size), "POST", "/v1/predict", users), 429, "overloaded")
    assert ask(app_with(unsent_bytes=5 * size), "POST", "/v1/predict", users).status_code == 200


def rss_mib(pid):
    """Resident memory of a process."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def test_clients_that_do_not_read_do_not_make_memory_grow(tmp_path):
    """Forty connections ask for the largest answer again and again and read nothing; others are answered."""
    from processes import ServerProcess

    server = ServerProcess(trained("linucb"), tmp_path / "state")
    body = b'{"users": [%s]}' % b",".join(b"%d" % user for user in range(1, 61))
    host = server.url.removeprefix("http://").encode()
    head = b"POST /v1/predict HTTP/1.1\r\nhost: %s\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    request = head % (host, len(body)) + body

    async def attack():
        name, _, port = host.decode().rpartition(":")
        writers = [(await asyncio.open_connection(name, int(port), limit=1))[1] for _ in range(40)]
        for writer in writers:
            writer.write(request * 20)  # pipelined: 30 MB of answers for each
        try:
            async with httpx.AsyncClient() as client:
                for _ in range(20):
                    answer = await client.post(f"{server.url}/v1/recommend", json={"user": 1}, timeout=PATIENCE)
                    assert answer.status_code == 200
                    await asyncio.sleep(0.1)
            return rss_mib(server.process.pid)
        finally:
            for writer in writers:
                writer.transport.abort()

    try:
        before = rss_mib(server.process.pid)
        assert asyncio.run(attack()) < before + 100
        wait_until(lambda: server.is_ready(), "an answer after the attack")
    finally:
        server.stop()
