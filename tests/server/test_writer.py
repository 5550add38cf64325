import asyncio
import os
import threading
from contextlib import closing

import pytest
from databases import postgres
from event_factory import event
from sqlalchemy import event as happening
from sqlalchemy import func, select
from waiting import PATIENCE, wait_until

from recpolicy.core.errors import StoreError
from recpolicy.server.db.engine import migrate
from recpolicy.server.db.events import Event
from recpolicy.server.db.feedback import FeedbackItem, RewardRules
from recpolicy.server.db.schema import events
from recpolicy.server.db.spool import Spool
from recpolicy.server.db.writer import GroupCommitWriter, QueueFullError

RULES = RewardRules((1.0, 5.0), window_ms=10_000)


def writer_of(engine, folder):
    """Open a writer for a `with` block, at whose end it has written what waits."""
    return closing(GroupCommitWriter(engine, Spool(folder / "spool"), lambda: RULES))


def count(engine):
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(events))


def test_what_is_acknowledged_is_in_the_database(each_engine, tmp_path):
    shown = event()

    async def go(writer):
        await writer.events([shown])
        assert count(each_engine) == 1
        return await writer.feedback([FeedbackItem(shown.id, 7, "rating", 4.0)], shown.time)

    with writer_of(each_engine, tmp_path) as writer:
        (outcome,) = asyncio.run(go(writer))
    assert (outcome.status, outcome.reward) == ("accepted", 4.0)


def submit_during_a_transaction(engine, writer, number):
    """Submit one event, and `number` more while its transaction is under way; return what came of each."""
    begun, released = threading.Event(), threading.Event()

    def hold(_):
        begun.set()
        assert released.wait(PATIENCE)

    happening.listen(engine, "begin", hold)

    async def go():
        waiting = [asyncio.ensure_future(writer.events([event()]))]
        assert await asyncio.to_thread(begun.wait, PATIENCE)
        waiting += [asyncio.ensure_future(writer.events([event()])) for _ in range(number)]
        await asyncio.sleep(0)  # each is submitted
        released.set()
        return await asyncio.gather(*waiting, return_exceptions=True)

    return asyncio.run(go())


def test_what_waits_together_is_committed_together(engine, tmp_path):
    commits = []
    happening.listen(engine, "commit", commits.append)
    with writer_of(engine, tmp_path) as writer:
        assert submit_during_a_transaction(engine, writer, 400) == [None] * 401
    assert count(engine) == 401
    assert len(commits) == 2


@pytest.mark.parametrize("number", [1, 63, 64, 203])
def test_events_of_one_request_are_stored_as_they_are(each_engine, tmp_path, number):
    shown = [
        event(user=user, explored=user % 2 == 0, allowed=bytes([user]), rollout=user or None) for user in range(number)
    ]
    with writer_of(each_engine, tmp_path) as writer:
        asyncio.run(writer.events(shown))
    with each_engine.connect() as connection:
        rows = connection.execute(select(*(events.c[name] for name in Event._fields)).order_by(events.c.seq)).all()
    assert [Event(*row) for row in rows] == shown


def test_a_caller_that_gives_up_leaves_the_others_their_answers(engine, tmp_path):
    async def give_up(writer):
        first, second = (asyncio.ensure_future(writer.events([event()])) for _ in range(2))
        await asyncio.sleep(0)
        first.cancel()
        await second
        assert first.cancelled()

    with writer_of(engine, tmp_path) as writer:
        asyncio.run(give_up(writer))
        with pytest.raises(TimeoutError):
            asyncio.run(asyncio.wait_for(writer.events([event()]), 1e-9))  # its loop is closed before the commit
        asyncio.run(writer.events([event()]))
    assert count(engine) >= 3


def test_the_writer_writes_what_waits_before_it_stops(engine, tmp_path):
    writer = GroupCommitWriter(engine, Spool(tmp_path / "spool"), lambda: RULES)

    async def go():
        waiting = [asyncio.ensure_future(writer.events([event()])) for _ in range(50)]
        await asyncio.sleep(0)
        await asyncio.to_thread(writer.close)
        await asyncio.gather(*waiting)

    asyncio.run(go())
    assert count(engine) == 50


def test_more_than_may_wait_is_refused(engine, tmp_path, monkeypatch):
    monkeypatch.setattr("recpolicy.server.db.writer.MAX_WAITING", 3)
    with writer_of(engine, tmp_path) as writer:
        answers = submit_during_a_transaction(engine, writer, 99)
    assert sum(isinstance(one, QueueFullError) for one in answers) == 96
    assert count(engine) == 4


def test_without_the_database_events_are_spooled_feedback_is_refused_and_nothing_is_lost(tmp_path, new_engine):
    server = postgres()
    engine = new_engine(server.new_database())
    migrate(engine)
    before, during = event(), event(allowed=b"\x00\xff", context=None)

    async def while_down(writer):
        await writer.events([during])
        with pytest.raises(StoreError, match="does not answer"):
            await writer.feedback([FeedbackItem(before.id, 7, "like", 1.0)], before.time)

    async def again(writer):
        return await writer.feedback([FeedbackItem(one.id, 7, "like", 1.0) for one in (before, during)], before.time)

    with writer_of(engine, tmp_path) as writer:
        asyncio.run(writer.events([before]))
        server.stop()
        try:
            asyncio.run(while_down(writer))
            assert (writer.down, writer.spooled) == (True, 1)
        finally:
            server.start()
        wait_until(lambda: not writer.down, "the recovery")
        outcomes = asyncio.run(again(writer))
        assert [one.status for one in outcomes] == ["accepted", "accepted"]
        assert writer.spooled == 0
    assert count(engine) == 2
    with engine.connect() as connection:
        assert bytes(connection.scalar(select(events.c.allowed).where(events.c.id == during.id))) == b"\x00\xff"


def test_with_neither_database_nor_disk_the_caller_is_told(engine, tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    with writer_of(engine, tmp_path) as writer:
        engine.dispose()
        (tmp_path / "server.db").unlink()
        (tmp_path / "server.db").mkdir()
        monkeypatch.setattr(os, "fsync", full)
        with pytest.raises(StoreError, match="No space left on device"):
            asyncio.run(writer.events([event()]))
        monkeypatch.undo()
        assert [path.read_bytes() for path in (tmp_path / "spool").glob("*.jsonl")] == [b""]
