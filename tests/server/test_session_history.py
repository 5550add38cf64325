"""The session that a session policy saw: stored with its event, also through the spool, and read back."""

import json

import numpy as np
import pytest
from databases import KINDS, new_url
from event_factory import event
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import select, text
from tiny_policies import tiny_artifact
from tiny_session_policies import tiny_session_artifact

from recpolicy.inference.scorer import Scorer
from recpolicy.server.db.engine import migrate, transaction
from recpolicy.server.db.events import insert_events
from recpolicy.server.db.schema import events
from recpolicy.server.db.session_history import pack_history, unpack_history
from recpolicy.server.db.spool import Spool
from recpolicy.server.live_models import LiveState, LoadedVersion
from recpolicy.server.recommend import NO_EXPLORATION, choose
from recpolicy.server.schemas.requests import MAX_K, RecommendRequest

SESSION = LiveState(LoadedVersion(Scorer(tiny_session_artifact(items=200)), 1))
PLAIN = LiveState(LoadedVersion(Scorer(tiny_artifact()), 1))


def chosen(live, **fields):
    return choose(live, RecommendRequest.model_validate({"user": 3, "k": 2, **fields}), NO_EXPLORATION).event


def items_shown(*pairs):
    return [{"item": item, "liked": liked} for item, liked in pairs]


@given(st.lists(st.tuples(st.integers(0, 2**31 - 1), st.booleans()), max_size=MAX_K))
def test_a_session_comes_back_as_it_was_packed(session):
    rows, liked = [row for row, _ in session], [like for _, like in session]
    packed = pack_history(np.array(rows, np.int32), liked)
    assert len(packed) == 4 * len(session)
    back_rows, back_liked = unpack_history(packed)
    assert (back_rows.tolist(), back_liked.tolist()) == (rows, liked)


def test_an_event_has_the_session_that_the_policy_saw_in_its_order():
    session = [(104, True), (101, False), (104, False)]
    rows, liked = unpack_history(chosen(SESSION, history=items_shown(*session)).history)
    scorer = SESSION.champion.scorer
    assert [scorer.item_ids[row] for row in rows] == [104, 101, 104]
    assert liked.tolist() == [True, False, False]


def test_the_first_request_of_a_session_has_an_empty_one_and_other_policies_none():
    assert chosen(SESSION).history == b""
    assert chosen(SESSION, history=[]).history == b""
    assert chosen(SESSION, exclude=[101]).history == b""
    assert chosen(PLAIN).history is None
    assert chosen(PLAIN, exclude=[101]).history is None


def test_the_longest_session_has_400_bytes():
    shown = items_shown(*((101 + place, True) for place in range(MAX_K)))
    assert len(chosen(SESSION, history=shown).history) == 400
    with pytest.raises(ValueError, match="at most 100"):
        RecommendRequest.model_validate({"user": 3, "history": [*shown, shown[0]]})


def test_the_database_has_it(each_engine):
    stored = [chosen(SESSION, history=items_shown((104, True))), chosen(SESSION), chosen(PLAIN)]
    with transaction(each_engine) as connection:
        insert_events(connection, stored)
        rows = connection.execute(select(events.c.history).order_by(events.c.seq)).scalars().all()
    assert [None if row is None else bytes(row) for row in rows] == [one.history for one in stored]


def test_the_spool_has_it_and_events_of_older_spools_have_none(tmp_path):
    stored, replayed = [chosen(SESSION, history=items_shown((104, True))), chosen(SESSION), event()], []
    spool = Spool(tmp_path)
    spool.append(stored)
    spool.replay(lambda rows: replayed.extend(rows) or [])
    assert replayed == stored
    spool.close()
    row = {name: value for name, value in event()._asdict().items() if name != "history"}
    (tmp_path / "1-a.jsonl").write_text(json.dumps(row) + "\n")
    spool = Spool(tmp_path)
    spool.replay(lambda rows: replayed.extend(rows) or [])
    assert replayed[-1].history is None
    spool.close()


@pytest.mark.parametrize("kind", KINDS)
def test_events_of_before_have_none(kind, tmp_path, new_engine):
    from alembic import command
    from alembic.config import Config

    from recpolicy.server.db import engine as engine_module

    engine, config = new_engine(new_url(kind, tmp_path)), Config()
    config.set_main_option("script_location", str(engine_module._MIGRATIONS))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0004")
        later = ("history", "guardrails", "session_id", "step", "weights")
        fields = [name for name in event()._fields if name not in later]
        marks = ", ".join(f":{name}" for name in fields)
        connection.execute(text(f"INSERT INTO events ({', '.join(fields)}) VALUES ({marks})"), event()._asdict())
        connection.commit()
    migrate(engine)
    with engine.connect() as connection:
        assert connection.execute(select(events.c.history)).scalars().all() == [None]
