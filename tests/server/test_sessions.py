"""Sessions of requests: named, made by the server, checked against the store, and answered without it."""

import asyncio
import json
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from alembic import command
from alembic.config import Config
from client_helpers import ask, refusal
from databases import KINDS, new_url
from event_factory import event
from sqlalchemy import select, text, update
from sqlalchemy.exc import OperationalError
from tiny_policies import write_tiny
from tiny_session_policies import write_tiny_sessions
from unlimited import UNLIMITED

from recpolicy.core.errors import SessionError, StoreError
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.server import sessions as sessions_module
from recpolicy.server.app import make_app
from recpolicy.server.db.engine import _MIGRATIONS, migrate, transaction
from recpolicy.server.db.events import insert_events, now_ms
from recpolicy.server.db.schema import events
from recpolicy.server.db.session_events import SessionEvent, StoredSession, find_conflict, read_session, shown_items
from recpolicy.server.db.spool import Spool
from recpolicy.server.lifespan import open_state, stateless_state
from recpolicy.server.live_models import CHALLENGER
from recpolicy.server.rollout.variant_answers import answer_by_variant
from recpolicy.server.schemas.responses import Recommendation

SETTINGS = replace(UNLIMITED, exploration=ExplorationConfig(share=0.0))
ITEMS = 40


@pytest.fixture
def app(tmp_path):
    """A server of a session policy of 40 items."""
    folder = write_tiny_sessions(tmp_path / "policy", items=ITEMS, steps=20)
    with open_state(folder, tmp_path / "state", SETTINGS) as state:
        yield make_app(state)


@pytest.fixture
def rounds_app(tmp_path):
    """A server of a policy of single rounds."""
    with open_state(write_tiny(tmp_path / "policy"), tmp_path / "state", SETTINGS) as state:
        yield make_app(state)


def recommend(app, history=(), k=2, user=3, **fields):
    """The answer to a request after the items of a history, all of them liked."""
    shown = [{"item": item, "liked": True} for item in history]
    body = {"user": user, "k": k, "exclude_rated": False, "history": shown, **fields}
    return ask(app, "POST", "/v1/recommend", body)


def listed(answer):
    """The session of a list, and its items."""
    assert answer.status_code == 200, answer.text
    body = Recommendation.model_validate(answer.json(), extra="forbid").model_dump()
    return body["session"], [item["item_id"] for item in body["items"]]


def conflict(answer):
    return refusal(answer, 409, "session_conflict")


def stored(app):
    with app.state.server.store.engine.connect() as connection:
        return [tuple(row) for row in connection.execute(select(events.c.session_id, events.c.step).order_by("seq"))]


def age(app, minutes):
    """Move all events into the past."""
    with transaction(app.state.server.store.engine) as connection:
        connection.execute(update(events).values(time=now_ms() - round(60_000 * minutes)))


def test_a_named_session_goes_on_by_as_many_items_as_its_history_says(app):
    session, first = listed(recommend(app, session_id="s-1", k=3))
    assert session == {"id": "s-1", "step": 0}
    session, second = listed(recommend(app, first[:1], session_id="s-1", k=3))
    assert session == {"id": "s-1", "step": 1}
    shown = [*first[:1], *second]  # all three
    session, _ = listed(recommend(app, shown, session_id="s-1"))
    assert session == {"id": "s-1", "step": 4}
    assert stored(app) == [("s-1", 0), ("s-1", 1), ("s-1", 4)]


def test_a_named_session_is_no_other_users(app):
    _, first = listed(recommend(app, session_id="s"))
    assert conflict(recommend(app, first[:1], session_id="s", user=4)) == (
        "session_id s: the session belongs to another user; begin another session"
    )
    assert "another user" in conflict(recommend(app, session_id="s", user=4))
    assert stored(app) == [("s", 0)]


def test_steps_out_of_order_or_repeated_are_refused(app):
    _, first = listed(recommend(app, session_id="s"))
    assert conflict(recommend(app, session_id="s")) == (
        "session_id s: the history has 0 items, but the session was at step 0 already; expected a history of 1 or more"
        " items"
    )
    _, second = listed(recommend(app, first[:1], session_id="s"))
    listed(recommend(app, [*first[:1], *second], session_id="s"))
    for shown in (first[:1], [*first[:1], second[0]], [*first[:1], *second]):
        assert "was at step 3 already; expected a history of 4" in conflict(recommend(app, shown, session_id="s"))


