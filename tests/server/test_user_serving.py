"""Users who learn on real servers: restarts, workers, outages, erasure, rollouts, backups and exports."""

import asyncio
import os
import signal
import subprocess
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest
from alembic import command
from alembic.config import Config
from api_keys import bearing, key_for
from client_helpers import ask
from databases import KINDS, new_url, postgres
from event_factory import event
from learning_users import Client, contexts, learning, settings_of, shown, stored_ratings
from processes import ADMIN_KEY, ServerProcess
from rollout_fixtures import tiny_registry
from sqlalchemy import text
from tiny_policies import write_tiny
from waiting import wait_until

from recpolicy.data.log_parts import EVENTS, log_parts
from recpolicy.inference.load_scorer import load_scorer
from recpolicy.models.fold_in import fold_in_user
from recpolicy.registry.model_registry import Registry
from recpolicy.server import erasure
from recpolicy.server.app import make_app
from recpolicy.server.backup.create import create_backup
from recpolicy.server.backup.databases import copy_sqlite
from recpolicy.server.backup.restore import restore_backup
from recpolicy.server.db.deletion import delete_before
from recpolicy.server.db.engine import _MIGRATIONS, migrate, sqlite_url, transaction
from recpolicy.server.db.events import id_key, insert_events
from recpolicy.server.db.export import ExportOptions, LogPolicy, export
from recpolicy.server.db.feedback import FeedbackItem
from recpolicy.server.db.schema import user_ratings
from recpolicy.server.db.user_ratings import add_rating, read_ratings
from recpolicy.server.lifespan import DATABASE_URL, open_state
from recpolicy.server.live_models import CHALLENGER, CHAMPION
from recpolicy.server.online.learner import OnlineLearner
from recpolicy.server.rollout.background import compare_next
from recpolicy.server.settings import OnlineConfig
from recpolicy.server.users.state import fold

KEY = bearing(ADMIN_KEY)
TOML = """
[limits]
rate = 0
[jobs]
enabled = false
[exploration]
share = 0.0
[online]  # it moves the lists of all users
enabled = false
[users]
mode = "learn"
"""


class Learners:
    """Clients of a server process who ask for a list and rate its first item."""

    def __init__(self, server):
        self.server = server

    def recommend(self, user):
        status, answer = self.server.post("/v1/recommend", {"user": user, "k": 3})
        assert status == 200
        return answer

    def rate(self, user, rating):
        event_id = self.recommend(user)["event_id"]
        body = {"event_id": event_id, "type": "rating", "value": rating}
        assert self.server.post("/v1/feedback", body, **KEY)[1]["status"] == "accepted"


@pytest.mark.parametrize(("kind", "workers"), [("sqlite", 1), ("postgresql", 2)])
def test_kill_minus_9_and_a_restart_give_the_same_bits(kind, workers, tmp_path, new_engine):
    policy, url = write_tiny(tmp_path / "run"), new_url(kind, tmp_path)
    words = (policy, tmp_path / "state", "--workers", workers)
    server = ServerProcess(*words, settings=TOML, **{DATABASE_URL: url})
    try:
        clients = Learners(server)
        for turn, user in enumerate((4711, 3, 4711, 3, 4712, 4711)):
            clients.rate(user, float(1 + turn % 5))
            for _ in range(2 * workers):  # whoever answers has it
                counted = clients.recommend(user)["posterior"]["ratings"]
                assert counted == (1, 1, 2, 2, 1, 3)[turn]
        before = {user: shown(clients.recommend(user)) for user in (4711, 3, 4712, 4713)}
        children = subprocess.run(
            ["pgrep", "-P", str(server.process.pid)], capture_output=True, text=True, check=False
        ).stdout.split()
        for pid in (server.process.pid, *map(int, children)):
            os.kill(pid, signal.SIGKILL)
    finally:
        server.stop()
    again = ServerProcess(*words, settings=TOML, **{DATABASE_URL: url})
    try:
        assert {user: shown(Learners(again).recommend(user)) for user in before} == before
    finally:
        again.stop()
    engine = new_engine(url)
    for user in (4711, 3):
        seen = [None if vector is None else vector.tobytes() for vector in contexts(engine, user)]
        assert seen[-1] == seen[-2]  # of the last request before, and of the first one afterwards
        assert len(set(seen)) == 1 + len(stored_ratings(engine, user))


