"""Ranks exported in parts: the parts are the log that the database holds, however often a run is killed."""

from dataclasses import replace

import numpy as np
import pytest
from rank_events import rank_event
from ranking import ValuePolicy, ranking
from sqlalchemy import delete, insert, update

from recpolicy.core.errors import DataError
from recpolicy.data import feature_log_files
from recpolicy.data.feature_log_files import read_feature_log, write_feature_log
from recpolicy.data.log_erasure import erase_from_log
from recpolicy.data.reward_signals import RewardConfig
from recpolicy.server.db import rank_export
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.feature_export import collect_features
from recpolicy.server.db.rank_events import insert_rank_events
from recpolicy.server.db.rank_export import export_ranks
from recpolicy.server.db.schema import rank_events, rank_signals

REWARD = RewardConfig(weights={"reward": 1.0, "click": 0.5}, wait_seconds=600, min_reward=-2.0, max_reward=2.0)
OLD = now_ms() - 100_000_000


@pytest.fixture
def engine(tmp_path, monkeypatch):
    monkeypatch.setattr(rank_export, "EVENTS_IN_PART", 3)
    with ranking(tmp_path / "registry", ValuePolicy(), REWARD) as app:
        yield app.state.server.store.engine


def add(engine, first, last, **fields):
    """Store events with these numbers; their actions, users and contexts differ, and most get a signal."""
    events = [
        rank_event(
            id=f"event {number}", user=number % 4 or None, actions=("a", "b", f"c{number % 5}"),
            context='{"hour": 20}' if number % 2 else '{"hour": "late", "tags": ["x"]}',
            **{"time": OLD + number, "activated_at": OLD + number} | fields,
        )
        for number in range(first, last)
    ]  # fmt: skip
    signals = [
        {"event_id": event.id, "slot": event.slot, "signal_id": None, "type": ("reward", "click")[place % 2],
         "value": place / 10, "time": event.time + 1, "late": False, "online": True}
        for place, event in enumerate(events) if place % 3
    ]  # fmt: skip
    with transaction(engine) as connection:
        insert_rank_events(connection, events)
        if signals:
            connection.execute(insert(rank_signals), signals)


def in_memory(engine):
    log, _ = collect_features(engine, REWARD, "all")
    return log


def parts(folder, name):
    return sorted(path.name for path in folder.glob(f"{name}*.parquet"))


def test_the_parts_are_the_whole_log_and_news_are_appended(engine, tmp_path):
    out = tmp_path / "log"
    add(engine, 0, 7)
    done = export_ranks(engine, REWARD, out)
    assert (done.new_rounds, done.rounds) == (7, 7)
    assert parts(out, "rounds") == ["rounds-000001.parquet", "rounds-000002.parquet", "rounds.parquet"]
    first = {path.name: path.read_bytes() for path in out.glob("*.parquet")}
    log = read_feature_log(out)
    assert log.digest == in_memory(engine).digest
    assert len(set(log.action_digest)) == len(log.action_id) == 7  # each once, though several parts have it
    add(engine, 7, 9)
    done = export_ranks(engine, REWARD, out)
    assert (done.new_rounds, done.rounds) == (2, 9)
    assert read_feature_log(out).digest == in_memory(engine).digest
    assert {name: (out / name).read_bytes() for name in first} == first
    assert export_ranks(engine, REWARD, out).new_rounds == 0
    assert len(parts(out, "rounds")) == 4


@pytest.mark.parametrize("after", [1, 2, 3])
@pytest.mark.parametrize("half", [False, True])
def test_a_killed_run_goes_on_after_its_last_part(engine, tmp_path, monkeypatch, after, half):
    add(engine, 0, 11)
    out, write = tmp_path / "log", feature_log_files.write_feature_log_part

    def killed(log, folder, number, added):
        if number < after:
            return write(log, folder, number, added)
        if half:  # the actions are there, the rounds are not
            write(log, folder, number, added)
            (folder / f"rounds-{number:06d}.parquet").unlink()
        raise KeyboardInterrupt

    monkeypatch.setattr(rank_export, "write_feature_log_part", killed)
    with pytest.raises(KeyboardInterrupt):
        export_ranks(engine, REWARD, out)
    monkeypatch.setattr(rank_export, "write_feature_log_part", write)
    assert len(read_feature_log(out)) == 3 * after
    assert export_ranks(engine, REWARD, out).rounds == 11
    assert read_feature_log(out).digest == in_memory(engine).digest