def test_a_history_longer_than_the_session_is_refused(app):
    assert "has 1 items, but the session has shown none" in conflict(recommend(app, [101], session_id="s"))
    _, first = listed(recommend(app, session_id="s"))
    other = next(item for item in range(100, 100 + ITEMS) if item not in first)
    assert "has 3 items, but the lists of the session had 2" in conflict(
        recommend(app, [*first, other], session_id="s")
    )


def test_a_history_of_other_items_is_refused_by_its_first_wrong_item(app):
    _, first = listed(recommend(app, session_id="s"))
    message = conflict(recommend(app, first[::-1], session_id="s"))
    assert f"item 0 of the history is not the one that the session has shown there ({first[0]})" in message
    _, second = listed(recommend(app, first[:1], session_id="s"))
    other = next(item for item in range(101, 101 + ITEMS) if item not in (first[0], second[0]))
    assert "item 1 of" in conflict(recommend(app, [first[0], other], session_id="s"))


def test_a_server_makes_sessions_for_a_session_policy(app):
    session, first = listed(recommend(app))
    assert session["step"] == 0
    assert len(session["id"]) == 32
    again, _ = listed(recommend(app, first))
    assert again == {"id": session["id"], "step": 2}
    other, _ = listed(recommend(app, user=4))
    fresh, _ = listed(recommend(app))
    assert len({session["id"], other["id"], fresh["id"]}) == 3


def test_a_session_of_a_server_ends_after_the_gap(app):
    session, first = listed(recommend(app))
    age(app, 29)
    assert listed(recommend(app, first[:1]))[0] == {"id": session["id"], "step": 1}
    age(app, 31)
    assert listed(recommend(app, first))[0] is None  # a history of no session
    assert stored(app)[-1] == (None, 2)


def test_a_history_that_fits_no_session_is_answered_without_one(app):
    _, first = listed(recommend(app))
    assert listed(recommend(app, first[::-1]))[0] is None
    assert listed(recommend(app, first, user=4))[0] is None


def test_policies_of_rounds_store_named_sessions_only(rounds_app):
    def listed_of(**fields):
        return listed(ask(rounds_app, "POST", "/v1/recommend", {"user": 3, "k": 1, **fields}))[0]

    assert listed_of() is None
    assert [listed_of(session_id="s")["step"] for _ in range(3)] == [0, 1, 2]
    answer = ask(rounds_app, "POST", "/v1/recommend", {"user": 4, "k": 1, "session_id": "s"})
    assert "another user" in conflict(answer)


@pytest.mark.parametrize("session_id", ["", "a" * 65, 'a"b', "a b", "ä", 7, None])
def test_an_id_that_is_none_is_refused_by_the_schema(app, session_id):
    answer = recommend(app, session_id=session_id)
    if session_id is None:
        assert listed(answer)[0]["step"] == 0
    else:
        assert "session_id" in refusal(answer, 422, "invalid_request")


def test_a_batch_has_one_list_of_a_session_and_errors_in_their_places(app):
    listed(recommend(app, session_id="s"))
    requests = [{"user": 3, "k": 1, "session_id": "s"}, {"user": 3, "k": 1, "session_id": "t"}]
    answers = ask(app, "POST", "/v1/recommend/batch", {"requests": requests}).json()["answers"]
    assert answers[0]["error"]["code"] == "session_conflict"
    assert answers[1]["session"] == {"id": "t", "step": 0}
    twice = ask(app, "POST", "/v1/recommend/batch", {"requests": requests[1:] * 2})
    assert "the same session_id occurs more than once" in refusal(twice, 422, "invalid_request")


