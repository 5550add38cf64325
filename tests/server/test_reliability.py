"""What is promised when things go wrong, tried on real processes. docs/reference/guarantees.md has the figures."""

import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import threading
import time

import pytest
from databases import KINDS, new_url, postgres
from processes import ServerProcess
from sqlalchemy import create_engine, func, select
from trained_policies import trained

from recpolicy.registry.model_registry import Registry
from recpolicy.server.db.engine import make_engine, sqlite_url
from recpolicy.server.db.schema import events, feedback, rewards
from recpolicy.server.lifespan import DATABASE_URL

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def start(tmp_path):
    running = []

    def go(source, *words, **settings):
        running.append(ServerProcess(source, tmp_path / "state", *words, **settings))
        return running[-1]

    yield go
    for server in running:
        server.stop()


def load(server, acknowledged, stop):
    """Recommend and rate until told to stop or the server is gone; what was acknowledged is noted."""
    chance = random.Random()
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException):  # the last: an answer cut in the middle
        while not stop.is_set():
            status, answer = server.post("/v1/recommend", {"user": chance.randint(1, 60), "k": 3})
            assert status == 200
            acknowledged["events"].append(answer["event_id"])
            said = {"event_id": answer["event_id"], "kind": "rating", "value": float(chance.randint(1, 5))}
            for _ in range(2):  # a client that tries again
                status, taken = server.post("/v1/feedback", said)
                assert (status, taken["status"]) in ((200, "accepted"), (200, "duplicate"))
            acknowledged["feedback"].append((answer["event_id"], said["value"]))


def under_load(server, seconds, threads=4):
    acknowledged, stop = {"events": [], "feedback": []}, threading.Event()
    workers = [threading.Thread(target=load, args=(server, acknowledged, stop)) for _ in range(threads)]
    for worker in workers:
        worker.start()
    time.sleep(seconds)
    return acknowledged, stop, workers


