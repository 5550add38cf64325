"""Signals of a rollout's variants by segment: planted differences are found, and the numbers are those of the users."""

import numpy as np
import pandas as pd
import pytest
from client_helpers import ask
from event_factory import event
from rank_events import rank_event
from rollout_fixtures import rolling
from strategy_fixtures import key

from recpolicy.server.app import make_app
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import first_event_id, insert_events, new_event_id, now_ms
from recpolicy.server.db.feedback import DAY_MS, FeedbackItem, RewardRules, apply_feedback
from recpolicy.server.db.rank_events import insert_rank_events
from recpolicy.server.db.rank_signals import RankSignal, apply_rank_actions
from recpolicy.server.rollout import controller
from recpolicy.server.rollout.signal_metrics import ALL, compare_signals, read_unit_signals, segments
from recpolicy.server.schemas.rollouts import RolloutSignals

RULES = RewardRules((1.0, 5.0), DAY_MS)


def lists(users, variant, time, **fields):
    """A list for each user, an event of rollout 7."""
    return [
        event(user=user, variant=variant, rollout=7, time=time, id=first_event_id(time) + new_event_id()[12:], **fields)
        for user in users
    ]


def test_rates_and_values_are_means_over_users(each_engine):
    """User 1 likes one of two lists, user 2 none of one: the rate is (0.5 + 0) / 2.

    Explored and early lists do not count.
    """
    one, two = lists([1, 1, 2], "champion", 1_000), lists([3], "challenger", 1_000)
    rest = lists([1], "champion", 1_000, explored=True) + lists([1], "champion", 10)
    with transaction(each_engine) as connection:
        insert_events(connection, [*one, *two, *rest])
        said = [FeedbackItem(one[0].id, 7, "like", 1.0), FeedbackItem(two[0].id, 7, "revenue", 3.0)]
        said += [FeedbackItem(each.id, 7, "like", 1.0) for each in rest]
        apply_feedback(connection, said, 2_000, RULES)
    with each_engine.connect() as connection:
        units = read_unit_signals(connection, 7, 500)
    rows = {row["type"]: row for row in compare_signals(units, segments(units.key))}
    assert rows["like"]["users"] == {"champion": 2, "challenger": 1}
    assert rows["like"]["rate"]["champion"] == {"value": 0.25, "lo": None, "hi": None}
    assert rows["like"]["rate"]["difference"]["value"] == -0.25
    assert rows["revenue"]["value"]["difference"]["value"] == 3.0


def test_signals_of_ranks_are_compared_as_well(each_engine):
    shown = [rank_event(user=1, time=100, rollout=7), rank_event(time=100, rollout=7, variant="challenger")]
    with transaction(each_engine) as connection:
        insert_rank_events(connection, shown)
        apply_rank_actions(connection, [RankSignal(shown[1].id, "click", 1.0)] * 2, 200, 10_000)
    with each_engine.connect() as connection:
        units = read_unit_signals(connection, 7, 50)
    (row,) = compare_signals(units, {ALL: np.ones(2, bool)})
    assert row["rate"]["difference"]["value"] == 1
    assert row["value"]["challenger"]["value"] == 2


@pytest.mark.parametrize("lift", [0.0, 0.5])
def test_a_planted_lift_of_likes_is_found_and_none_is_not(engine, lift):
    """300 users a variant; the champion's like 20 of 100 lists."""
    rng = np.random.default_rng(0)
    shown = lists(range(300), "champion", 1_000) + lists(range(300, 600), "challenger", 1_000)
    likes = rng.random(600) < np.repeat([0.2, 0.2 + lift], 300)
    with transaction(engine) as connection:
        insert_events(connection, shown)
        said = [FeedbackItem(each.id, 7, "like", 1.0) for each, liked in zip(shown, likes, strict=True) if liked]
        apply_feedback(connection, said, 2_000, RULES)
    with engine.connect() as connection:
        units = read_unit_signals(connection, 7, 500)
    (row,) = compare_signals(units, segments(units.key))
    found = row["rate"]["difference"]
    assert (found["lo"] > 0) is (lift > 0)
    assert found["lo"] < lift < found["hi"]


def test_segments_are_those_of_the_training_data_and_the_route_shows_them(tmp_path):
    """Of the tiny policy's seven users the first has a rating, the median is 0; "new" is known to nobody.

    User 1 is a woman of 24, user 2 a man of 25; the age of user 7 is unknown.
    """
    with rolling(tmp_path) as state:
        users = pd.DataFrame(
            {"user_id": np.arange(1, 8), "age": [24, 25, 40, 40, 60, 60, None], "gender": list("FMFMFMF")}
        )
        users.to_parquet(state.require_registry().resolve(1) / "users.parquet", index=False)
        row = controller.start(state, 2, "test", {"stages": [0.5, 1.0]})
        now = now_ms() + 60_000
        shown = [each._replace(rollout=row.id) for each in lists([1, 2, "new"], "champion", now)]
        with transaction(state.store.engine) as connection:
            insert_events(connection, shown)
            apply_feedback(connection, [FeedbackItem(shown[0].id, 7, "like", 1.0)], now, RULES)
        app, reader = make_app(state), {"x-api-key": key(state, "reader")}
        path = "/v1/admin/rollouts/current/signals"
        assert ask(app, "GET", path).status_code == 401
        rows = RolloutSignals.model_validate(ask(app, "GET", path, headers=reader).json()).rows
        users = {each.segment: each.users["champion"] for each in rows}
        assert users == {
            "all users": 3, "new users": 1, "age under 25": 1, "age 25 to 34": 1, "gender F": 1, "gender M": 1,
            "fewer ratings": 1, "more ratings": 1,
        }  # fmt: skip
        rates = {each.segment: each.rate.champion.value for each in rows}
        assert (rates["more ratings"], rates["fewer ratings"]) == (1, 0)
        assert (rates["gender F"], rates["gender M"], rates["age under 25"], rates["age 25 to 34"]) == (1, 0, 1, 0)
        controller.stop(state, "test")
        assert ask(app, "GET", path, headers=reader).status_code == 404
