"""`recpolicy log export`: what it says, and the lines with which it refuses."""

import json

import pyarrow.parquet as pq
import pytest
from command_line import recpolicy, refused
from tiny_policies import write_tiny
from tiny_session_policies import write_tiny_sessions

from recpolicy.registry.model_registry import Registry
from recpolicy.server.db.engine import open_store, sqlite_url, transaction
from recpolicy.server.db.events import Event, insert_events, new_event_id
from recpolicy.server.db.feedback import FeedbackItem, RewardRules, apply_feedback


def shown(**words):
    given = {
        "id": new_event_id(), "time": 1_000, "user_key": "1", "version": 1, "policy_digest": "c", "agent": "linucb",
        "variant": "champion", "rollout": None, "explored": False, "item_ids": "[101, 102]",
        "propensities": "[0.5, 0.25]",
        "ratings": "[4.0, null]",
    }  # fmt: skip
    return Event(**(given | words))


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A state folder with two events, one of them of a new user, and a reward."""
    monkeypatch.delenv("RECPOLICY_DATABASE_URL", raising=False)
    folder = tmp_path / "state"
    registry = Registry(folder / "registry")
    registry.register(write_tiny(tmp_path / "tiny"), gate={"verdict": "pass"})
    registry.promote(1)
    engine, one = open_store(sqlite_url(folder / "server.db")), shown()
    with transaction(engine) as connection:
        insert_events(connection, [one, shown(user_key='"x"', context=b"\0" * 12)])
        apply_feedback(connection, [FeedbackItem(one.id, 102, "rating", 3.0)], 2_000, RewardRules((1.0, 5.0), 10_000))
    engine.dispose()
    return folder


def test_it_says_what_was_added_and_what_was_left_out(state, tmp_path, capsys):
    out = tmp_path / "log"
    answer = recpolicy(capsys, "log", "export", state, "--out", out)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.splitlines() == [
        f"added 2 rounds and 1 rewards: {out}",
        "the log now has 2 rounds and 1 rewards",
        "dropped: 1 events (users unknown to the policy, with an id or features that do not fit this log)",
        f"next: recpolicy log ingest {out} --policy POLICY --out {out}-rounds",
    ]
    again = json.loads(recpolicy(capsys, "log", "export", state, "--out", out, "--json").out)
    assert again == {"new_rounds": 0, "new_rewards": 0, "rounds": 2, "rewards": 1, "left_out": {"new_user": 1}}
    ingested = recpolicy(capsys, "log", "ingest", out, "--policy", tmp_path / "tiny", "--out", tmp_path / "r",
                         "--evaluation-share", 0, "--json")  # fmt: skip
    assert json.loads(ingested.out)["joined"] == 1


def test_options_choose_places_and_registry(state, tmp_path, capsys):
    (state / "registry").rename(tmp_path / "elsewhere")
    words = ("--registry", tmp_path / "elsewhere", "--version", 1, "--places", 1)
    answer = recpolicy(capsys, "log", "export", state, "--out", tmp_path / "log", *words)
    assert answer.code == 0
    assert pq.read_table(tmp_path / "log" / "events.parquet").num_rows == 1


def test_a_folder_without_state_is_one_line(state, tmp_path, capsys):
    assert "not a registry" in refused(recpolicy(capsys, "log", "export", tmp_path, "--out", tmp_path / "log"))
    (state / "server.db").unlink()
    answer = recpolicy(capsys, "log", "export", state, "--out", tmp_path / "log")
    assert "server.db: no such file; expected the state folder of a server" in refused(answer)
    assert not (tmp_path / "log").exists()


def test_sessions_become_a_session_log(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RECPOLICY_DATABASE_URL", raising=False)
    folder, out = tmp_path / "state", tmp_path / "log"
    registry = Registry(folder / "registry")
    registry.register(write_tiny_sessions(tmp_path / "tiny"), gate={"verdict": "pass"})
    registry.promote(1)
    engine, fields = open_store(sqlite_url(folder / "server.db")), {"history": b"", "step": 0, "user_key": "2"}
    with transaction(engine) as connection:
        insert_events(connection, [shown(session_id="a", **fields), shown(session_id="b", **fields, context=b"x")])
    engine.dispose()
    answer = recpolicy(capsys, "log", "export", folder, "--task", "sessions", "--out", out)
    assert answer.out.splitlines() == [
        f"wrote 1 sessions of 2 steps: {out}",
        "returns: 0 sessions whose user came back, 1 censored; 1 users without any return",
        "dropped: 1 sessions (the user is unknown to the version, or the request described the user)",
        f"next: recpolicy ope estimate POLICY --log {out}",
    ]
    assert pq.read_table(out / "sessions.parquet").column("session_id").to_pylist() == ["a", "a"]
    assert "already exists" in refused(recpolicy(capsys, "log", "export", folder, "--task", "sessions", "--out", out))


def test_a_bandit_whose_requests_named_no_session_has_none_to_write(state, tmp_path, capsys):
    answer = recpolicy(capsys, "log", "export", state, "--task", "sessions", "--out", tmp_path / "log")
    assert answer.out.startswith("no complete sessions to write; a request names its session by session_id")
    assert not (tmp_path / "log").exists()


def test_sessions_of_a_registry_without_a_champion_are_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RECPOLICY_DATABASE_URL", raising=False)
    folder = tmp_path / "state"
    Registry(folder / "registry").register(write_tiny_sessions(tmp_path / "tiny"))
    open_store(sqlite_url(folder / "server.db")).dispose()
    answer = recpolicy(capsys, "log", "export", folder, "--task", "sessions", "--out", tmp_path / "log")
    assert "only for a policy of ratings" in refused(answer)
    assert not (tmp_path / "log").exists()
