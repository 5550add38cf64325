"""Background tasks: errors do not end them, and readiness and liveness report those that have ended."""

import asyncio
import logging
import threading

import httpx
import pytest
from client_helpers import ask, refusal, served
from waiting import PATIENCE, wait_until

from recpolicy.server.background import BackgroundTasks
from recpolicy.server.jobs.scheduler import Scheduler
from recpolicy.server.online.learner import OnlineLearner
from recpolicy.server.settings import OnlineConfig

NAMES = {
    "writer", "writer_watch", "spool_replay", "registry_watch", "gauges", "memory_release", "rollout_counts",
    "shadow_comparison", "rank_settings", "online_learning_of_ranks",
    "online_learning", "scheduler",
}  # fmt: skip


@pytest.fixture
def app(tmp_path):
    with served(tmp_path) as app:
        yield app


def test_an_error_does_not_end_a_task_and_is_logged_once(caplog):
    calls = []

    async def step():
        calls.append(None)
        if len(calls) in (1, 2, 4):
            raise TypeError("no")

    async def go():
        tasks = BackgroundTasks()
        task = tasks.start("task", 0.0, step)
        while len(calls) < 6:
            await asyncio.sleep(0)
        assert tasks.ended() == []
        task.cancel()
        await asyncio.wait([task])
        assert tasks.ended() == ["task"]

    with caplog.at_level(logging.ERROR):
        asyncio.run(asyncio.wait_for(go(), PATIENCE))
    assert [record.getMessage() for record in caplog.records] == ["task failed; it goes on"] * 2


def test_all_background_tasks_of_a_running_app_are_reported(app):
    async def names():
        async with app.router.lifespan_context(app):
            state = app.state.server
            assert state.background.ended() == []
            return set(state.background._tasks)

    assert asyncio.run(names()) == NAMES


def test_a_task_that_has_ended_makes_the_server_unready_by_its_name(app):
    assert ask(app, "GET", "/readyz").status_code == 200
    app.state.server.background.add("scheduler", lambda: False)
    assert "scheduler" in refusal(ask(app, "GET", "/readyz"), 503, "not_ready")
    assert ask(app, "GET", "/healthz").status_code == 200


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_a_server_without_its_writer_is_not_alive(app, path):
    app.state.server.background.add("writer", lambda: False)
    assert "writer" in refusal(ask(app, "GET", path), 503, "not_alive" if path == "/healthz" else "not_ready")


def test_the_readiness_and_the_metrics_agree_on_a_database_that_is_down(app, tmp_path):
    writer = app.state.server.store.writer

    def both():
        lines = ask(app, "GET", "/metrics").text.splitlines()
        return ask(app, "GET", "/readyz").json()["store"], *(
            line.split()[1] for line in lines if line.startswith(("recpolicy_store_up ", "recpolicy_events_spooled "))
        )

    assert both() == ("up", "0.0", "1.0")
    (tmp_path / "server.db").rename(tmp_path / "elsewhere.db")
    assert ask(app, "POST", "/v1/recommend", {"user": 1}).json()["event_id"]
    assert both() == ("down", "1.0", "0.0")
    (tmp_path / "elsewhere.db").rename(tmp_path / "server.db")
    wait_until(lambda: not writer.down and not writer.spooled, "the recovery")
    assert both() == ("up", "0.0", "1.0")


def test_no_error_ends_the_learner(app, monkeypatch):
    learner = OnlineLearner(None, None, None, OnlineConfig(seconds=0.001))
    steps = []

    def step():
        steps.append(None)
        raise KeyError("policy_digest")

    monkeypatch.setattr(learner, "step", step)
    learner.start()
    wait_until(lambda: len(steps) > 2, "the next step")
    assert learner.is_alive()
    learner.close()
    assert not learner.is_alive()


def test_no_error_ends_the_scheduler(app, monkeypatch):
    monkeypatch.setattr("recpolicy.server.jobs.scheduler.TICK_SECONDS", 0.001)
    scheduler, ticks = Scheduler(app.state.server, {}), []

    def tick():
        ticks.append(None)
        raise KeyError("jobs")

    monkeypatch.setattr(scheduler, "tick", tick)
    with scheduler.running():
        wait_until(lambda: len(ticks) > 2, "the next tick")
        assert app.state.server.background.ended() == []


def test_the_server_follows_the_registry_after_a_version_that_does_not_load(app, monkeypatch, caplog):
    models = app.state.server.models
    refresh, stamps = models.refresh, iter(range(100))

    def fails():
        raise TypeError("unhashable")

    async def follow():
        stamp = "changed", next(stamps)
        monkeypatch.setattr(models, "_look", lambda: stamp)
        await models.follow_registry()
        await models.follow_registry()

    monkeypatch.setattr(models, "refresh", fails)
    for _ in range(2):
        asyncio.run(follow())
    assert sum("does not load" in record.getMessage() for record in caplog.records) == 2  # once for each change
    loaded = threading.Event()
    monkeypatch.setattr(models, "refresh", lambda: loaded.set() or refresh())
    asyncio.run(follow())
    assert loaded.is_set()


def test_requests_are_answered_while_the_database_file_is_gone(app, tmp_path):
    (tmp_path / "server.db").rename(tmp_path / "elsewhere.db")

    async def all_kinds():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            headers = {"authorization": "Bearer rp_unknown"}
            return [
                (await client.post("/v1/recommend", json={"user": 1}, headers=headers)).status_code,
                (await client.post("/v1/predict", json={"users": [1], "items": [1]})).status_code,
                (await client.get("/v1/admin/versions", headers=headers)).status_code,
            ]

    assert asyncio.run(all_kinds()) == [200, 200, 503]
    assert not (tmp_path / "server.db").exists()
