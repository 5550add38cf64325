"""Deletion of old events: whole events, in batches between which the writer writes, on both databases."""

import asyncio
import threading
from contextlib import closing

import pytest
from event_factory import event
from job_fixtures import get_state, runs, scheduler, tick
from sqlalchemy import func, insert, select
from waiting import PATIENCE

from recpolicy.core.errors import ConfigError, StoreError
from recpolicy.server.db import deletion
from recpolicy.server.db.deletion import Deleted, delete_before, delete_user, rewrite_file
from recpolicy.server.db.engine import make_engine, transaction
from recpolicy.server.db.events import insert_events, now_ms
from recpolicy.server.db.feedback import DAY_MS, FeedbackItem, RewardRules, apply_feedback
from recpolicy.server.db.schema import events, feedback, rewards, rollouts
from recpolicy.server.db.spool import Spool
from recpolicy.server.db.writer import GroupCommitWriter
from recpolicy.server.jobs.retention import DELETE_OLD_EVENTS, delete_old_events
from recpolicy.server.settings import FeedbackConfig, Settings, StoreConfig, read_settings

RULES = RewardRules((1.0, 5.0), window_ms=10**9)


def store(engine, *stored, rated=()):
    """Store events, and a rating and a like on the first item of those in `rated`."""
    given = [FeedbackItem(one.id, 7, kind, value) for one in rated for kind, value in (("rating", 4.0), ("like", 1.0))]
    with transaction(engine) as connection:
        insert_events(connection, stored)
        apply_feedback(connection, given, 1_000_100, RULES)


def ids(engine):
    with engine.connect() as connection:
        return set(connection.scalars(select(events.c.id)))


def counts(engine):
    with engine.connect() as connection:
        return tuple(
            connection.scalar(select(func.count()).select_from(table)) for table in (events, feedback, rewards)
        )


def test_events_before_a_time_go_with_their_feedback_and_rewards(each_engine):
    old, new = [event(time=time) for time in range(1_000, 1_007)], [event(time=1_007), event(time=9_000)]
    store(each_engine, *old, *new, rated=[old[0], old[6], new[0]])
    assert delete_before(each_engine, 1_007, at_once=3) == Deleted(events=7, feedback=4, rewards=2)
    assert ids(each_engine) == {one.id for one in new}
    assert counts(each_engine) == (2, 2, 1)
    assert delete_before(each_engine, 1_007) == Deleted()


def test_events_of_a_running_rollout_stay_until_it_ends(each_engine):
    row = {"champion": 1, "challenger": 2, "stage": 0, "plan": "{}", "started_at": 1, "stage_at": 1}
    with transaction(each_engine) as connection:
        connection.execute(insert(rollouts), [row | {"id": 1, "state": "stopped"}, row | {"id": 2, "state": "running"}])
    before, running = event(rollout=1), event(rollout=2)
    store(each_engine, before, running)
    assert delete_before(each_engine, 2_000_000).events == 1
    assert ids(each_engine) == {running.id}


def test_the_writer_commits_between_two_batches(each_engine, tmp_path, monkeypatch):
    """The deletion stands still after its first batch: what a user sends then is acknowledged and stays."""
    old = [event(time=1_000) for _ in range(4)]
    store(each_engine, *old)
    paused, go_on = threading.Event(), threading.Event()

    def pause(_):
        paused.set()
        assert go_on.wait(PATIENCE)

    monkeypatch.setattr(deletion, "sleep", pause)
    thread = threading.Thread(target=delete_before, args=(each_engine, 2_000), kwargs={"at_once": 2})
    thread.start()
    try:
        assert paused.wait(PATIENCE)
        new = event()
        with closing(GroupCommitWriter(each_engine, Spool(tmp_path / "spool"), lambda: RULES)) as writer:
            asyncio.run(submit(writer, new))
            assert (len(ids(each_engine)), writer.spooled) == (3, 0)
    finally:
        go_on.set()
        thread.join()
    assert ids(each_engine) == {new.id}


async def submit(writer, shown):
    await writer.events([shown])


