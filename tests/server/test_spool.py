"""Tests of spool.py: events on disk while the database does not accept them."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from event_factory import event

from recpolicy.core.errors import StoreError
from recpolicy.server.db import spool as spool_module
from recpolicy.server.db.spool import RejectedRow, Replayed, Spool, event_line, parse_event


class Database:
    """Takes the events of a replay; refuses those of some users."""

    def __init__(self, refused=()):
        self.events, self._refused = [], refused

    def write(self, events):
        """Store what is not refused, once."""
        refused = [one for one in events if one.user_key in self._refused]
        self.events += [one for one in events if one not in refused and one not in self.events]
        return [RejectedRow("DataError", event_line(one)) for one in refused]


@pytest.fixture
def spool(tmp_path):
    spool = Spool(tmp_path)
    yield spool
    spool.close()


@pytest.fixture
def database():
    return Database()


def rejected_rows(folder):
    """Return the rows of all side files."""
    return [json.loads(line) for path in folder.glob("*.rejected.jsonl") for line in path.read_text().splitlines()]


def test_a_spooled_event_comes_back_as_it_was(spool, database):
    shown = [event(allowed=bytes(range(256))), event(user="ü\x00", context=b"")]
    spool.append(shown)
    assert (spool.waiting, spool.is_empty()) == (2, False)
    assert spool.replay(database.write) == Replayed(2)
    assert database.events == shown
    assert (spool.waiting, spool.is_empty()) == (0, True)
    assert spool.replay(database.write) == Replayed()


def test_a_line_that_was_cut_short_was_never_acknowledged(spool, database, tmp_path):
    spool.append([event()])
    (path,) = tmp_path.glob("*.jsonl")
    path.write_bytes(path.read_bytes() + event_line(event()).encode()[:40])
    assert spool.replay(database.write) == Replayed(1)
    assert not list(tmp_path.glob("*"))[1:]  # only the new file of this process


def test_a_failed_append_leaves_no_piece_of_a_line(spool, database, monkeypatch):
    first, second, third = event(), event(), event()
    spool.append([first])

    def full(*_):
        raise OSError(28, "No space left on device")

    write = os.write
    for broken in (False, True):
        monkeypatch.setattr(os, "write", lambda to, data: write(to, data[:9]) and full())
        if broken:
            monkeypatch.setattr(os, "ftruncate", full)
        with pytest.raises(OSError, match="No space"):
            spool.append([second])
        monkeypatch.undo()
    spool.append([third])
    assert spool.replay(database.write) == Replayed(2)
    assert database.events == [first, third]


def test_a_database_that_fails_again_leaves_the_spool_as_it_is(spool, database, monkeypatch):
    monkeypatch.setattr(spool_module, "_EVENTS_AT_ONCE", 2)
    shown = [event() for _ in range(5)]
    spool.append(shown)

    def fails(rows):
        if database.events:
            raise StoreError("again")
        return database.write(rows)

    with pytest.raises(StoreError):
        spool.replay(fails)
    assert spool.waiting == 5
    spool.replay(database.write)
    assert database.events == shown


def test_events_that_arrive_during_a_replay_wait_for_the_next(spool, database):
    first, second = event(), event()
    spool.append([first])

    def write(rows):
        spool.append([second])
        return database.write(rows)

    assert spool.replay(write) == Replayed(1)
    assert spool.waiting == 1
    assert spool.replay(database.write) == Replayed(1)
    assert database.events == [first, second]


GOOD = json.loads(event_line(event()))
DAMAGED = {
    "not JSON": b'{"id": "xx"',
    "zeros": bytes(512),
    "deep JSON": b"[" * 200_000,
    "no object": b"[1]",
    "not UTF-8": b'{"id": "\xff"}',
    "a key is missing": json.dumps({key: GOOD[key] for key in GOOD if key != "item_ids"}).encode(),
    "an unknown key": json.dumps(GOOD | {"place": 1}).encode(),
    "a text for a number": json.dumps(GOOD | {"time": "now"}).encode(),
    "a number for a text": json.dumps(GOOD | {"user_key": 7}).encode(),
    "true for a number": json.dumps(GOOD | {"version": True}).encode(),
    "null": json.dumps(GOOD | {"agent": None}).encode(),
    "no base64": json.dumps(GOOD | {"allowed": "%"}).encode(),
    "no list": json.dumps(GOOD | {"item_ids": "7"}).encode(),
}


@pytest.mark.parametrize("line", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_line_is_put_aside_and_the_others_are_replayed(line, spool, database, tmp_path):
    good = [event(), event()]
    lines = [event_line(good[0]).encode(), line, event_line(good[1]).encode()]
    (tmp_path / "1-a.jsonl").write_bytes(b"\n".join(lines) + b"\n")
    assert spool.replay(database.write) == Replayed(2, 1)
    assert database.events == good
    assert spool.is_empty()
    (row,) = rejected_rows(tmp_path)
    assert row["row"] == line.decode("utf-8", "backslashreplace")
    assert row["reason"]


def test_a_line_that_is_too_long_is_cut(spool, database, tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "_LONGEST_LINE", 1_000)
    good = event()
    (tmp_path / "1-a.jsonl").write_bytes(bytes(3_500) + b"\n" + event_line(good).encode() + b"\n")
    assert spool.replay(database.write) == Replayed(1, 1)
    assert database.events == [good]
    assert len(rejected_rows(tmp_path)[0]["row"]) == 1_000


def test_a_refused_event_is_put_aside_once_and_the_others_are_stored(spool, tmp_path, monkeypatch):
    monkeypatch.setattr(spool_module, "_EVENTS_AT_ONCE", 1)
    database = Database(refused=("2",))
    shown = [event(user=user) for user in (1, 2, 3)]
    spool.append(shown)

    def down_at_the_end(rows):
        if rows[0].user_key == "3":
            raise StoreError("down")
        return database.write(rows)

    for _ in range(2):
        with pytest.raises(StoreError):
            spool.replay(down_at_the_end)
    spool.replay(database.write)
    assert database.events == [shown[0], shown[2]]
    assert [parse_event(row["row"].encode()) for row in rejected_rows(tmp_path)] == [shown[1]]


def test_a_mended_row_is_replayed_from_a_new_file(spool, database, tmp_path):
    shown = event()
    (tmp_path / "1-a.jsonl").write_text(event_line(shown).replace('"linucb"', "null") + "\n")
    assert spool.replay(database.write) == Replayed(0, 1)
    (row,) = rejected_rows(tmp_path)
    assert row["reason"] == "agent is of type NoneType; expected str"
    (tmp_path / "mended.jsonl").write_text(row["row"].replace('"agent": null', '"agent": "linucb"') + "\n")
    assert spool.replay(database.write) == Replayed(1)
    assert database.events == [shown]


@pytest.mark.parametrize("name", ["a folder", "a link", "a device"])
def test_what_is_no_file_does_not_stop_the_others(name, spool, database, tmp_path):
    path = tmp_path / "1-a.jsonl"
    if name == "a folder":
        path.mkdir()
    elif name == "a link":
        path.symlink_to("/etc/passwd")
    else:
        os.mkfifo(path)
    (tmp_path / "2-b.jsonl").write_text(event_line(event()) + "\n")
    assert spool.replay(database.write) == Replayed(1)
    assert spool.is_empty()


OTHER = """
import os, pathlib, signal, sys
sys.path[:0] = sys.argv[2:]
from recpolicy.server.db.spool import Spool
from event_factory import event
spool = Spool(pathlib.Path(sys.argv[1]))
spool.append([event()])
print("spooled", flush=True)
signal.pause()
"""


def test_what_a_killed_process_spooled_is_replayed_by_another_but_not_while_it_lives(spool, database, tmp_path):
    here = Path(__file__).parent
    other = subprocess.Popen([sys.executable, "-c", OTHER, tmp_path, here], stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "spooled\n"
    assert spool.replay(database.write) == Replayed()
    assert not spool.is_empty()
    other.send_signal(signal.SIGKILL)
    other.communicate()
    assert spool.replay(database.write) == Replayed(1)
    assert spool.is_empty()


def test_closed_spools_leave_only_what_waits(tmp_path, database):
    Spool(tmp_path).close()
    assert list(tmp_path.iterdir()) == []
    first = Spool(tmp_path)
    first.append([event()])
    first.close()
    second = Spool(tmp_path)
    assert second.replay(database.write) == Replayed(1)
    second.close()
    assert list(tmp_path.iterdir()) == []


def test_locks_of_killed_processes_are_removed_and_held_ones_stay(tmp_path, database):
    for name in ("1-a", "2-b"):
        (tmp_path / f"{name}.jsonl").write_text(event_line(event()) + "\n")
        (tmp_path / f"{name}.jsonl.lock").touch()
    with (tmp_path / "2-b.jsonl.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        spool = Spool(tmp_path)
        assert spool.replay(database.write) == Replayed(1)
        spool.close()
    assert {path.name for path in tmp_path.iterdir()} == {"2-b.jsonl", "2-b.jsonl.lock"}


def test_a_side_file_of_events_that_nobody_counts_as_stored_has_a_bound(spool, tmp_path):
    for _ in range(5):
        spool.reject([RejectedRow("DataError", "x" * 100)], max_bytes=200)
    assert len(rejected_rows(tmp_path)) == 2
