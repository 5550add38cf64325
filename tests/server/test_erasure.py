"""Erasure of a user: no byte of the user is left in database, spool and export, and nothing of others is missing."""

import fcntl
import json
import shutil
from contextlib import closing, contextmanager

import pyarrow.parquet as pq
import pytest
from api_keys import bearing, key_for
from client_helpers import ask, refusal
from databases import new_url
from event_factory import event
from sqlalchemy import insert, select, text
from sqlalchemy.exc import OperationalError
from tiny_policies import tiny_artifact, write_tiny
from unlimited import UNLIMITED

from recpolicy.core.errors import DataError, StoreError
from recpolicy.data.log_erasure import ErasedLog, erase_from_log
from recpolicy.data.log_parts import EVENTS, REWARDS, log_parts
from recpolicy.inference.artifact import write_arrays, write_manifest
from recpolicy.registry.model_registry import Registry
from recpolicy.server import erasure
from recpolicy.server.app import make_app
from recpolicy.server.db import export as export_module
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import insert_events
from recpolicy.server.db.export import ExportOptions, LogPolicy, export
from recpolicy.server.db.feedback import FeedbackItem, RewardRules, apply_feedback
from recpolicy.server.db.schema import events, jobs
from recpolicy.server.db.spool import Spool
from recpolicy.server.db.spool_erasure import erase_from_spool
from recpolicy.server.lifespan import DATABASE_URL, open_state

RULES = RewardRules((1.0, 5.0), window_ms=10**9)
MINE = "mallory"


def seen(user, **fields):
    """An event of the tiny policy."""
    return event(user=user, items=(104, 101), propensities=(0.5, 0.25), **fields)


def store(engine, *stored, rated=()):
    with transaction(engine) as connection:
        insert_events(connection, stored)
        apply_feedback(connection, [FeedbackItem(one.id, 104, "rating", 4.0) for one in rated], 1_000_100, RULES)


def stored_ids(engine):
    with engine.connect() as connection:
        return set(connection.scalars(select(events.c.id)))


def spooled(folder):
    """The events that a replay passes on."""
    found = []
    with closing(Spool(folder)) as spool:
        spool.replay(lambda events: found.extend(events) or [])
    return found


def test_a_user_goes_from_spool_files_that_their_process_still_appends_to(tmp_path):
    mine, others = [event(user=MINE), event(user=MINE)], [event(user=5), event(user="mallory2"), event(user=6)]
    with closing(Spool(tmp_path)) as spool:
        spool.append([mine[0], others[0], mine[1], others[1]])
        assert erase_from_spool(tmp_path, json.dumps(MINE)) == 2
        spool.append([others[2]])
        assert erase_from_spool(tmp_path, json.dumps(MINE)) == 0
        assert not any(f'"{MINE}\\"'.encode() in path.read_bytes() for path in tmp_path.iterdir())
        assert not any(b'"\\"mallory\\""' in path.read_bytes() for path in tmp_path.iterdir())
    assert spooled(tmp_path) == others
    assert not list(tmp_path.glob("*.rejected.jsonl"))  # the blank lines are no damage


def test_rejected_rows_and_damaged_lines_of_the_user_go_too(tmp_path):
    line = json.dumps(event(user=7)._asdict())
    other = json.dumps(event(user=77)._asdict())
    rows = [{"time": 1, "reason": "x", "row": row} for row in (line, other)]
    path = tmp_path / "1-a.rejected.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows) + line[:200] + "\n" + other[:200])
    assert erase_from_spool(tmp_path, "7") == 2
    left = path.read_text().split("\n")
    assert [text.strip() for text in left] == ["", json.dumps(rows[1]), "", other[:200]]
    assert erase_from_spool(tmp_path / "nothing", "7") == 0


@pytest.fixture
def registry(tmp_path):
    registry = Registry(tmp_path / "registry")
    registry.register(write_tiny(tmp_path / "tiny"), gate={"verdict": "pass"})
    registry.promote(1)
    return registry


def rows(folder, name=EVENTS):
    return [row for path in log_parts(folder, name) for row in pq.read_table(path).to_pylist()]