def test_a_database_that_fails_or_hangs_delays_no_session(app, monkeypatch):
    _, first = listed(recommend(app, session_id="s"))
    service = app.state.server.sessions

    def fail(*_):
        raise OperationalError("", {}, Exception())

    monkeypatch.setattr(sessions_module, "read_session", fail)
    monkeypatch.setattr(sessions_module, "read_recent_sessions", fail)
    assert listed(recommend(app, first[:1], session_id="s"))[0] == {"id": "s", "step": 1}
    assert listed(recommend(app, first[:1]))[0] is None
    assert service.unread == 2
    assert stored(app)[-1] == (None, 1)
    assert "recpolicy_sessions_unread 2.0" in ask(app, "GET", "/metrics").text
    monkeypatch.undo()
    monkeypatch.setattr(sessions_module, "READ_SECONDS", 0.0)
    assert listed(recommend(app, first, session_id="s"))[0] == {"id": "s", "step": 2}


def test_events_that_wait_in_the_spool_prove_nothing(app, monkeypatch):
    listed(recommend(app, session_id="s"))
    server = app.state.server
    empty = [False]
    writer = SimpleNamespace(down=False, spools_are_empty=lambda: empty[0])
    monkeypatch.setattr(server.sessions, "_store", SimpleNamespace(engine=server.store.engine, writer=writer))
    requests = [SimpleNamespace(session_id="s", user=3, history=())]
    assert asyncio.run(server.sessions.read(server.models.live, requests)) is sessions_module.NO_SESSIONS
    empty[0] = True
    assert asyncio.run(server.sessions.read(server.models.live, requests)).is_read


def test_a_server_without_a_store_checks_no_session_and_names_none(tmp_path):
    folder = write_tiny_sessions(tmp_path / "policy", items=ITEMS, steps=20)
    app = make_app(stateless_state(folder, SETTINGS))
    assert listed(recommend(app, [101], session_id="s"))[0] is None


def test_reads_wait_for_a_slot_and_a_read_that_hangs_gives_it_back(app, monkeypatch):
    """More readers than slots are all answered with their sessions."""
    server = app.state.server
    for number in range(12):
        listed(recommend(app, session_id=f"s{number}"))
    requests = [SimpleNamespace(session_id=f"s{number}", user=3, history=()) for number in range(12)]

    async def all_at_once():
        reads = (server.sessions.read(server.models.live, [request]) for request in requests)
        return [sessions.is_read for sessions in await asyncio.gather(*reads)]

    async def play():
        monkeypatch.setattr(sessions_module, "READ_SECONDS", 30.0)
        assert all(await all_at_once())
        monkeypatch.setattr(sessions_module, "READ_SECONDS", 0.05)
        monkeypatch.setattr(sessions_module, "read_session", lambda *_: time.sleep(0.4))
        assert not any(await all_at_once())
        monkeypatch.undo()
        await asyncio.sleep(1.0)
        monkeypatch.setattr(sessions_module, "READ_SECONDS", 30.0)
        assert all(await all_at_once())

    asyncio.run(play())


def test_a_user_with_two_devices_has_two_sessions(app):
    """A history continues the latest session that it fits."""
    one, first = listed(recommend(app, k=3))
    other, second = listed(recommend(app, k=3, exclude=first))
    assert not set(first) & set(second)
    assert listed(recommend(app, first[:2]))[0] == {"id": one["id"], "step": 2}
    assert listed(recommend(app, second[:1]))[0] == {"id": other["id"], "step": 1}


def test_a_batch_continues_a_session_once(app):
    session, first = listed(recommend(app))
    body = {"user": 3, "k": 1, "exclude_rated": False, "history": [{"item": first[0], "liked": True}]}
    answers = ask(app, "POST", "/v1/recommend/batch", {"requests": [body, body]}).json()["answers"]
    assert answers[0]["session"] == {"id": session["id"], "step": 1}
    assert "session" not in answers[1]
    assert stored(app)[-2:] == [(session["id"], 1), (None, None)]