def test_an_event_that_was_activated_late_is_exported_once(engine, tmp_path, monkeypatch):
    out = tmp_path / "log"
    add(engine, 0, 5, activated_at=None)
    add(engine, 5, 10)
    assert export_ranks(engine, REWARD, out).left_out == {"inactive": 5}
    start = now_ms()
    for number, time in ((3, start), (0, start), (1, start), (2, start + 5), (4, start + 62_000)):
        with transaction(engine) as connection:
            mine = rank_events.c.id == f"event {number}"
            connection.execute(update(rank_events).where(mine).values(activated_at=time))
    monkeypatch.setattr(rank_export, "now_ms", lambda: start + 61_000)
    done = export_ranks(engine, REWARD, out)  # two parts: four activations, three in a part
    assert (done.new_rounds, done.rounds) == (4, 9)
    assert export_ranks(engine, REWARD, out).new_rounds == 0
    monkeypatch.setattr(rank_export, "now_ms", lambda: start + 130_000)
    assert export_ranks(engine, REWARD, out).new_rounds == 1
    ids = read_feature_log(out).event_id.tolist()
    assert sorted(ids) == [f"event {number}" for number in range(10)]
    assert ids[5:] == ["event 0", "event 1", "event 3", "event 2", "event 4"]


def test_a_deferred_event_waits_for_its_window(engine, tmp_path):
    out = tmp_path / "log"
    now = now_ms()
    add(engine, 0, 1)
    add(engine, 1, 2, time=now, activated_at=None)
    assert export_ranks(engine, REWARD, out).rounds == 1
    with transaction(engine) as connection:
        mine = rank_events.c.id == "event 1"
        connection.execute(update(rank_events).where(mine).values(activated_at=now - 70_000))
    assert export_ranks(engine, REWARD, out).rounds == 1  # activated, but its reward may still change
    with transaction(engine) as connection:
        connection.execute(update(rank_events).where(mine).values(time=OLD))
    assert export_ranks(engine, REWARD, out).rounds == 2


def test_a_clock_that_steps_back_exports_no_event_twice(engine, tmp_path, monkeypatch):
    out = tmp_path / "log"
    now = now_ms()
    add(engine, 0, 2, activated_at=now + 5_000)
    for number, seconds in ((2, 70), (3, 50), (4, 200)):
        monkeypatch.setattr(rank_export, "now_ms", lambda seconds=seconds: now + 1_000 * seconds)
        export_ranks(engine, REWARD, out)
        add(engine, number, number + 1)
    assert read_feature_log(out).event_id.tolist() == [f"event {number}" for number in range(4)]


def test_only_deferred_events_wait_for_a_minute_after_their_activation(engine, tmp_path, monkeypatch):
    out, reward = tmp_path / "log", replace(REWARD, wait_seconds=2.0)
    now = now_ms()
    recent = now - 10_000
    add(engine, 0, 2, time=recent, activated_at=recent)
    add(engine, 2, 4, time=recent, activated_at=recent + 1)
    done = export_ranks(engine, reward, out)
    assert (done.rounds, done.left_out) == (2, {"waiting": 2})
    assert export_ranks(engine, reward, out).new_rounds == 0
    monkeypatch.setattr(rank_export, "now_ms", lambda: now + 61_000)
    done = export_ranks(engine, reward, out)
    assert (done.new_rounds, done.rounds, done.left_out) == (2, 4, {})
    assert sorted(read_feature_log(out).event_id) == [f"event {number}" for number in range(4)]