def test_a_user_goes_from_all_parts_of_an_export_which_goes_on(engine, tmp_path, registry, monkeypatch):
    monkeypatch.setattr(export_module, "EVENTS_IN_PART", 2)
    policy, log = LogPolicy(registry), tmp_path / "log"
    shown = [seen(user) for user in (3, 5, 3, 5, 6)]
    store(engine, *shown, rated=shown)
    export(engine, policy, ExportOptions(log))
    before, rewards_before = rows(log), rows(log, REWARDS)
    files = {path: path.read_bytes() for path in log.glob("*.parquet")}
    assert len(log_parts(log, EVENTS)) > 2
    assert erase_from_log(log, 3) == ErasedLog(rounds=4, rewards=2, files=4)
    assert rows(log) == [row for row in before if row["user_id"] != 3]
    mine = {row["event_id"] for row in before if row["user_id"] == 3}
    assert rows(log, REWARDS) == [row for row in rewards_before if row["event_id"] not in mine]
    assert sum(path.read_bytes() != data for path, data in files.items()) == 4
    for path, data in files.items():
        (tmp_path / "old").write_bytes(data)
        old, new = pq.read_metadata(tmp_path / "old").metadata, pq.read_metadata(path).metadata
        assert {name: value for name, value in new.items() if name != b"ARROW:schema"} == {
            name: value for name, value in old.items() if name != b"ARROW:schema"
        }
    for other in ("3", 33, 3):
        assert erase_from_log(log, other) == ErasedLog(0, 0, 0)
    new = seen(6)
    store(engine, new, rated=[new])
    done = export(engine, policy, ExportOptions(log))
    assert (done.new_rounds, done.new_rewards) == (2, 1)
    assert not [row for row in rows(log) if row["user_id"] == 3]


def test_text_ids_are_erased_as_text(engine, tmp_path):
    artifact, folder = tiny_artifact(text=True), tmp_path / "text"
    folder.mkdir()
    write_arrays(artifact, folder)
    write_manifest(artifact, folder)
    registry = Registry(tmp_path / "registry")
    registry.register(folder, gate={"verdict": "pass"})
    registry.promote(1)
    shown = [event(user=user, items=('"104"',), propensities=(0.5,)) for user in ("u,1", "u,2")]
    store(engine, *shown)
    export(engine, LogPolicy(registry), ExportOptions(tmp_path / "log"))
    assert erase_from_log(tmp_path / "log", "u,1") == ErasedLog(1, 0, 1)
    assert [row["user_id"] for row in rows(tmp_path / "log")] == ["u,2"]


def test_a_folder_without_an_export_is_refused(tmp_path):
    with pytest.raises(
        DataError, match=r"no events\.parquet and no rounds\.parquet; expected the folder of recpolicy log export"
    ):
        erase_from_log(tmp_path, 3)
    (tmp_path / EVENTS).write_bytes(b"PAR1 and no more")
    with pytest.raises(DataError, match="a file cannot be rewritten"):
        erase_from_log(tmp_path, 3)