def test_feedback_on_an_event_that_waited_in_the_spool_counts(tmp_path):
    database = postgres()
    url = database.new_database()
    server = ServerProcess(write_tiny(tmp_path / "run"), tmp_path / "state", settings=TOML, **{DATABASE_URL: url})
    try:
        clients = Learners(server)
        clients.rate(4711, 5.0)
        known = clients.recommend(4711)
        database.stop()
        try:
            during = clients.recommend(4711)
            assert shown(during) == shown(known)  # the last posterior that the process knows
            assert clients.recommend(4712)["posterior"] == {"start": "prior", "ratings": 0}
            body = {"event_id": during["event_id"], "type": "rating", "value": 1.0}
            assert server.post("/v1/feedback", body, **KEY)[0] == 503
        finally:
            database.start()
        wait_until(lambda: server.get("/readyz")["store"] == "up", "the recovery")
        assert server.post("/v1/feedback", body, **KEY)[1]["status"] == "accepted"
        assert clients.recommend(4711)["posterior"]["ratings"] == 2
    finally:
        server.stop()


def test_a_database_file_that_was_replaced_is_the_one_that_counts(tmp_path):
    server = ServerProcess(write_tiny(tmp_path / "run"), tmp_path / "state", settings=TOML)
    try:
        clients, file = Learners(server), tmp_path / "state" / "server.db"
        clients.recommend(4711)
        copy = tmp_path / "copy.db"
        copy_sqlite(file, copy)
        clients.rate(4711, 5.0)
        assert clients.recommend(4711)["posterior"]["ratings"] == 1
        copy.rename(file)
        wait_until(lambda: clients.recommend(4711)["posterior"]["ratings"] == 0, "the ratings of the other file")
    finally:
        server.stop()


def test_a_list_of_a_replaced_database_is_not_served(tmp_path, new_engine):
    """The other file has as many ratings under the same numbers, with other values."""
    server = ServerProcess(write_tiny(tmp_path / "run"), tmp_path / "state", settings=TOML)
    try:
        clients, file = Learners(server), tmp_path / "state" / "server.db"
        clients.recommend(4711)
        copy = tmp_path / "copy.db"
        copy_sqlite(file, copy)
        clients.rate(4711, 5.0)
        ((item, _),) = stored_ratings(new_engine(sqlite_url(file)), 4711)
        before = clients.recommend(4711)
        assert shown(clients.recommend(4711)) == shown(before), "from the cache"
        engine = new_engine(sqlite_url(copy))
        with transaction(engine) as connection:
            add_rating(connection, id_key(4711), item, 1.0, 0)
        assert stored_ratings(engine, 4711) == [(item, 1.0)]
        engine.dispose()
        copy.rename(file)
        wait_until(lambda: shown(clients.recommend(4711)) != shown(before), "the list by the ratings of the other file")
        assert clients.recommend(4711)["posterior"] == {"start": "prior", "ratings": 1}
    finally:
        server.stop()


def erase(app, user):
    return ask(app, "POST", "/v1/admin/users/erase", {"user": user}, headers=operator(app))


def operator(app):
    return bearing(key_for(app, "operator"))


def test_an_erased_user_starts_at_the_prior(tmp_path, monkeypatch):
    monkeypatch.setattr(erasure, "REPLAY_SECONDS", 0.0)
    with learning(tmp_path) as app:
        client, state = Client(app), app.state.server
        new = client.recommend(4712)
        client.rate(4711, 5.0, 1.0)
        client.rate(3, 1.0)
        for user in (3, 4711):
            client.recommend(user)
        assert len(state.users.reader._cache) == 2
        erased = erase(app, 4711).json()
        assert (erased["events"], erased["user_ratings"]) == (3, 2)
        assert len(state.users.reader._cache) == 1
        assert stored_ratings(state.store.engine, 4711) == []
        assert len(stored_ratings(state.store.engine, 3)) == 1
        assert shown(client.recommend(4711)) == shown(new)
        assert client.recommend(3)["posterior"]["ratings"] == 1


