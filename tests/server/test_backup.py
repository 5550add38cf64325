"""Backups of a state that is in use, and what a server has after a restore elsewhere."""

import asyncio
import json
import os
import shutil
import sqlite3
import stat
import threading
from contextlib import contextmanager

import pytest
from api_keys import bearing, key_for
from client_helpers import ask
from databases import new_url
from event_factory import event
from sqlalchemy import select, text
from tiny_policies import write_tiny
from unlimited import UNLIMITED
from waiting import PATIENCE, wait_until

from recpolicy.core.errors import ArtifactError, ConfigError, DataError, StoreError
from recpolicy.core.files import content_digest, write_json
from recpolicy.server.app import make_app
from recpolicy.server.backup import create, restore
from recpolicy.server.backup.create import MANIFEST, create_backup
from recpolicy.server.backup.restore import read_backup, restore_backup
from recpolicy.server.db.engine import make_engine, transaction
from recpolicy.server.db.events import insert_events
from recpolicy.server.db.schema import events
from recpolicy.server.db.spool import Spool
from recpolicy.server.lifespan import DATABASE_URL, open_state
from recpolicy.server.online.learner import OnlineLearner
from recpolicy.server.settings import OnlineConfig
from recpolicy.server.state_lock import LOCK, MARKER


@pytest.fixture
def run(tmp_path):
    return write_tiny(tmp_path / "run")


@contextmanager
def serving(source, folder):
    with open_state(source, folder, UNLIMITED) as state:
        yield make_app(state)


def show(app, user=3):
    return ask(app, "POST", "/v1/recommend", {"user": user, "k": 2}).json()["event_id"]


def rate(app, event_id, value=5.0, headers=None):
    return ask(app, "POST", "/v1/feedback", {"event_id": event_id, "type": "rating", "value": value}, headers=headers)


def stored(state):
    with state.store.engine.connect() as connection:
        return set(connection.scalars(select(events.c.id)))


def used(run, folder):
    """A state with an event, feedback and a step of online learning."""
    with serving(run, folder) as app:
        state = app.state.server
        learner = OnlineLearner(state.store.engine, state.models, folder, OnlineConfig(grace_seconds=0))
        learner.step()
        assert rate(app, show(app), headers=bearing(key_for(app, "client"))).is_success
        assert learner.step() == 1
        return state.models.live.champion.policy_digest


def test_what_was_acknowledged_before_a_backup_under_load_is_in_the_restored_server(run, tmp_path):
    acknowledged, stop, enough = [], threading.Event(), threading.Event()
    with serving(run, tmp_path / "state") as app:
        state = app.state.server

        async def load():
            while not stop.is_set():
                event_ids = [event(user=len(acknowledged)) for _ in range(3)]
                await state.store.writer.events(event_ids)
                acknowledged.extend(one.id for one in event_ids)
                if len(acknowledged) > 30:
                    enough.set()

        thread = threading.Thread(target=lambda: asyncio.run(load()))
        thread.start()
        try:
            assert enough.wait(PATIENCE)
            rated = show(app)
            assert rate(app, rated).is_success
            before = [*acknowledged, rated]
            create_backup(tmp_path / "state", tmp_path / "backup")
            at_the_end = len(acknowledged)
        finally:
            stop.set()
            thread.join()
    assert at_the_end > len(before)  # it was written to during the backup
    restore_backup(tmp_path / "backup", tmp_path / "other")
    with serving(run, tmp_path / "other") as app:
        assert stored(app.state.server) >= set(before)
        assert rate(app, rated).json()["status"] == "duplicate"
        assert rate(app, show(app)).is_success
        with app.state.server.store.engine.connect() as connection:
            assert connection.scalar(text("PRAGMA journal_mode")) == "wal"


def test_learning_registry_and_events_that_wait_come_back(run, tmp_path):
    digest = used(run, tmp_path / "state")
    waiting = event()
    spool = Spool(tmp_path / "state" / "spool")
    spool.append([waiting])
    create_backup(tmp_path / "state", tmp_path / "backup")
    spool.close()
    restore_backup(tmp_path / "backup", tmp_path / "other")
    with serving(run, tmp_path / "other") as app:
        state = app.state.server
        assert state.models.live.champion.policy_digest == digest
        assert [version.number for version in state.models.registry.versions()] == [1]
        assert ask(app, "POST", "/v1/recommend", {"user": 3}).json()["policy"]["version"] == 1
        wait_until(lambda: waiting.id in stored(state), "the replay of the spool")


def test_a_state_folder_that_is_the_registry_comes_back_as_one(run, tmp_path):
    used(run, tmp_path / "first")
    registry = shutil.copytree(tmp_path / "first" / "registry", tmp_path / "registry")
    with serving(registry, None) as app:
        shown = show(app)
    create_backup(registry, tmp_path / "backup")
    restore_backup(tmp_path / "backup", tmp_path / "other")
    with serving(tmp_path / "other", None) as app:
        assert stored(app.state.server) == {shown}


