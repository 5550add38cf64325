"""Tests of the writer and its recovery while the database hangs, refuses rows, or is another file."""

import asyncio
import fcntl
import json
import sqlite3
import threading
from contextlib import closing, contextmanager

import pytest
from databases import new_url, postgres
from event_factory import event
from sqlalchemy import event as happening
from sqlalchemy import select
from waiting import PATIENCE, wait_until

from recpolicy.core.errors import DataError, StoreError
from recpolicy.server.db import database_file, recovery
from recpolicy.server.db.engine import make_engine, migrate, open_store, sqlite_url
from recpolicy.server.db.feedback import FeedbackItem, RewardRules
from recpolicy.server.db.schema import events
from recpolicy.server.db.spool import Spool
from recpolicy.server.db.writer import GroupCommitWriter

RULES = RewardRules((1.0, 5.0), window_ms=10_000)
SECONDS = 0.3
"""Time for a commit in these tests."""


class Alerts(list):
    """Collects alerts."""

    def __call__(self, alert_type, message, metrics):
        """Take an alert."""
        self.append((alert_type, metrics))


@pytest.fixture
def alerts():
    return Alerts()


@pytest.fixture
def new_writer(tmp_path, alerts):
    """Return a function that opens a writer of a database, which is closed at the end of the test."""
    opened = []

    def make(url):
        engine = open_store(url, SECONDS)
        writer = GroupCommitWriter(engine, Spool(tmp_path / "spool"), lambda: RULES, alerts, SECONDS)
        opened.append((writer, engine))
        return writer

    yield make
    for writer, engine in opened:
        if writer.is_alive():
            writer.close()
        engine.dispose()


def write(writer, *shown):
    """Write events, each by a request of its own; return what came of each."""

    async def go():
        return await asyncio.gather(*(writer.events([one]) for one in shown), return_exceptions=True)

    return asyncio.run(go())


def rate(writer, shown):
    """Send feedback on an event; return its outcome."""
    return asyncio.run(writer.feedback([FeedbackItem(shown.id, 7, "like", 1.0)], shown.time))[0]


def stored(url):
    """Return the ids of the events in a database, sorted."""
    engine = make_engine(url)
    try:
        with engine.connect() as connection:
            return sorted(connection.scalars(select(events.c.id)))
    finally:
        engine.dispose()


def ids(*shown):
    return sorted(one.id for one in shown)


def is_up(writer):
    return not writer.down and not writer.spooled