def test_the_export_stops_at_the_first_open_window(engine, tmp_path):
    out = tmp_path / "log"
    add(engine, 0, 2)
    add(engine, 2, 3, time=now_ms(), activated_at=now_ms())
    add(engine, 3, 5)
    done = export_ranks(engine, REWARD, out)
    assert (done.rounds, done.left_out) == (2, {"waiting": 3})
    with transaction(engine) as connection:
        mine = rank_events.c.id == "event 2"
        connection.execute(update(rank_events).where(mine).values(time=OLD, activated_at=OLD))
    assert export_ranks(engine, REWARD, out).rounds == 5
    assert read_feature_log(out).event_id.tolist() == [f"event {number}" for number in range(5)]


def test_a_number_that_another_process_commits_late_is_exported(engine, tmp_path):
    out = tmp_path / "log"
    add(engine, 0, 5)
    log = in_memory(engine)
    with transaction(engine) as connection:  # as if it were not committed yet
        hidden = connection.execute(rank_events.select().where(rank_events.c.id == "event 1")).mappings().one()
        signals = connection.execute(rank_signals.select().where(rank_signals.c.event_id == "event 1")).mappings().all()
        connection.execute(delete(rank_signals).where(rank_signals.c.event_id == "event 1"))
        connection.execute(delete(rank_events).where(rank_events.c.id == "event 1"))
    assert export_ranks(engine, REWARD, out).rounds == 4
    with transaction(engine) as connection:
        connection.execute(insert(rank_events).values(dict(hidden)))
        connection.execute(insert(rank_signals), [dict(row) for row in signals])
    assert export_ranks(engine, REWARD, out).new_rounds == 1
    order = np.argsort([int(name.split()[1]) for name in read_feature_log(out).event_id])
    assert read_feature_log(out).select(order, "sorted").digest == log.digest


def test_strategies_and_slots(engine, tmp_path):
    out = tmp_path / "log"
    add(engine, 0, 4, task="strategy")
    with pytest.raises(DataError, match="no ranked event has a final reward yet; left out: none"):
        export_ranks(engine, REWARD, out)
    slots = [rank_event(id="s", slot=slot, slot_id=f"s{slot}", time=OLD, activated_at=OLD) for slot in range(2)]
    with transaction(engine) as connection:
        insert_rank_events(connection, slots)
    assert export_ranks(engine, REWARD, out).rounds == 2
    assert read_feature_log(out).event_id.tolist() == ["s slot s0", "s slot s1"]


def test_what_an_export_cannot_continue_is_refused(engine, tmp_path):
    out = tmp_path / "log"
    add(engine, 0, 4)
    export_ranks(engine, REWARD, out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    add(engine, 4, 6)
    with pytest.raises(DataError, match="its rewards have other settings"):
        export_ranks(engine, replace(REWARD, wait_seconds=300), out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    write_feature_log(in_memory(engine), tmp_path / "other")
    with pytest.raises(DataError, match="not an export of a server in parts"):
        export_ranks(engine, REWARD, tmp_path / "other")


def test_actions_of_another_part_are_refused(engine, tmp_path):
    out = tmp_path / "log"
    add(engine, 0, 6)
    export_ranks(engine, REWARD, out)
    (out / "actions-000001.parquet").write_bytes((out / "actions.parquet").read_bytes())
    with pytest.raises(DataError, match=r"actions-000001.parquet: its actions are not those that rounds-000001"):
        read_feature_log(out)


def test_an_erased_user_leaves_the_parts_and_does_not_come_back(engine, tmp_path):
    out = tmp_path / "log"
    add(engine, 0, 9)
    with transaction(engine) as connection:  # a text id among numbers, so the column is JSON
        connection.execute(update(rank_events).where(rank_events.c.id == "event 1").values(user_key='"3"'))
    export_ranks(engine, REWARD, out)
    done = erase_from_log(out, 3)
    assert (done.rounds, done.rewards) == (2, 0)  # events 3 and 7, not the user "3"
    log = read_feature_log(out)
    assert set(log.event_id) == {f"event {number}" for number in (0, 1, 2, 4, 5, 6, 8)}
    add(engine, 9, 10)
    assert export_ranks(engine, REWARD, out).new_rounds == 1
    assert len(read_feature_log(out)) == 8
    assert erase_from_log(out, "3").rounds == 1
    assert erase_from_log(out, "nobody").rounds == 0