def test_a_registry_elsewhere_is_named_and_comes_back_inside(run, tmp_path):
    used(run, tmp_path / "first")
    registry = shutil.copytree(tmp_path / "first" / "registry", tmp_path / "registry")
    with serving(registry, tmp_path / "state") as app:
        shown = show(app)
    with pytest.raises(DataError, match="name the server's registry with --registry"):
        create_backup(tmp_path / "state", tmp_path / "backup")
    create_backup(tmp_path / "state", tmp_path / "backup", registry)
    restore_backup(tmp_path / "backup", tmp_path / "other")
    with serving(tmp_path / "other" / "registry", tmp_path / "other") as app:
        assert stored(app.state.server) == {shown}


def test_only_the_owner_reads_a_backup_and_a_restored_state(run, tmp_path):
    used(run, tmp_path / "state")
    mask = os.umask(0)
    try:
        create_backup(tmp_path / "state", tmp_path / "backup")
        restore_backup(tmp_path / "backup", tmp_path / "other")
    finally:
        os.umask(mask)
    for folder in (tmp_path / "backup", tmp_path / "other"):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for path in folder.rglob("*"):
            if path.is_file():
                assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_backup_that_fails_leaves_nothing(run, tmp_path, monkeypatch):
    used(run, tmp_path / "state")

    def fail(*_):
        raise StoreError("full")

    monkeypatch.setattr(create, "copy_sqlite", fail)
    with pytest.raises(StoreError):
        create_backup(tmp_path / "state", tmp_path / "backup")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "state"]


def test_a_backup_is_not_written_over_anything(run, tmp_path):
    used(run, tmp_path / "state")
    (tmp_path / "backup").mkdir()
    with pytest.raises(ConfigError, match="already exists"):
        create_backup(tmp_path / "state", tmp_path / "backup")
    with pytest.raises(ConfigError, match="lies in the state folder"):
        create_backup(tmp_path / "state", tmp_path / "state" / "backup")
    with pytest.raises(DataError, match="not a registry"):
        create_backup(tmp_path / "nothing", tmp_path / "new")


def test_a_checkpoint_that_is_replaced_meanwhile_is_copied_again(run, tmp_path, monkeypatch):
    digest = used(run, tmp_path / "state")
    real, gone = create.copy_file, []

    def copy(source, target):
        if source.suffix == ".arms" and not gone:
            gone.append(source)
            raise FileNotFoundError
        real(source, target)

    monkeypatch.setattr(create, "copy_file", copy)
    create_backup(tmp_path / "state", tmp_path / "backup")
    restore_backup(tmp_path / "backup", tmp_path / "other")
    with serving(run, tmp_path / "other") as app:
        assert gone
        assert app.state.server.models.live.champion.policy_digest == digest


@pytest.fixture
def backup(run, tmp_path):
    used(run, tmp_path / "state")
    return create_backup(tmp_path / "state", tmp_path / "backup").folder


def test_nothing_is_replaced_without_force(backup, run, tmp_path):
    with pytest.raises(ConfigError, match="not empty; --force replaces"):
        restore_backup(backup, tmp_path / "state")
    log = tmp_path / "state" / "server.db-wal"
    with serving(run, tmp_path / "state") as app:
        later = show(app)
        data = log.read_bytes()
    log.write_bytes(data)  # as a killed server leaves it
    restore_backup(backup, tmp_path / "state", force=True)
    with serving(run, tmp_path / "state") as app:
        assert later not in stored(app.state.server)
        assert len(stored(app.state.server)) == 1


def test_a_state_in_use_is_not_restored_and_none_is_served_while_it_is_restored(backup, run, tmp_path, monkeypatch):
    with serving(run, tmp_path / "state"), pytest.raises(StoreError, match="a server, or another restore, uses"):
        restore_backup(backup, tmp_path / "state", force=True)
    refused = []
    real = restore._replace

    def serve_meanwhile(*words):
        with pytest.raises(StoreError, match="a restore is running"), serving(run, tmp_path / "state"):
            pass
        refused.append(1)
        real(*words)

    monkeypatch.setattr(restore, "_replace", serve_meanwhile)
    restore_backup(backup, tmp_path / "state", force=True)
    assert refused
    with serving(run, tmp_path / "state") as one, serving(run, tmp_path / "state") as other:  # servers share the lock
        assert stored(one.state.server) == stored(other.state.server)


