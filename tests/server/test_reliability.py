"""What is promised when things go wrong, tried on real processes. docs/reference/guarantees.md has the figures."""

import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import threading

import pytest
from databases import KINDS, new_url, postgres, stored_rows
from processes import ServerProcess
from sqlalchemy import select
from trained_policies import trained
from waiting import wait_until

from recpolicy.registry.model_registry import Registry
from recpolicy.server.db.engine import sqlite_url
from recpolicy.server.db.schema import events
from recpolicy.server.lifespan import DATABASE_URL


@pytest.fixture
def start(tmp_path):
    running = []

    def go(source, *words, **settings):
        running.append(ServerProcess(source, tmp_path / "state", *words, **settings))
        return running[-1]

    yield go
    for server in running:
        server.stop()


class Load:
    """Clients in threads that recommend and rate until they are stopped or the server is gone.

    Notes what the server has acknowledged. An answer that is no success ends its thread, and fails the test.
    """

    def __init__(self, server, threads=4):
        self.events, self.feedback, self.versions = [], [], []
        self._server, self._stop = server, threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]
        for thread in self._threads:
            thread.start()

    def _run(self):
        chance = random.Random()
        cut = http.client.HTTPException  # an answer that ended in the middle
        with contextlib.suppress(OSError, ValueError, cut):
            while not self._stop.is_set():
                status, answer = self._server.post("/v1/recommend", {"user": chance.randint(1, 60), "k": 3})
                assert status == 200
                self.events.append(answer["event_id"])
                self.versions.append(answer["policy"]["version"])
                said = {"event_id": answer["event_id"], "type": "rating", "value": float(chance.randint(1, 5))}
                for _ in range(2):  # a client that tries again
                    status, taken = self._server.post("/v1/feedback", said)
                    assert (status, taken["status"]) in ((200, "accepted"), (200, "duplicate"))
                self.feedback.append((answer["event_id"], said["value"]))

    def wait_until(self, condition, what):
        """Wait for a condition while all clients are served."""
        try:
            wait_until(lambda: condition() or not self.is_served(), what)
            assert self.is_served(), "a request failed"
        except BaseException:
            self.stop()
            raise

    def is_served(self):
        """Return whether no client has met a failure."""
        return all(thread.is_alive() for thread in self._threads)

    def stop(self):
        """Stop the clients."""
        self._stop.set()
        for thread in self._threads:
            thread.join()


def under_load(server, pairs=50, threads=4):
    """Return a load that has had this many recommendations with feedback acknowledged."""
    load = Load(server, threads)
    load.wait_until(lambda: len(load.feedback) >= pairs, f"{pairs} acknowledged pairs")
    return load


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_killed_under_load_has_lost_nothing_and_doubled_nothing(kind, workers, tmp_path, start):
    url = new_url(kind, tmp_path)
    server = start(trained("linucb"), "--workers", workers, **{DATABASE_URL: url})
    load = under_load(server)
    children = subprocess.run(["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True).stdout.split()
    assert len(children) >= workers - 1
    for pid in (server.process.pid, *map(int, children)):  # the parent first, which would start another worker
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    load.stop()
    again = start(trained("linucb"), **{DATABASE_URL: url})  # replays what a spool may hold
    kept, given, counts = stored_rows(url)
    assert set(load.events) <= kept
    assert set(load.feedback) <= given
    assert counts["events"] == len(kept)
    assert counts["feedback"] == counts["rewards"] == len({event for event, _ in given})
    event_id, value = load.feedback[-1]
    said = {"event_id": event_id, "type": "rating", "value": value}
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
        status, refused = server.post("/v1/feedback", {"event_id": before, "type": "like"})
        assert (status, refused["error"]["code"]) == (503, "database_unavailable")
        assert server.get("/readyz")["store"] == "down"
    finally:
        database.start()
    wait_until(lambda: server.get("/readyz")["store"] == "up", "the recovery")
    for event_id in (before, during["event_id"]):
        assert server.post("/v1/feedback", {"event_id": event_id, "type": "like"})[1]["status"] == "accepted"
    assert stored_rows(url)[0] == {before, during["event_id"]}


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
    status, refused = server.post("/v1/feedback", {"event_id": kept[0], "type": "like"})
    assert (status, refused["error"]["code"]) == (503, "database_unavailable")
    subprocess.run(["prlimit", f"--pid={server.process.pid}", "--fsize=unlimited:"], check=True)
    wait_until(lambda: server.get("/readyz")["store"] == "up", "the recovery")
    assert server.post("/v1/feedback", {"event_id": kept[-1], "type": "like"})[1]["status"] == "accepted"
    server.stop(signal.SIGTERM)
    assert set(kept) <= stored_rows(sqlite_url(tmp_path / "state" / "server.db"))[0]


def test_versions_are_swapped_under_load_without_a_failed_request(start, tmp_path, new_engine):
    registry = Registry(tmp_path / "registry")
    numbers = [
        registry.register(trained(agent), gate={"verdict": "pass"}).number for agent in ("linucb", "popular", "lints")
    ]
    registry.promote(numbers[0])
    server = start(registry.folder)
    load = under_load(server, 1, threads=3)
    for turn in range(6):
        registry.promote(numbers[turn % 3])  # the server may see it or not
        registry.promote(numbers[(turn + 1) % 3])
        load.wait_until(lambda turn=turn: load.versions[-1] == numbers[(turn + 1) % 3], "an answer of the new version")
    registry.roll_back()
    load.wait_until(lambda: load.versions[-1] == numbers[2], "an answer of the former version")
    assert load.is_served()
    load.stop()
    with new_engine(sqlite_url(tmp_path / "state" / "server.db")).connect() as connection:
        assert set(connection.scalars(select(events.c.version))) == set(numbers)


def test_a_version_that_is_damaged_on_disk_is_not_taken_and_the_old_one_goes_on(start, tmp_path):
    registry = Registry(tmp_path / "registry")
    one, two = (registry.register(trained(agent), gate={"verdict": "pass"}).number for agent in ("linucb", "popular"))
    registry.promote(one)
    server = start(registry.folder)
    state = json.loads((registry.folder / "aliases.json").read_text())
    damaged = registry.resolve(two) / "arrays.npz"
    damaged.chmod(0o644)
    damaged.write_bytes(damaged.read_bytes()[:-1])
    (registry.folder / "aliases.json").write_text(json.dumps(state | {"champion": two}))  # past the registry's checks
    wait_until(lambda: "does not load" in server.log.read_text(), "the line in the log")
    status, answer = server.post("/v1/recommend", {"user": 1})
    assert (status, answer["policy"]["version"]) == (200, one)


def test_a_server_that_is_told_to_stop_finishes_what_it_has_begun(start, tmp_path):
    server = start(trained("linucb"))
    load = under_load(server)
    assert server.stop(signal.SIGTERM) == 0
    load.stop()
    kept, given, _ = stored_rows(sqlite_url(tmp_path / "state" / "server.db"))
    assert set(load.events) <= kept
    assert set(load.feedback) <= given
