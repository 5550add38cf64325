"""Ranked events in the database, the spool, retention and erasure, on both databases."""

import asyncio
import json
from contextlib import closing

import pytest
from api_keys import bearing, key_for
from client_helpers import ask
from event_factory import event
from rank_events import rank_event
from ranking import REQUEST, ValuePolicy, ranking
from sqlalchemy import func, select, text
from waiting import wait_until

from recpolicy.core.errors import StoreError
from recpolicy.server.db.deletion import Deleted, delete_before, delete_user
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.feedback import RewardRules
from recpolicy.server.db.rank_events import REFRESH_MS, insert_rank_events
from recpolicy.server.db.rank_signals import Activation, RankSignal, apply_rank_actions
from recpolicy.server.db.schema import action_rows, events, rank_events, rank_signals
from recpolicy.server.db.spool import Spool, event_line, parse_event
from recpolicy.server.db.spool_erasure import erase_from_spool
from recpolicy.server.db.writer import GroupCommitWriter

RULES = RewardRules((1.0, 5.0), window_ms=10_000, signal_window_ms=10_000)


def writer_of(engine, folder):
    return closing(GroupCommitWriter(engine, Spool(folder / "spool"), lambda: RULES))


def counts(engine):
    """Return the numbers of events, signals and actions."""
    with engine.connect() as connection:
        tables = (rank_events, rank_signals, action_rows)
        return tuple(connection.scalar(select(func.count()).select_from(table)) for table in tables)


def store(engine, *stored, rewarded=()):
    with transaction(engine) as connection:
        outcomes = insert_rank_events(connection, stored)
        apply_rank_actions(connection, [RankSignal(one.id, "click", 1.0) for one in rewarded], 1_000_100, 10_000)
    return [outcome.status for outcome in outcomes]


def test_a_writer_stores_lists_ranks_signals_and_activations(each_engine, tmp_path):
    ranked, listed = rank_event(activated_at=None), event()

    async def go(writer):
        assert await writer.events([listed]) is None
        assert [outcome.status for outcome in await writer.ranks([ranked])] == ["stored"]
        assert [outcome.status for outcome in await writer.ranks([ranked])] == ["known"]
        batch = [RankSignal(ranked.id, "click", 1.0), Activation(ranked.id), RankSignal(ranked.id, "click", 1.0)]
        return await writer.feedback(batch, ranked.time)

    with writer_of(each_engine, tmp_path) as writer:
        outcomes = asyncio.run(go(writer))
    assert [outcome.status for outcome in outcomes] == ["inactive", "activated", "accepted"]
    assert counts(each_engine) == (1, 2, 2)
    with each_engine.connect() as connection:
        row = connection.execute(select(rank_events)).one()._asdict()
    expected = ranked._asdict() | {"activated_at": ranked.time, "seq": row["seq"], "guardrails": None}
    assert row == {name: value for name, value in expected.items() if name != "rows"}


def test_of_two_requests_with_one_id_in_a_group_the_first_is_stored(each_engine):
    first, second = rank_event(id="same"), rank_event(id="same", request_digest="e" * 32)
    assert store(each_engine, first, second) == ["stored", "known"]
    with each_engine.connect() as connection:
        assert connection.scalars(select(rank_events.c.request_digest)).all() == [first.request_digest]


def test_all_slots_of_a_known_id_are_left_out(each_engine):
    one = rank_event(id="same")
    slots = [rank_event(id="same", slot=slot, slot_id=f"s{slot}") for slot in range(2)]
    assert store(each_engine, one) == ["stored"]
    assert store(each_engine, *slots) == ["known", "known"]
    assert counts(each_engine)[0] == 1


def test_a_line_of_the_spool_is_the_event(tmp_path):
    for one in rank_event(), rank_event(user="x", slot=1, slot_id="s", imitated=True, activated_at=None):
        assert parse_event(event_line(one).encode()) == one


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rows": ['{"id":"z"}', '{"id":"b"}']}, "an action of the event is damaged"),
        ({"rows": []}, "differ in their number"),
        ({"offers": ""}, "differ in their number"),
        ({"time": "1"}, "time is of type str; expected int"),
        ({"rows": [1, 2]}, "rows is not a list of texts"),
        ({"color": 1}, "unknown keys color"),
    ],
)
def test_a_damaged_line_says_why(change, message):
    line = json.dumps(json.loads(event_line(rank_event())) | change)
    with pytest.raises(ValueError, match=message):
        parse_event(line.encode())


def test_while_the_database_is_down_ranks_go_to_the_spool_and_come_back(engine, tmp_path):
    ranked, listed = rank_event(id="spooled", user=7), event()

    async def go(writer):
        writer._recovery.begin(StoreError("down"))  # until the next probe
        assert await writer.ranks([ranked]) == []
        assert await writer.events([listed]) is None

    spool = Spool(tmp_path / "spool")
    with closing(GroupCommitWriter(engine, spool, lambda: RULES)) as writer:
        with engine.connect() as blocker:  # a lock that the probe waits for
            blocker.exec_driver_sql("BEGIN IMMEDIATE")
            asyncio.run(go(writer))
            assert writer.spooled == 2
            blocker.rollback()
        for _ in range(100):
            if counts(engine)[0]:
                break
            asyncio.run(asyncio.sleep(0.1))
    assert counts(engine) == (1, 0, 2)
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(events)) == 1


