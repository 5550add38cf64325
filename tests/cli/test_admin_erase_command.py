"""`recpolicy admin erase-user`: what it erases, asks and says."""

import json
import os

import pytest
from api_keys import key_for, listening
from command_line import recpolicy, refused
from event_factory import event
from tiny_policies import write_tiny
from unlimited import UNLIMITED

from recpolicy.cli import admin_erase
from recpolicy.server.app import make_app
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import insert_events
from recpolicy.server.db.export import ExportOptions, LogPolicy, export
from recpolicy.server.lifespan import open_state


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A server with two events of user 3 and one of the text "3", and an export of them."""
    with open_state(write_tiny(tmp_path / "run"), tmp_path / "state", UNLIMITED) as opened:
        shown = [event(user=3, items=(104,), propensities=(0.5,)) for _ in range(2)]
        shown += [event(user="3", items=(104,), propensities=(0.5,), context=bytes(12))]
        with transaction(opened.store.engine) as connection:
            insert_events(connection, shown)
        export(opened.store.engine, LogPolicy(opened.models.registry), ExportOptions(tmp_path / "log"))
        app = make_app(opened)
        with listening(app) as (host, port):
            monkeypatch.setenv("RECPOLICY_URL", f"http://{host}:{port}")
            monkeypatch.setenv("RECPOLICY_KEY", key_for(app, "operator"))
            yield opened


def test_it_says_what_it_erased_and_what_it_does_not_reach(capsys, state, tmp_path):
    answer = recpolicy(capsys, "admin", "erase-user", 3, "--export", tmp_path / "log", "--yes")
    assert (answer.code, answer.err) == (0, "")
    lines = answer.out.splitlines()
    assert lines[:6] == [
        "user: 3 (number)", "database: 2 events, 0 feedback, 0 rewards", "spool: 0 events",
        f"{tmp_path}/log: 2 rounds, 0 rewards in 1 files",
        "the text 3 is another user, with 1 events; erase it with --text", "not reached:",
    ]  # fmt: skip
    assert [line.removeprefix("- ") for line in lines[6:]] == list(admin_erase.NOT_REACHED)
    again = json.loads(recpolicy(capsys, "admin", "erase-user", 3, "--yes", "--json").out)
    assert (again["user"], again["events"], again["exports"]) == (3, 0, {})
    text = json.loads(recpolicy(capsys, "admin", "erase-user", 3, "--text", "--yes", "--json").out)
    assert (text["user"], text["events"]) == ("3", 1)


def test_it_asks_first(capsys, state, monkeypatch, tmp_path):
    assert "without a terminal, give --yes" in refused(recpolicy(capsys, "admin", "erase-user", 3))
    monkeypatch.setattr(admin_erase, "_is_terminal", lambda: True)
    for reply, code in (("n\n", 2), ("y\n", 0)):
        read, write = os.pipe()
        os.write(write, reply.encode())
        os.close(write)
        with open(read) as stdin:  # noqa: PTH123 - a descriptor
            monkeypatch.setattr("sys.stdin", stdin)
            answer = recpolicy(capsys, "admin", "erase-user", 3)
        assert answer.code == code, answer
        assert "Erase user 3 for ever?" in answer.out
    assert "database: 2 events" in answer.out


def test_a_folder_that_is_no_export_is_refused_before_anything_is_erased(capsys, state, tmp_path):
    assert "no events.parquet" in refused(recpolicy(capsys, "admin", "erase-user", 3, "--export", tmp_path, "--yes"))
    answer = json.loads(recpolicy(capsys, "admin", "erase-user", 3, "--yes", "--json").out)
    assert answer["events"] == 2