def test_a_restore_that_was_killed_half_way_is_not_served_but_done_again(backup, run, tmp_path, monkeypatch):
    def die(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(restore, "_replace", die)
        with pytest.raises(KeyboardInterrupt):
            restore_backup(backup, tmp_path / "other")
    with pytest.raises(StoreError, match="a restore did not finish"), serving(run, tmp_path / "other"):
        pass
    restore_backup(backup, tmp_path / "other", force=True)
    with serving(run, tmp_path / "other") as app:
        assert len(stored(app.state.server)) == 1
    assert not (tmp_path / "other" / MARKER).exists()


@pytest.mark.parametrize("damage", ["changed", "gone", "manifest", "no manifest", "outside", "database"])
def test_a_damaged_backup_is_refused_and_changes_nothing(backup, tmp_path, damage):
    path, body = backup / MANIFEST, json.loads((backup / MANIFEST).read_text())
    if damage == "changed":
        (backup / "server.db").write_bytes((backup / "server.db").read_bytes()[:-1] + b"x")
    elif damage == "gone":
        (backup / "registry" / "aliases.json").unlink()
    elif damage == "manifest":
        write_json(path, body | {"events": 10})
    elif damage == "no manifest":
        path.unlink()
    elif damage == "outside":
        body = {name: value for name, value in body.items() if name != "digest"}
        body["files"]["../other"] = "0" * 64
        write_json(path, body | {"digest": content_digest(body)})
    else:
        data = bytearray((backup / "server.db").read_bytes())
        data[4096:] = os.urandom(len(data) - 4096)
        (backup / "server.db").write_bytes(data)
        body = {name: value for name, value in body.items() if name != "digest"}
        body["files"]["server.db"] = create.file_digest(backup / "server.db")
        write_json(path, body | {"digest": content_digest(body)})
    with pytest.raises((ArtifactError, StoreError)):
        restore_backup(backup, tmp_path / "other")
    assert not (tmp_path / "other").exists() or [p.name for p in (tmp_path / "other").iterdir()] == [LOCK]


def test_a_database_of_a_newer_version_is_refused_and_an_older_one_is_updated(run, tmp_path):
    used(run, tmp_path / "state")
    with sqlite3.connect(tmp_path / "state" / "server.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    backup = create_backup(tmp_path / "state", tmp_path / "backup")
    with pytest.raises(DataError, match="the database has schema '9999', but this recpolicy knows 0001 to"):
        restore_backup(backup.folder, tmp_path / "other")
    assert read_backup(backup.folder).schema == "9999"


def test_kinds_of_databases_are_not_mixed_up(backup, tmp_path):
    with pytest.raises(ConfigError, match="has a sqlite database; unset RECPOLICY_DATABASE_URL"):
        restore_backup(backup, tmp_path / "other", "postgresql://h/d")
    with pytest.raises(ConfigError, match=r"unset it to restore server\.db"):
        restore_backup(backup, tmp_path / "other", "sqlite:///x.db")


@pytest.mark.skipif(shutil.which("pg_dump") is None, reason="pg_dump IS NOT TESTED: it is not installed")
def test_postgres_is_dumped_and_restored_by_its_own_programs(run, tmp_path, monkeypatch):
    url, other = new_url("postgresql", tmp_path), new_url("postgresql", tmp_path)
    monkeypatch.setenv(DATABASE_URL, url)
    with serving(run, tmp_path / "state") as app:
        shown = show(app)
    created = create_backup(tmp_path / "state", tmp_path / "backup", database_url=url)
    assert (created.database, created.events) == ("postgresql", 1)
    with pytest.raises(ConfigError, match="already has tables of a server; --force replaces them"):
        restore_backup(tmp_path / "backup", tmp_path / "other", url)
    shutil.rmtree(tmp_path / "other")
    restore_backup(tmp_path / "backup", tmp_path / "other", other)
    monkeypatch.setenv(DATABASE_URL, other)
    with serving(run, tmp_path / "other") as app:
        assert stored(app.state.server) == {shown}
        show(app)
    restore_backup(tmp_path / "backup", tmp_path / "other", other, force=True)
    engine = make_engine(other)
    with engine.connect() as connection:
        assert connection.scalars(select(events.c.id)).all() == [shown]
    with transaction(engine) as connection:
        insert_events(connection, [event()])  # the sequence continues
    engine.dispose()


def test_a_client_program_that_is_missing_or_fails_is_one_line_without_the_password(run, tmp_path, monkeypatch):
    used(run, tmp_path / "state")
    url = "postgresql://user:secret@127.0.0.1:9/d"
    with monkeypatch.context() as patch:
        patch.setenv("PATH", "")
        with pytest.raises(ConfigError, match="pg_dump is not installed"):
            create_backup(tmp_path / "state", tmp_path / "backup", database_url=url)
    if shutil.which("pg_dump"):
        with pytest.raises(StoreError, match="pg_dump failed") as failed:
            create_backup(tmp_path / "state", tmp_path / "backup", database_url=url)
        assert "secret" not in str(failed.value)
    assert not (tmp_path / "backup").exists()