@contextmanager
def foreign_write_lock(path):
    """Hold SQLite's write lock, as another program may."""
    with closing(sqlite3.connect(path / "server.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@contextmanager
def foreign_commit_lock(path):
    """Hold the lock of the writers, as a stopped process of this server may."""
    with (path / "server.db.turn").open("ab") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


@contextmanager
def frozen_postgres(_):
    with postgres().frozen():
        yield


HANGS = {
    "foreign write lock": ("sqlite", foreign_write_lock),
    "foreign commit lock": ("sqlite", foreign_commit_lock),
    "frozen PostgreSQL": ("postgresql", frozen_postgres),
}


@pytest.mark.parametrize(("kind", "hang"), HANGS.values(), ids=HANGS)
def test_a_database_that_hangs_is_down_and_comes_back(kind, hang, new_writer, tmp_path):
    url = new_url(kind, tmp_path)
    writer = new_writer(url)
    before, first, *later = (event() for _ in range(6))
    assert write(writer, before) == [None]
    with hang(tmp_path):
        assert write(writer, first) == [None]  # after the time for a commit
        assert writer.down
        assert write(writer, *later) == [None] * 4
        with pytest.raises(StoreError):
            rate(writer, before)
        assert writer.spooled == 5
    wait_until(lambda: is_up(writer), "the recovery")
    assert stored(url) == ids(before, first, *later)
    assert rate(writer, later[-1]).status == "accepted"
    names = [thread.name for thread in threading.enumerate()]
    wait_until(lambda: names.count("recpolicy-writer") <= 2, "the end of the abandoned writer")


def test_a_new_writer_knows_that_the_database_is_down(new_writer, tmp_path, monkeypatch):
    writer, known = new_writer(new_url("sqlite", tmp_path)), []
    start = writer._start_session
    monkeypatch.setattr(writer, "_start_session", lambda: known.append(writer.down) or start())
    with foreign_commit_lock(tmp_path):
        assert write(writer, event(), event()) == [None, None]
    assert known == [True]


def test_an_abandoned_commit_that_succeeds_later_doubles_nothing(new_writer, tmp_path):
    url = new_url("sqlite", tmp_path)
    writer, shown, released, begun = new_writer(url), event(), threading.Event(), threading.Event()

    def hold(_):
        if not begun.is_set():
            begun.set()
            assert released.wait(PATIENCE)

    happening.listen(writer._engine, "commit", hold)
    assert write(writer, shown) == [None]
    assert writer.spooled == 1
    released.set()
    wait_until(lambda: is_up(writer), "the recovery")
    assert stored(url) == ids(shown)


def test_a_writer_that_closes_while_the_database_hangs_spools_what_waits(new_writer, tmp_path):
    url = new_url("sqlite", tmp_path)
    writer, shown = new_writer(url), event()

    async def go():
        with foreign_commit_lock(tmp_path):
            waiting = asyncio.ensure_future(writer.events([shown]))
            await asyncio.sleep(0)
            await asyncio.to_thread(writer.close)
            await waiting

    asyncio.run(go())
    again = new_writer(url)
    wait_until(lambda: stored(url) == ids(shown), "the replay")
    wait_until(lambda: is_up(again), "the recovery")


def test_a_writer_that_closes_writes_what_was_spooled_since_the_last_look(new_writer, tmp_path, monkeypatch):
    monkeypatch.setattr(recovery, "TICK_SECONDS", 1000.0)
    url = sqlite_url(tmp_path / "server.db")
    writer, shown = new_writer(url), event()
    write(writer, event())
    writer._spool.append([shown])  # as a write does whose failure was noticed just before the database came back
    writer.close()
    assert shown.id in stored(url)


def test_a_writer_whose_thread_ends_is_replaced(new_writer, tmp_path):
    url = new_url("sqlite", tmp_path)
    writer, shown = new_writer(url), event()
    threading.excepthook, before = (lambda _: None), threading.excepthook
    try:
        writer._next_group, thread = (lambda: [][0]), writer._session.thread
        write(writer, event())
        wait_until(lambda: not thread.is_alive(), "the end of the thread")
        del writer._next_group
        wait_until(writer.is_alive, "the new thread")
    finally:
        threading.excepthook = before
    assert write(writer, shown) == [None]
    assert shown.id in stored(url)


REFUSED = {
    "no version": {"version": None}, "a surrogate": {"agent": "\ud800"}, "a large number": {"time": 2**70},
    "a list": {"agent": ["linucb"]}, "a known id": {"id": "a" * 32}, "a long word": {"agent": "x" * 65},
    "a NUL": {"agent": "\x00"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "fault"),
    [("sqlite", name) for name in list(REFUSED)[:5]] + [("postgresql", name) for name in REFUSED if name != "a list"],
)
def test_a_refused_row_goes_to_the_side_file_and_the_others_of_its_commit_are_stored(
    kind, fault, new_writer, tmp_path, alerts
):
    url = new_url(kind, tmp_path)
    writer, known = new_writer(url), event(id="a" * 32)
    assert write(writer, known) == [None]
    good, bad = [event(), event()], event()._replace(**REFUSED[fault])
    first, refused, last = write(writer, good[0], bad, good[1])
    assert (first, last) == (None, None)
    assert isinstance(refused, StoreError)
    assert stored(url) == ids(known, *good)
    assert (writer.down, writer.rejected) == (False, 1)
    (path,) = (tmp_path / "spool").glob("*.rejected.jsonl")
    assert json.loads(json.loads(path.read_text())["row"])["user_key"] == "1"
    wait_until(lambda: alerts == [("store.rejected_events", {"events": 1})], "the alert")


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_a_refused_row_of_the_spool_blocks_no_other(kind, new_writer, tmp_path, alerts):
    url, good = new_url(kind, tmp_path), [event(), event()]
    bad = event()._replace(time=2**70)
    spool = Spool(tmp_path / "spool")
    spool.append([good[0], bad, good[1]])
    spool.close()
    (tmp_path / "spool" / "0-a.jsonl").write_bytes(bytes(512) + b"\n")
    writer = new_writer(url)
    wait_until(lambda: is_up(writer) and writer.rejected == 2, "the replay")
    assert stored(url) == ids(*good)
    assert rate(writer, good[1]).status == "accepted"
    wait_until(lambda: alerts, "the alert")


def test_refused_feedback_is_the_callers_fault_and_stops_no_other(new_writer, tmp_path):
    writer, shown = new_writer(new_url("sqlite", tmp_path)), event()
    assert write(writer, shown) == [None]

    async def go():
        bad, good = (FeedbackItem(shown.id, item, "like", 1.0) for item in (8, 7))
        bad = FeedbackItem(shown.id, 8, "\ud800", 1.0)
        return await asyncio.gather(
            writer.feedback([bad], shown.time), writer.feedback([good], shown.time), return_exceptions=True
        )

    refused, (accepted,) = asyncio.run(go())
    assert isinstance(refused, DataError)
    assert accepted.status == "accepted"
    assert not writer.down


def test_feedback_on_an_event_that_may_wait_in_another_spool_is_to_be_sent_again(new_writer, tmp_path):
    writer, other = new_writer(new_url("sqlite", tmp_path)), Spool(tmp_path / "spool")
    assert rate(writer, event()).status == "unknown_event"
    shown = event()
    other.append([shown])
    with pytest.raises(StoreError, match="try again"):
        rate(writer, shown)
    other.close()
    wait_until(lambda: shown.id in stored(sqlite_url(tmp_path / "server.db")), "the replay")
    assert rate(writer, shown).status == "accepted"


def remove_all(folder):
    for path in folder.glob("server.db*"):
        path.unlink()


def remove_file(folder):
    (folder / "server.db").unlink()


def move_away(folder):
    (folder / "server.db").rename(folder / "elsewhere.db")


def replace(folder):
    make_database(folder / "new.db")
    (folder / "new.db").rename(folder / "server.db")


def make_database(path):
    engine = make_engine(sqlite_url(path))
    migrate(engine)
    engine.dispose()


@pytest.mark.parametrize("change", [remove_all, remove_file, move_away, replace])
def test_a_database_file_that_is_removed_or_replaced_loses_nothing(change, new_writer, tmp_path, alerts):
    url = new_url("sqlite", tmp_path)
    writer, before, after, later = new_writer(url), event(), event(), event()
    assert write(writer, before) == [None]
    change(tmp_path)
    assert write(writer, after) == [None]
    wait_until(lambda: alerts, "the alert")
    assert alerts[0][0] == "store.file_replaced"
    if change is not replace:
        assert writer._status.failure == database_file.REMOVED
        assert not (tmp_path / "server.db").exists()  # nobody made an empty one
        with pytest.raises(StoreError, match="removed"):
            rate(writer, before)
        make_database(tmp_path / "new.db")
        (tmp_path / "new.db").rename(tmp_path / "server.db")
    wait_until(lambda: is_up(writer), "the recovery")
    assert write(writer, later) == [None]
    assert stored(url) == ids(after, later)  # not `before`: that is in the old file
    with closing(sqlite3.connect(tmp_path / "server.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def test_a_database_file_that_is_put_back_is_used_again(new_writer, tmp_path):
    url = new_url("sqlite", tmp_path)
    writer, before, after = new_writer(url), event(), event()
    assert write(writer, before) == [None]
    (tmp_path / "server.db").rename(tmp_path / "elsewhere.db")
    assert write(writer, after) == [None]
    (tmp_path / "elsewhere.db").rename(tmp_path / "server.db")
    wait_until(lambda: is_up(writer), "the recovery")
    assert stored(url) == ids(before, after)


def test_an_empty_database_file_keeps_the_events_in_the_spool(new_writer, tmp_path):
    url = new_url("sqlite", tmp_path)
    writer, shown = new_writer(url), event()
    remove_all(tmp_path)
    (tmp_path / "server.db").touch()
    assert write(writer, shown) == [None]
    wait_until(lambda: writer._status.failure == database_file.EMPTY, "the reason")
    make_database(tmp_path / "new.db")
    (tmp_path / "new.db").rename(tmp_path / "server.db")
    wait_until(lambda: is_up(writer), "the recovery")
    assert stored(url) == ids(shown)


def test_a_database_of_another_program_keeps_the_events_in_the_spool(new_writer, tmp_path):
    writer, shown = new_writer(new_url("sqlite", tmp_path)), event()
    with closing(sqlite3.connect(tmp_path / "other.db")) as connection:
        connection.execute("CREATE TABLE t (a)")
    (tmp_path / "other.db").rename(tmp_path / "server.db")
    assert write(writer, shown) == [None]
    wait_until(lambda: writer._status.failure == "the database has no tables of recpolicy", "the reason")
    assert writer.spooled == 1


def test_without_its_wal_the_writer_asks_for_a_restart_and_loses_nothing(new_writer, tmp_path):
    url = new_url("sqlite", tmp_path)
    writer, before, after = new_writer(url), event(), event()
    assert write(writer, before) == [None]
    (tmp_path / "server.db-wal").unlink()
    assert write(writer, after) == [None]
    assert writer._status.failure == database_file.WAL_REMOVED
    writer.close()
    again = new_writer(url)
    wait_until(lambda: is_up(again), "the replay")
    assert set(ids(after)) <= set(stored(url))