def all_of(url):
    engine = make_engine(url)
    with engine.connect() as connection:
        kept = set(connection.scalars(select(events.c.id)))
        given = {(row.event_id, row.reward) for row in connection.execute(select(rewards))}
        counts = [connection.scalar(select(func.count()).select_from(table)) for table in (events, feedback, rewards)]
    engine.dispose()
    return kept, given, counts


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_killed_under_load_has_lost_nothing_and_doubled_nothing(kind, workers, tmp_path, start):
    url = new_url(kind, tmp_path)
    server = start(trained("linucb"), "--workers", workers, **{DATABASE_URL: url})
    acknowledged, stop, threads = under_load(server, 2.0)
    children = subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True).stdout.split()
    for pid in (*map(int, children), server.process.pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    stop.set()
    for thread in threads:
        thread.join()
    assert len(acknowledged["feedback"]) > 5
    again = start(trained("linucb"), **{DATABASE_URL: url})  # replays what a spool may hold
    kept, given, counts = all_of(url)
    assert set(acknowledged["events"]) <= kept
    assert set(acknowledged["feedback"]) <= given
    assert counts[0] == len(kept)
    assert counts[1] == counts[2] == len({event for event, _ in given})
    event_id, value = acknowledged["feedback"][-1]
    said = {"event_id": event_id, "kind": "rating", "value": value}
    assert again.post("/v1/feedback", said) == (200, {"status": "duplicate", "reward": None})


def test_while_the_database_is_down_predictions_go_on_and_nothing_is_lost(start, tmp_path):
    database = postgres()
    url = database.new_database()
    server = start(trained("linucb"), **{DATABASE_URL: url})
    before = server.post("/v1/recommend", {"user": 1})[1]["event_id"]
    database.stop()
    try:
        status, during = server.post("/v1/recommend", {"user": 2})
        assert (status, len(during["items"])) == (200, 10)
        assert server.post("/v1/predict", {"users": [1], "items": [1]})[0] == 200
        status, refused = server.post("/v1/feedback", {"event_id": before, "kind": "like"})
        assert (status, refused["error"]["code"]) == (503, "store_down")
        assert server.get("/readyz")["store"] == "down"
    finally:
        database.start()
    for event_id in (before, during["event_id"]):
        assert server.post("/v1/feedback", {"event_id": event_id, "kind": "like"})[1]["status"] == "accepted"
    assert all_of(url)[0] == {before, during["event_id"]}


def test_on_a_full_disk_people_still_get_recommendations_and_no_event_id_is_promised(start, tmp_path):
    server = start(trained("linucb"))
    kept = [server.post("/v1/recommend", {"user": 1})[1]["event_id"]]
    full = (tmp_path / "state" / "server.db").stat().st_size  # files that may not grow are what a full disk looks like
    subprocess.run(["prlimit", f"--pid={server.process.pid}", f"--fsize={full}:"], check=True)
    for number in range(400):
        status, answer = server.post("/v1/recommend", {"user": number % 60 + 1})
        assert status == 200
        if answer["event_id"] is None:
            break
        kept.append(answer["event_id"])
    assert answer["event_id"] is None
    status, refused = server.post("/v1/feedback", {"event_id": kept[0], "kind": "like"})
    assert (status, refused["error"]["code"]) == (503, "store_down")
    subprocess.run(["prlimit", f"--pid={server.process.pid}", "--fsize=unlimited:"], check=True)
    assert server.post("/v1/feedback", {"event_id": kept[-1], "kind": "like"})[1]["status"] == "accepted"
    server.stop(signal.SIGTERM)
    assert set(kept) <= all_of(sqlite_url(tmp_path / "state" / "server.db"))[0]


def test_versions_are_swapped_under_load_without_a_failed_request(start, tmp_path):
    registry = Registry(tmp_path / "registry")
    numbers = [registry.register(trained(agent)).number for agent in ("linucb", "popular", "lints")]
    registry.promote(numbers[0])
    server = start(registry.folder)
    acknowledged, stop, threads = under_load(server, 0.5, threads=3)
    for turn in range(12):
        registry.promote(numbers[turn % 3])
        time.sleep(0.2)
        if turn % 4 == 3:
            registry.roll_back()
    failed = [thread for thread in threads if not thread.is_alive()]  # a failed request ends its thread
    stop.set()
    for thread in threads:
        thread.join()
    assert not failed
    assert len(acknowledged["events"]) > 30
    engine = create_engine(sqlite_url(tmp_path / "state" / "server.db"))
    with engine.connect() as connection:
        assert len(set(connection.scalars(select(events.c.version)))) == 3
    engine.dispose()


def test_a_version_that_is_damaged_on_disk_is_not_taken_and_the_old_one_goes_on(start, tmp_path):
    registry = Registry(tmp_path / "registry")
    one, two = (registry.register(trained(agent)).number for agent in ("linucb", "popular"))
    registry.promote(one)
    server = start(registry.folder)
    state = json.loads((registry.folder / "aliases.json").read_text())
    damaged = registry.resolve(two) / "arrays.npz"
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (registry.folder / "aliases.json").write_text(json.dumps(state | {"champion": two}))  # past the registry's checks
    time.sleep(1.5)
    status, answer = server.post("/v1/recommend", {"user": 1})
    assert (status, answer["policy"]["version"]) == (200, one)


def test_a_server_that_is_told_to_stop_finishes_what_it_has_begun(start, tmp_path):
    server = start(trained("linucb"))
    acknowledged, stop, threads = under_load(server, 0.7)
    assert server.stop(signal.SIGTERM) == 0
    stop.set()
    for thread in threads:
        thread.join()
    kept, given, _ = all_of(sqlite_url(tmp_path / "state" / "server.db"))
    assert set(acknowledged["events"]) <= kept
    assert set(acknowledged["feedback"]) <= given