def test_after_a_lost_event_only_what_a_stored_list_contradicts_is_refused(app, monkeypatch):
    _, first = listed(recommend(app, session_id="s", k=2))
    server = app.state.server

    async def fail(*_):
        raise StoreError("disk full")

    monkeypatch.setattr(server.store.writer, "events", fail)
    answer = recommend(app, first[:1], session_id="s", k=2).json()
    assert (answer["event_id"], "session" in answer) == (None, False)
    lost = [item["item_id"] for item in answer["items"]]
    begun = [item["item_id"] for item in recommend(app, session_id="t", k=1).json()["items"]]
    monkeypatch.undo()
    assert listed(recommend(app, [first[0], lost[0]], session_id="s"))[0] == {"id": "s", "step": 2}
    assert listed(recommend(app, begun, session_id="t"))[0] == {"id": "t", "step": 1}
    assert "item 0 of the history" in conflict(recommend(app, [lost[0], first[0], lost[1]], session_id="s"))
    assert "at step 2 already" in conflict(recommend(app, [first[0], lost[0]], session_id="s"))


def test_lists_of_a_policy_of_rounds_do_not_count_as_shown_items(app):
    """As in a rollout, whose two versions may be of either kind."""
    _, first = listed(recommend(app, session_id="s"))
    with transaction(app.state.server.store.engine) as connection:
        insert_events(connection, [event(user=3, session_id="s", step=1, history=None, time=now_ms())])
    assert listed(recommend(app, first[:1], session_id="s"))[0] == {"id": "s", "step": 1}


def test_a_session_of_many_events_is_read_from_its_latest(tmp_path, new_engine):
    engine = new_engine(new_url("sqlite", tmp_path))
    migrate(engine)
    with transaction(engine) as connection:
        insert_events(connection, [event(session_id="s", step=step, history=b"") for step in range(300)])
        session = read_session(connection, "s")
        assert [each.step for each in session.events] == list(range(199, 300))
        assert read_session(connection, "s", with_items=False) == (session.user_key, 299, [])


def test_a_request_that_continues_no_session_is_no_failure_of_the_challenger():
    def answer(_):
        raise SessionError("the session belongs to another user")

    live = SimpleNamespace(challenger=object(), variant_for=lambda _: (None, CHALLENGER))
    with pytest.raises(SessionError, match="another user"):
        answer_by_variant(None, live, "3", answer)


def of_session(*lists):
    return StoredSession("3", lists[-1][0], [SessionEvent(step, json.dumps(items)) for step, items in lists])


def test_a_session_with_a_gap_in_the_store_checks_user_and_step_only():
    session = of_session((0, [1, 2]), (4, [5]))  # at most two items before step 4: an event is missing
    assert shown_items(session.events) is None
    assert find_conflict(session, "3", [1, 9, 9, 9, 5, 9, 9]) is None
    assert "item 4" in find_conflict(session, "3", [1, 9, 9, 9, 9, 9, 9])
    assert "another user" in find_conflict(session, "4", [9] * 7)
    assert "step 4" in find_conflict(session, "3", [1, 2])


def test_ids_of_another_type_are_other_items():
    assert "item 0" in find_conflict(of_session((0, [1])), "3", ["1"])


@pytest.mark.parametrize("kind", KINDS)
def test_events_of_before_belong_to_no_session(kind, tmp_path, new_engine):
    engine, config = new_engine(new_url(kind, tmp_path)), Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0010")
        later = ("session_id", "step", "weights")
        old = {name: value for name, value in event()._asdict().items() if name not in later}
        names, marks = ", ".join(old), ", ".join(f":{name}" for name in old)
        connection.execute(text(f"INSERT INTO events ({names}) VALUES ({marks})"), old)
        connection.commit()
    migrate(engine)
    with transaction(engine) as connection:
        assert connection.execute(select(events.c.session_id, events.c.step)).all() == [(None, None)]
        both = [event(session_id="s", step=1, history=b""), event(session_id="s", step=0, items=(9,), history=b"")]
        insert_events(connection, both)
        assert [each.step for each in read_session(connection, "s").events] == [0, 1]
        assert read_session(connection, "t") is None
    with engine.connect() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0010")
        connection.commit()
        assert connection.scalar(text("SELECT count(*) FROM events")) == 3


def test_the_spool_keeps_the_session(tmp_path):
    spool, replayed = Spool(tmp_path), []
    spool.append([event(session_id="s", step=4), event()])
    spool.replay(lambda rows: replayed.extend(rows) or [])
    spool.close()
    assert [(each.session_id, each.step) for each in replayed] == [("s", 4), (None, None)]