def test_feedback_on_an_event_that_is_deleted_at_that_moment_names_an_unknown_event(each_engine):
    """On PostgreSQL the two transactions overlap; without a lock the feedback's insert would fail the whole batch."""
    old, other = event(time=1_000), event()
    store(each_engine, old, other)
    outcomes = []

    def rate():
        with transaction(each_engine) as connection:
            batch = [FeedbackItem(one.id, 7, "rating", 4.0) for one in (old, other)]
            outcomes.extend(apply_feedback(connection, batch, 1_000_100, RULES))

    thread = threading.Thread(target=rate)
    with transaction(each_engine) as connection:
        deletion._delete_events(connection, [old.id])
        thread.start()
        thread.join(0.2)  # it waits for this transaction, or has not come so far
        assert outcomes == []
    thread.join(PATIENCE)
    assert [outcome.status for outcome in outcomes] == ["unknown_event", "accepted"]


def test_a_deletion_that_is_stopped_ends_after_a_whole_batch(engine):
    old = [event(time=1_000) for _ in range(5)]
    store(engine, *old)
    answers = iter([False, True])
    assert delete_before(engine, 2_000, lambda: next(answers), at_once=2).events == 2
    assert delete_before(engine, 2_000, at_once=2).events == 3


def test_the_job_deletes_what_is_older_than_the_setting(engine):
    day = 24 * 3_600_000
    old, new = event(time=now_ms() - 31 * day), event(time=now_ms() - 29 * day)
    store(engine, old, new, rated=[old])
    assert delete_old_events(get_state(engine), {}).status == "skipped"
    settings = Settings(store=StoreConfig(keep_days=30))
    tick(scheduler(engine, DELETE_OLD_EVENTS, settings=settings))  # plans the first run
    result = delete_old_events(get_state(engine, settings), {})
    assert (result.status, result.records) == ("done", 1)
    assert result.metadata["deleted"] == {
        "events": 1, "feedback": 2, "rewards": 1, "ranks": 0, "signals": 0, "actions": 0, "profiles": 0,
        "user_ratings": 0,
    }  # fmt: skip
    assert result.metadata["before"] == pytest.approx(now_ms() - 30 * DAY_MS, abs=60_000)
    assert ids(engine) == {new.id}
    assert runs(engine) == []


def test_all_events_of_a_user_go_and_no_others(each_engine):
    mine = [event(user=196, time=time) for time in (1, 5_000, 10**12)]
    others = [event(user="196"), event(user=1960), event(user=19)]
    store(each_engine, *mine, *others, rated=[mine[1], others[0]])
    assert delete_user(each_engine, "196", at_once=2) == Deleted(events=3, feedback=2, rewards=1)
    assert ids(each_engine) == {one.id for one in others}
    assert delete_user(each_engine, "196") == Deleted()
    assert delete_user(each_engine, '"196"') == Deleted(events=1, feedback=2, rewards=1)


def test_a_deleted_user_is_in_no_byte_of_the_sqlite_files(engine, tmp_path):
    """SQLite leaves deleted rows in place, and copies of rows in pages that were split by rows out of order."""
    user = "mallory-of-elsewhere"
    stored = [event(user=user if place % 3 else 5, id=f"{place * 7919 % 1_500:032x}") for place in range(1_500)]
    store(engine, *stored)
    assert delete_user(engine, f'"{user}"').events == 1_000

    def is_in_a_file():
        return any(user.encode() in path.read_bytes() for path in tmp_path.glob("server.db*"))

    assert is_in_a_file()
    rewrite_file(engine)
    assert not is_in_a_file()
    assert len(ids(engine)) == 500


def test_a_reader_of_the_log_is_named(engine):
    store(engine, *(event() for _ in range(300)))
    hasty = make_engine(f"sqlite:///{engine.url.database}", seconds=0.1)
    with engine.connect() as reader:
        reader.exec_driver_sql("BEGIN")
        reader.execute(select(events.c.id)).first()
        with pytest.raises(StoreError, match="a reader of the database keeps its log in use"):
            rewrite_file(hasty)
    rewrite_file(hasty)
    hasty.dispose()
    assert len(ids(engine)) == 300


def test_keep_days_below_the_window_of_feedback_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"keep_days is 6 and .* window_days is 7; expected keep_days of at least"):
        Settings(store=StoreConfig(keep_days=6))
    assert Settings(store=StoreConfig(keep_days=6), feedback=FeedbackConfig(window_days=5)).store.keep_days == 6
    for value in ("-1", "nan", "1e9"):
        (tmp_path / "settings.toml").write_text(f"[store]\nkeep_days = {value}\n")
        with pytest.raises(ConfigError, match="keep_days"):
            read_settings(tmp_path / "settings.toml")