def test_a_user_erased_in_the_middle_of_a_request_leaves_nothing(tmp_path, monkeypatch):
    """The request has read the ratings before, and stores its event after the first deletion."""
    with learning(tmp_path) as app:
        client, state = Client(app), app.state.server
        client.rate(4711, 5.0, 1.0)
        late = event(user=4711, items=(101,), context=np.ones(3, np.float32).tobytes())

        def store_meanwhile(_):
            with transaction(state.store.engine) as connection:
                insert_events(connection, [late])

        monkeypatch.setattr(erasure.time, "sleep", store_meanwhile)
        assert erase(app, 4711).json()["events"] == 3
        assert contexts(state.store.engine, 4711) == []
        told = client.send(late.id, 101, 4.0)
        assert (told.status_code, told.json()["error"]["code"]) == (404, "unknown_event")
        assert stored_ratings(state.store.engine, 4711) == []


def test_each_version_folds_the_same_ratings_over_its_own_embeddings(tmp_path):
    registry = tiny_registry(tmp_path)
    with learning(tmp_path, source=tmp_path / "registry") as app:
        client, state = Client(app), app.state.server
        users = range(4700, 4760)
        rated = {user: client.rate(user, 5.0, 1.0) for user in users}
        registry.set_challenger(2, 0.5, ungated=True)
        state.models.refresh()
        variants = {}
        for user in users:
            answer = client.recommend(user)
            assert answer["posterior"]["ratings"] == 2
            variant = answer["policy"]["variant"]
            variants[variant] = variants.get(variant, 0) + 1
            scorer = load_scorer(registry.resolve(1 if variant == CHAMPION else 2))
            expected, _ = fold_in_user(scorer.embeddings, scorer.item_rows(rated[user]), [5.0, 1.0])
            np.testing.assert_allclose(contexts(state.store.engine, user)[-1], expected, rtol=1e-4, atol=1e-6)
        assert min(variants[CHAMPION], variants[CHALLENGER]) > 5


def test_a_shadow_and_a_failing_challenger_use_the_same_ratings(tmp_path, monkeypatch):
    registry = tiny_registry(tmp_path)
    with learning(tmp_path, source=tmp_path / "registry") as app:
        client, state = Client(app), app.state.server
        client.rate(4711, 5.0, 1.0)
        registry.set_challenger(2, 1.0, ungated=True)
        state.models.refresh()
        monkeypatch.setattr(type(state.models.live.challenger.scorer), "score_batches", fail_for(2, state))
        answer = client.recommend(4711)
        assert answer["policy"]["variant"] == CHAMPION
        assert answer["posterior"]["ratings"] == 2
        monkeypatch.undo()
        live = replace(state.models.live, shadow=True, rollout=None)
        monkeypatch.setattr(state.models, "live", live)
        object.__setattr__(state.settings.rollout, "shadow_sample", 1.0)
        client.recommend(4711)
        (pair,) = list(state.rollout_counters.shadow._waiting.queue)
        assert len(pair.users.states) == 2
        assert compare_next(state)
        assert not state.metrics.failed.labels("shadow")._value.get()


def fail_for(number, state):
    challenger = state.models.live.challenger.scorer
    before = type(challenger).score_batches

    def score_batches(self, *words, **more):
        if self is challenger:
            raise RuntimeError("broken")
        return before(self, *words, **more)

    return score_batches


def test_users_and_items_learn_side_by_side(tmp_path):
    """The champion learns online from all users while one user's posterior moves."""
    with learning(tmp_path) as app:
        client, state = Client(app), app.state.server
        learner = OnlineLearner(state.store.engine, state.models, tmp_path / "state", OnlineConfig(grace_seconds=0.0))
        learner.step()
        items = client.rate(4711, 5.0, 1.0)
        digest = state.models.live.champion.policy_digest
        assert learner.step() == 2
        assert state.models.live.champion.policy_digest != digest
        answer = client.recommend(4711)
        assert answer["posterior"]["ratings"] == 2
        scorer = load_scorer(tmp_path / "run")
        expected, _ = fold_in_user(scorer.embeddings, scorer.item_rows(items), [5.0, 1.0])
        np.testing.assert_allclose(contexts(state.store.engine, 4711)[-1], expected, rtol=1e-4, atol=1e-6)


def test_a_restored_server_has_the_same_posteriors(tmp_path):
    with learning(tmp_path) as app:
        client = Client(app)
        client.rate(4711, 5.0, 1.0)
        client.rate(3, 2.0)
        create_backup(tmp_path / "state", tmp_path / "backup")
        before = [shown(client.recommend(user)) for user in (4711, 3)]
    restore_backup(tmp_path / "backup", tmp_path / "elsewhere")
    with open_state(tmp_path / "run", tmp_path / "elsewhere", settings_of()) as state:
        client = Client(make_app(state))
        assert [shown(client.recommend(user)) for user in (4711, 3)] == before