@contextmanager
def serving(tmp_path):
    folder = tmp_path / "run"
    with open_state(folder if folder.exists() else write_tiny(folder), tmp_path / "state", UNLIMITED) as state:
        yield make_app(state), state


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_the_route_erases_counts_and_leaves_an_audit_line_without_the_user(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(erasure, "REPLAY_SECONDS", 0.0)
    monkeypatch.setenv(DATABASE_URL, new_url(kind, tmp_path))
    mine, other, typed = [seen(3), seen(3)], seen(5), seen("3")
    with serving(tmp_path) as (app, state):
        engine = state.store.engine
        store(engine, *mine, other, typed, rated=[mine[0], other])
        (tmp_path / "state" / "jobs" / "retrain").mkdir(parents=True)  # as a killed training leaves it
        held = tmp_path / "state" / "spool" / "4711-a.jsonl"
        held.write_text(json.dumps(seen(3)._asdict()))  # an incomplete line
        headers = bearing(key_for(app, "operator"))
        with held.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # as its process does: no replay takes it
            answer = ask(app, "POST", "/v1/admin/users/erase", {"user": 3}, headers=headers).json()
        assert answer == {
            "user": 3, "events": 2, "feedback": 1, "rewards": 1, "ranks": 0, "signals": 0, "actions": 0,
            "profiles": 0, "user_ratings": 0, "spooled": 1, "other_id_events": 1,
            "job_running": False,
        }  # fmt: skip
        assert stored_ids(engine) == {other.id, typed.id}
        assert not (tmp_path / "state" / "jobs" / "retrain").exists()
        again = ask(app, "POST", "/v1/admin/users/erase", {"user": 3}, headers=headers).json()
        assert (again["events"], again["spooled"]) == (0, 0)
        lines = ask(app, "GET", "/v1/admin/audit", headers=headers).json()["audit"]
        assert lines[1]["action"] == "erase_user"
        assert lines[1]["detail"] == {
            "events": 2, "feedback": 1, "rewards": 1, "ranks": 0, "signals": 0, "actions": 0, "profiles": 0,
            "user_ratings": 0, "spooled": 1,
        }  # fmt: skip
        as_text = ask(app, "POST", "/v1/admin/users/erase", {"user": "5"}, headers=headers).json()
        assert (as_text["user"], as_text["events"], as_text["other_id_events"]) == ("5", 0, 1)
        body = {"user": "5", "as_policy": True}
        assert ask(app, "POST", "/v1/admin/users/erase", body, headers=headers).json()["user"] == 5
        assert stored_ids(engine) == {typed.id}
        refusal(ask(app, "POST", "/v1/admin/users/erase", {"user": True}, headers=headers), 422, "invalid_request")


def test_a_running_job_is_told(tmp_path):
    row = {"name": "retrain", "status": "running", "executed_at": 1, "heartbeat": 1, "worker": "w", "metadata": "{}"}
    with serving(tmp_path) as (_, state):
        (tmp_path / "state" / "jobs" / "retrain").mkdir(parents=True)
        with transaction(state.store.engine) as connection:
            connection.execute(insert(jobs), [row])
        assert erasure.erase_user(state, 3, "me").job_running
        assert (tmp_path / "state" / "jobs" / "retrain").exists()


def test_a_full_disk_leaves_the_rows_deleted_and_says_what_to_do(tmp_path, monkeypatch):
    def fail(engine):
        raise OperationalError("VACUUM", {}, Exception("database or disk is full"))

    with serving(tmp_path) as (_, state):
        store(state.store.engine, seen(3), seen(4))
        with monkeypatch.context() as patch:
            patch.setattr(erasure, "rewrite_file", fail)
            with pytest.raises(StoreError, match=r"disk is full\).*Erase the user again"):
                erasure.erase_user(state, 3, "me")
        assert len(stored_ids(state.store.engine)) == 1
        assert erasure.erase_user(state, 3, "me").events == 0


def test_the_spool_is_erased_while_the_database_is_down(tmp_path):
    with serving(tmp_path) as (_, state):
        spool = tmp_path / "state" / "spool" / "4711-a.jsonl"
        with transaction(state.store.engine) as connection:
            connection.execute(text("ALTER TABLE events RENAME TO elsewhere"))
        spool.write_text(json.dumps(seen(3)._asdict()))
        with pytest.raises(StoreError, match="does not answer; 1 spooled events are erased"):
            erasure.erase_user(state, 3, "me")
        assert spool.read_text().strip() == ""
        with transaction(state.store.engine) as connection:
            connection.execute(text("ALTER TABLE elsewhere RENAME TO events"))


def test_events_that_a_replay_had_read_before_go_too(tmp_path, monkeypatch):
    late = seen(3)
    with serving(tmp_path) as (_, state):
        (tmp_path / "state" / "spool" / "4711-a.jsonl").write_text(json.dumps(late._asdict()))

        def store_meanwhile(_):
            store(state.store.engine, late)

        monkeypatch.setattr(erasure.time, "sleep", store_meanwhile)
        erased = erasure.erase_user(state, 3, "me")
        assert (erased.spooled, erased.events) == (1, 1)
        assert stored_ids(state.store.engine) == set()


def test_an_export_that_is_moved_away_stays_readable(engine, tmp_path, registry):
    """Erasing all users leaves an empty log, not a broken one."""
    store(engine, seen(3))
    export(engine, LogPolicy(registry), ExportOptions(tmp_path / "log"))
    erase_from_log(tmp_path / "log", 3)
    shutil.move(tmp_path / "log", tmp_path / "moved")
    assert rows(tmp_path / "moved") == []
    assert export(engine, LogPolicy(registry), ExportOptions(tmp_path / "moved")).new_rounds == 0
