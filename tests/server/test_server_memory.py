"""Memory of a server process: few arenas, no garbage of requests, no predictions that nobody asks for."""

import asyncio
import gc
import json
import os
import subprocess
import sys

import pytest
from client_helpers import served
from tiny_policies import write_tiny

from recpolicy.registry.model_registry import Registry
from recpolicy.server.live_models import ModelManager, ReloadHooks

ALLOCATE = """
import ctypes, sys, threading
from recpolicy.server.allocator import limit_arenas
if sys.argv[1] == "limited":
    limit_arenas()
barrier = threading.Barrier(8)

def allocate():
    barrier.wait()
    blocks = [bytes(1000) for _ in range(2000)]  # held at the same time by all threads
    barrier.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads: thread.start()
for thread in threads: thread.join()
ctypes.CDLL(None).malloc_stats()
"""


def arenas(how, **variables):
    """Return the number of arenas of a process of eight threads."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")} | variables
    words = [sys.executable, "-c", ALLOCATE, how]
    return subprocess.run(words, capture_output=True, text=True, check=True, env=environment).stderr.count("Arena ")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_a_server_has_two_arenas_unless_the_environment_says_otherwise():
    assert arenas("free") > 2
    assert arenas("limited") <= 2
    assert arenas("limited", MALLOC_ARENA_MAX="8") > 2


def test_a_version_that_has_learned_keeps_no_predictions_as_trained(tmp_path):
    registry = Registry(tmp_path / "registry")
    registry.promote(registry.register(write_tiny(tmp_path / "policy")).number, ungated=True)
    learned = []

    def latest(base):
        return learned[0] if learned else base

    models = ModelManager.from_registry(registry, ReloadHooks(learned=latest))
    trained = models.live.champion.scorer
    user = trained.user_ids[0]
    answer = trained.predict_one(user)
    assert trained.predict_one(user) is answer
    models.refresh()
    assert models.live.champion.scorer.predict_one(user) is answer  # nothing was learned
    learned.append(trained.with_policy(trained.artifact.policy, trained.artifact.metadata))
    models.refresh()
    assert models.live.champion.base is trained
    assert trained.predict_one(user) is not answer


async def answer_of(app, path, body):
    """Return status and JSON of a request, without a client that leaves garbage."""
    sent = []

    async def receive():
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http", "http_version": "1.1", "method": "POST", "path": path, "raw_path": path.encode(),
        "query_string": b"",
        "headers": [(b"host", b"localhost"), (b"content-type", b"application/json")], "client": ("127.0.0.1", 1),
        "scheme": "http", "root_path": "", "server": ("127.0.0.1", 80),
    }  # fmt: skip
    await app(scope, receive, send)
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent))


async def rate(app):
    """Recommend, and rate the first item."""
    event_id = (await answer_of(app, "/v1/recommend", {"user": 1}))[1]["event_id"]
    return await answer_of(app, "/v1/feedback", {"event_id": event_id, "type": "like"})


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    with served(tmp_path_factory.mktemp("state")) as app:
        yield app


@pytest.mark.parametrize(
    ("ask", "status"),
    [
        (rate, 200),
        (lambda app: answer_of(app, "/v1/feedback", {"event_id": "0" * 32, "type": "like"}), 404),
        (lambda app: answer_of(app, "/v1/predict", {"users": [1, 2], "items": [1, 2]}), 200),
        (lambda app: answer_of(app, "/v1/recommend/batch", {"requests": [{"user": 1}, {"user": 2}]}), 200),
        (lambda app: answer_of(app, "/v1/recommend", {"user": "nobody"}), 200),
        (lambda app: answer_of(app, "/v1/recommend", {"user": "1"}), 404),
        (lambda app: answer_of(app, "/v1/recommend", {"user": 1, "k": -1}), 422),
    ],
)
def test_a_request_leaves_nothing_for_the_garbage_collector(app, ask, status):
    """The server collects rarely, so cycles of requests would grow to tens of MiB between two collections."""

    async def garbage():
        for _ in range(3):
            assert (await ask(app))[0] == status
        await asyncio.sleep(0.05)
        gc.collect()
        gc.disable()
        try:
            for _ in range(30):
                await ask(app)
            await asyncio.sleep(0.05)
            return gc.collect()
        finally:
            gc.enable()

    assert asyncio.run(garbage()) < 30