def test_an_export_has_the_vectors_that_the_policy_saw(tmp_path):
    registry = Registry(tmp_path / "registry")
    registry.register(write_tiny(tmp_path / "run"), gate={"verdict": "pass"})
    registry.promote(1)
    with learning(tmp_path, source=tmp_path / "registry") as app:
        client, engine = Client(app), app.state.server.store.engine
        for user in (4711, 3):
            client.rate(user, 5.0, 1.0)
            client.recommend(user)
        done = export(engine, LogPolicy(registry), ExportOptions(tmp_path / "log"))
        assert (done.new_rounds, done.new_rewards, done.left_out) == (18, 4, {})
        rows = [row for path in log_parts(tmp_path / "log", EVENTS) for row in pq.read_table(path).to_pylist()]
        for user in (4711, 3):
            logged = [row["context"] for row in rows if row["user_id"] == user and row["event_id"].endswith(":0")]
            for told, seen in zip(logged, contexts(engine, user), strict=True):
                assert (told is None) == (seen is None)
                assert seen is None or np.array_equal(np.array(told, np.float32), seen)


def test_requests_at_once_see_whole_states(tmp_path):
    """Many requests and feedback at once: each answer has a state that the store had."""
    with learning(tmp_path) as app:
        client, state = Client(app), app.state.server
        events = [client.recommend(4711, k=11, exclude_rated=False) for _ in range(3)]

        async def both():
            writer, live = state.store.writer, state.models.live
            counts = []
            for event in events:
                items = [FeedbackItem(event["event_id"], item["item_id"], "rating", 3.0) for item in event["items"]]
                results = await asyncio.gather(
                    *[writer.feedback([item], event_time) for item, event_time in zip(items, [0] * 11, strict=True)],
                    *[state.users.read(live, [4711]) for _ in range(11)],
                )
                counts += [users.find(live.champion.trained, 4711) for users in results[11:]]
            return counts, await state.users.read(live, [4711])

        seen, last = asyncio.run(both())
        final = last.find(state.models.live.champion.trained, 4711)
        assert final.state.ratings == 11
        assert final.state.stamp.rows == 33
        vectors = state.models.live.champion.trained.user_vectors
        with state.store.engine.connect() as connection:
            rows = read_ratings(connection, id_key(4711), 0)
        states = {count: fold(vectors, 4711, rows[:count]) for count in range(1, len(rows) + 1)}
        for one in seen:
            assert 0 <= (one.state.ratings if one.state else 0) <= 11
            assert one.state is None or one.state == states[one.state.stamp.rows]


def test_a_store_of_before_begins_without_ratings(tmp_path, new_engine):
    """Its server migrates it, and users begin at the prior, whatever they rated."""
    (tmp_path / "state").mkdir()
    url = sqlite_url(tmp_path / "state" / "server.db")
    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    engine = new_engine(url)
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0009")
        connection.commit()
    old = {name: value for name, value in event(user=4711, items=(101,))._asdict().items()
           if name not in ("session_id", "step", "weights")}  # fmt: skip
    with transaction(engine) as connection:
        connection.execute(text(f"INSERT INTO events ({', '.join(old)}) VALUES (:{', :'.join(old)})"), old)
    migrate(engine)
    with learning(tmp_path) as app:
        client = Client(app)
        assert client.recommend(4711)["posterior"] == {"start": "prior", "ratings": 0}
        client.rate(4711, 5.0)
        assert client.recommend(4711)["posterior"]["ratings"] == 1
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM user_ratings")) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_old_ratings_go_with_old_events(kind, tmp_path, monkeypatch):
    monkeypatch.setenv(DATABASE_URL, new_url(kind, tmp_path))
    with learning(tmp_path) as app:
        client, engine = Client(app), app.state.server.store.engine
        client.rate(4711, 5.0, 1.0, 3.0)
        with transaction(engine) as connection:
            first = stored_ratings(engine, 4711)[:2]
            connection.execute(user_ratings.update().where(user_ratings.c.seq <= 2).values(time=1_000))
        assert delete_before(engine, 2_000).user_ratings == len(first)
        assert client.recommend(4711)["posterior"]["ratings"] == 1
