"""`recpolicy admin backup` and `restore`: what they print, and what they refuse."""

import json

import pytest
from client_helpers import ask
from command_line import recpolicy, refused
from tiny_policies import write_tiny
from unlimited import UNLIMITED

from recpolicy.server.app import make_app
from recpolicy.server.lifespan import DATABASE_URL, open_state


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.delenv(DATABASE_URL, raising=False)
    with open_state(write_tiny(tmp_path / "run"), tmp_path / "state", UNLIMITED) as opened:
        ask(make_app(opened), "POST", "/v1/recommend", {"user": 3, "k": 2})
    return tmp_path / "state"


def test_a_backup_says_its_size_and_how_to_restore_it(capsys, state, tmp_path):
    answer = recpolicy(capsys, "admin", "backup", state, "--out", tmp_path / "monday")
    assert (answer.code, answer.err) == (0, "")
    first, second, third = answer.out.splitlines()
    assert first.startswith(f"backup: {tmp_path}/monday, ")
    assert second == "database: sqlite, 1 events"
    assert third == f"next: recpolicy admin restore {tmp_path}/monday NEW_STATE"
    answer = recpolicy(capsys, "admin", "restore", tmp_path / "monday", tmp_path / "new")
    new = tmp_path / "new"
    assert answer.out.splitlines() == [
        f"restored: {new}, 1 events (sqlite)", f"next: recpolicy serve {new}/registry --state {new}",
    ]  # fmt: skip


def test_both_speak_json(capsys, state, tmp_path):
    made = json.loads(recpolicy(capsys, "admin", "backup", state, "-o", tmp_path / "b", "--json").out)
    assert (made["database"], made["events"], made["folder"]) == ("sqlite", 1, str(tmp_path / "b"))
    done = json.loads(recpolicy(capsys, "admin", "restore", tmp_path / "b", tmp_path / "new", "--json").out)
    assert (done["events"], done["registry"]) == (1, str(tmp_path / "new" / "registry"))


def test_refusals_are_one_line(capsys, state, tmp_path):
    assert "not a registry" in refused(recpolicy(capsys, "admin", "backup", tmp_path / "x", "-o", tmp_path / "b"))
    assert "backup.json: no such file" in refused(recpolicy(capsys, "admin", "restore", tmp_path / "x", state))
    recpolicy(capsys, "admin", "backup", state, "-o", tmp_path / "b")
    assert "--force replaces the state" in refused(recpolicy(capsys, "admin", "restore", tmp_path / "b", state))
    assert recpolicy(capsys, "admin", "restore", tmp_path / "b", state, "--force").code == 0
