import threading

import pytest
from event_factory import event
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import func, select

from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import insert_events
from recpolicy.server.db.feedback import REWARD_TYPES, FeedbackItem, RewardRules, apply_feedback, compute_reward
from recpolicy.server.db.schema import feedback, rewards

RULES = RewardRules((1.0, 5.0), window_ms=10_000)
NOW = 1_000_500
TYPES = REWARD_TYPES


@pytest.fixture
def engine(each_engine):
    return each_engine


def keep(engine, *shown):
    with transaction(engine) as connection:
        insert_events(connection, shown)


def say(engine, *said, time=NOW):
    with transaction(engine) as connection:
        return apply_feedback(connection, said, time, RULES)


def rewards_of(engine):
    with engine.connect() as connection:
        columns = (rewards.c.event_id, rewards.c.position, rewards.c.reward)
        return {(row[0], row[1]): row[2] for row in connection.execute(select(*columns))}


def test_the_first_feedback_on_a_item_sets_its_reward_and_no_other_does(engine):
    shown = event()
    keep(engine, shown)
    outcomes = say(
        engine,
        FeedbackItem(shown.id, 8, "rating", 4.5),
        FeedbackItem(shown.id, 8, "skip", 1.0),
        FeedbackItem(shown.id, None, "like", 1.0),
    )
    assert [(one.status, one.reward) for one in outcomes] == [("accepted", 4.5), ("accepted", None), ("accepted", 5.0)]
    assert rewards_of(engine) == {(shown.id, 1): 4.5, (shown.id, 0): 5.0}


def test_what_is_said_twice_is_taken_once_in_one_batch_and_in_two(engine):
    shown = event()
    keep(engine, shown)
    same = FeedbackItem(shown.id, 7, "rating", 3.0)
    assert [one.status for one in say(engine, same, same)] == ["accepted", "duplicate"]
    assert [one.status for one in say(engine, same)] == ["duplicate"]
    assert say(engine, FeedbackItem(shown.id, 7, "rating", 3.5))[0].status == "conflict"
    assert rewards_of(engine) == {(shown.id, 0): 3.0}


def test_feedback_after_the_window_is_kept_and_gives_no_reward(engine):
    shown = event()
    keep(engine, shown)
    assert say(engine, FeedbackItem(shown.id, 7, "like", 1.0), time=1_010_001)[0].status == "late"
    assert rewards_of(engine) == {}
    with engine.connect() as connection:
        assert connection.scalar(select(feedback.c.late)) in (True, 1)


def test_a_clock_that_went_back_makes_nothing_late(engine):
    shown = event()
    keep(engine, shown)
    assert say(engine, FeedbackItem(shown.id, 7, "like", 1.0), time=0)[0].status == "accepted"


@pytest.mark.parametrize(
    ("said", "status"),
    [
        (FeedbackItem("0" * 32, None, "like", 1.0), "unknown_event"),
        (FeedbackItem("", 9, "like", 1.0), "unknown_item"),
        (FeedbackItem("", "7", "like", 1.0), "unknown_item"),
        (FeedbackItem("", 7, "rating", 5.01), "rating_out_of_range"),
        (FeedbackItem("", 7, "rating", 0.99), "rating_out_of_range"),
    ],
)
def test_what_cannot_be_is_refused_and_leaves_nothing(engine, said, status):
    shown = event()
    keep(engine, shown)
    said = FeedbackItem(said.event_id or shown.id, said.item, said.type, said.value)
    assert say(engine, said)[0].status == status
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(feedback)) == 0


def test_several_at_once_set_one_reward(engine):
    shown = event()
    keep(engine, shown)
    outcomes = []

    def one(value):
        outcomes.extend(say(engine, FeedbackItem(shown.id, 7, "rating", value)))

    threads = [threading.Thread(target=one, args=(1.0 + number % 5,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.status for one in outcomes if one.status == "accepted") == ["accepted"]
    assert len(outcomes) == 8
    (reward,) = rewards_of(engine).values()
    assert [one.reward for one in outcomes if one.reward is not None] == [reward]


@given(st.sampled_from(TYPES), st.floats(0, 1))
@settings(max_examples=50)
def test_every_reward_lies_on_the_scale(kind, value):
    value = 1 + 4 * value if kind == "rating" else value
    assert 1.0 <= compute_reward(FeedbackItem("e", None, kind, value), (1.0, 5.0)) <= 5.0


def test_rewards_of_each_kind_by_hand():
    said = {kind: compute_reward(FeedbackItem("e", None, kind, 0.5), (1.0, 5.0)) for kind in TYPES}
    assert said == {"rating": 0.5, "like": 5.0, "skip": 1.0, "complete": 5.0, "share": 5.0, "watch_fraction": 3.0}