def test_replayed_ranks_are_stored_once(each_engine, tmp_path):
    ranked = rank_event()
    with closing(Spool(tmp_path / "spool")) as spool:
        spool.append([ranked, rank_event(), ranked])
    store(each_engine, ranked)
    with writer_of(each_engine, tmp_path) as writer:
        for _ in range(100):
            if writer._spool.is_empty():
                break
            asyncio.run(asyncio.sleep(0.1))
    assert counts(each_engine)[0] == 2


def test_a_value_that_the_database_refuses_stops_no_other(each_engine, tmp_path):
    good, bad = rank_event(), rank_event(id="x" * 257, context="\0" if each_engine.dialect.name != "sqlite" else "{}")

    async def go(writer):
        return await asyncio.gather(writer.ranks([bad]), writer.ranks([good]), return_exceptions=True)

    with writer_of(each_engine, tmp_path) as writer:
        _, answer = asyncio.run(go(writer))
    assert [outcome.status for outcome in answer] == ["stored"]


def test_old_ranks_go_with_their_signals_and_unused_actions(each_engine):
    old = [rank_event(time=1_000 + number, actions=("a", f"old{number}")) for number in range(5)]
    new = rank_event(time=2 * REFRESH_MS, actions=("a", "new"))
    store(each_engine, *old, new, rewarded=[old[0], old[4], new])
    deleted = delete_before(each_engine, 2 * REFRESH_MS, at_once=2)
    assert deleted == Deleted(ranks=5, signals=2, actions=5)
    assert counts(each_engine) == (1, 1, 2)
    assert delete_before(each_engine, 2 * REFRESH_MS) == Deleted()


def test_an_action_in_use_is_never_deleted(each_engine):
    """Its time of use is written once an hour, so it may be that much older than its last event."""
    for time in range(0, 3 * REFRESH_MS, REFRESH_MS // 3):
        store(each_engine, rank_event(time=time, actions=("a",)))
    for before in range(0, 3 * REFRESH_MS, REFRESH_MS // 7):
        delete_before(each_engine, before)
        assert (counts(each_engine)[2] == 1) or counts(each_engine)[0] == 0
    assert counts(each_engine)[2] == 1


def test_a_user_goes_with_the_actions_that_nobody_else_was_offered(each_engine):
    mine = [rank_event(user="mallory", actions=("a", "mine")), rank_event(user="mallory", actions=("b", "own"))]
    others = [rank_event(user=5, actions=("a", "c")), rank_event(actions=("b",))]
    store(each_engine, *mine, *others, rewarded=[mine[0], others[0]])
    assert delete_user(each_engine, '"mallory"') == Deleted(ranks=2, signals=1, actions=2)
    assert counts(each_engine) == (2, 1, 3)
    assert delete_user(each_engine, '"mallory"') == Deleted()


def test_the_erasure_of_a_user_reaches_database_and_spool(tmp_path):
    with ranking(tmp_path / "registry", ValuePolicy()) as app:
        folder = app.state.server.folder
        for user in ("mallory", 7):
            body = REQUEST | {"user": user, "context": {"name": f"name of {user}"}}
            assert ask(app, "POST", "/v1/rank", body).status_code == 200
        operator = bearing(key_for(app, "operator"))
        erased = ask(app, "POST", "/v1/admin/users/erase", {"user": "mallory"}, headers=operator).json()
        assert (erased["ranks"], erased["signals"], erased["actions"], erased["other_id_events"]) == (1, 0, 0, 0)
        erased = ask(app, "POST", "/v1/admin/users/erase", {"user": "7", "as_policy": False}, headers=operator).json()
        assert (erased["ranks"], erased["other_id_events"]) == (0, 1)
        erased = ask(app, "POST", "/v1/admin/users/erase", {"user": "7", "as_policy": True}, headers=operator).json()
        assert (erased["user"], erased["ranks"]) == (7, 1)
    left = b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())
    assert b"name of" not in left


def test_a_user_goes_from_the_spool(tmp_path):
    with closing(Spool(tmp_path)) as spool:
        spool.append([rank_event(user="mallory"), rank_event(user=7), event(user="mallory")])
        assert erase_from_spool(tmp_path, '"mallory"') == 2
    assert not any(b"mallory" in path.read_bytes() for path in tmp_path.iterdir())


def test_late_is_measured_from_the_rank(engine):
    ranked = rank_event(time=now_ms() - 10_001)
    store(engine, ranked)
    with transaction(engine) as connection:
        (outcome,) = apply_rank_actions(connection, [RankSignal(ranked.id, "click", 1.0)], now_ms(), 10_000)
    assert outcome.status == "late"
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT late FROM rank_signals")) == 1


def test_a_rank_is_answered_and_kept_while_another_process_holds_the_database(tmp_path):
    with ranking(tmp_path / "registry", ValuePolicy()) as app:
        engine, writer = app.state.server.store.engine, app.state.server.store.writer
        with engine.connect() as blocker:
            blocker.exec_driver_sql("BEGIN IMMEDIATE")
            answer = ask(app, "POST", "/v1/rank", REQUEST | {"event_id": "kept"})
            assert (answer.status_code, answer.json()["event_id"]) == (200, "kept")
            assert writer.spooled == 1
            assert ask(app, "POST", "/v1/events/kept/reward", {}).status_code == 503
            blocker.rollback()
        wait_until(lambda: counts(engine)[0], "the replay")
        assert counts(engine) == (1, 0, 3)
        wait_until(lambda: not writer.down, "the end of the outage")
        assert ask(app, "POST", "/v1/events/kept/reward", {}).json()["status"] == "accepted"
