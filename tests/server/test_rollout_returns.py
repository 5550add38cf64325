"""The retention criterion of rollouts: exact returns by variant, what follows from them, and the plan's settings."""

from dataclasses import replace

import numpy as np
import pytest
from event_factory import event
from rollout_fixtures import QUICK, rate, rolling

from recpolicy.core.errors import ConfigError
from recpolicy.core.statistics import Interval
from recpolicy.server.db.deletion import delete_user
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import id_key, insert_events
from recpolicy.server.db.rollout_returns import variant_returns
from recpolicy.server.rollout import controller
from recpolicy.server.rollout.return_metrics import compute_return_metrics
from recpolicy.server.rollout.rollout_plan import decide
from recpolicy.server.rollout.stage_metrics import ReturnMetrics, Returns, Rewards, StageMetrics
from recpolicy.server.settings import RolloutConfig

DAY, MINUTE = 86_400_000, 60_000
BEGIN = 20_000 * DAY
NOW = BEGIN + 10 * DAY


def store(engine, visits, variant="champion", first_user=0, rollout=1):
    """Store requests of users at days after the beginning; a list for each user."""
    rows = [
        event(first_user + number, time=BEGIN + round(day * DAY), variant=variant, rollout=rollout)
        for number, days in enumerate(visits) for day in days
    ]  # fmt: skip
    with transaction(engine) as connection:
        insert_events(connection, rows)


def returns(engine, days=3.0, now=NOW):
    with engine.connect() as connection:
        return variant_returns(connection, 1, BEGIN, days, 30 * MINUTE, now)


def test_a_user_counts_once_with_the_first_session_whose_window_is_over(each_engine):
    """Requests within 30 minutes are one session; day .01 is 14 minutes, so the session ends with the last of them."""
    store(
        each_engine,
        [
            [0.0, 0.01, 1.01],  # a session of two requests; back after exactly a day
            [0.0, 3.0, 3.5],  # back at the end of the window
            [0.0, 3.001],  # back a little too late
            [1.0],  # never back
            [7.5, 8.0],  # the window is not over: nobody knows about others like this one
            [-1.0, 9.0],  # the request before the stage does not count; the first one in it was just now
        ],
    )
    store(each_engine, [[0.0, 2.0], [0.0]], "challenger", first_user=100)
    store(each_engine, [[0.0, 1.0]], first_user=200, rollout=2)
    found = returns(each_engine)
    champion, challenger = found["champion"], found["challenger"]
    assert (champion.rate.users, champion.rate.mean) == (4, 0.5)
    assert champion.days.mean == pytest.approx((1 + 3 + 3 + 3) / 4)
    assert champion.days.variance == pytest.approx(1.0)  # squares: 1 + 9 + 9 + 9; mean 2.5
    assert (challenger.rate.users, challenger.rate.mean, challenger.days.mean) == (2, 0.5, 2.5)
    assert returns(each_engine, now=NOW + DAY)["champion"].rate.users == 5  # the return after half a day counts now
    delete_user(each_engine, id_key(3))
    assert returns(each_engine)["champion"].rate.mean == pytest.approx(2 / 3)


def test_a_variant_with_more_sessions_counts_no_user_twice(engine):
    """All come back with the same probability of a window; a variant that comes back sooner has more sessions."""
    store(engine, [[0.0, 1.0, 2.0, 3.0, 4.0], [0.0]] * 20)
    store(engine, [[0.0, 2.9, 9.0], [0.0]] * 20, "challenger", first_user=100)
    found = returns(engine)
    assert (found["champion"].rate.users, found["champion"].rate.mean) == (40, 0.5)
    assert (found["challenger"].rate.users, found["challenger"].rate.mean) == (40, 0.5)


def many(engine, share, variant, first_user, users=1_500):
    rng = np.random.default_rng(first_user)
    back = rng.random(users) < share
    store(engine, [[0.0, 1.0] if one else [0.0] for one in back], variant, first_user)


def test_a_planted_difference_is_found_and_equal_variants_are_not_told_apart(engine):
    many(engine, 0.6, "champion", 0)
    many(engine, 0.45, "challenger", 10_000)
    metrics = compute_return_metrics(returns(engine), 3.0, 0.95, 200)
    assert metrics.rate_difference.lo < -0.15 < metrics.rate_difference.hi < -0.02
    assert metrics.days_difference.lo > 0  # they come back later
    same = compute_return_metrics(
        {"champion": returns(engine)["champion"], "challenger": returns(engine)["champion"]}, 3.0, 0.95, 200
    )
    assert same.rate_difference.lo < 0 < same.rate_difference.hi
    few = compute_return_metrics(returns(engine), 3.0, 0.95, 2_000)
    assert few.rate_difference.hi == np.inf
    plain = metrics.as_dict()
    assert set(plain["rate_difference"]) == set(plain["champion"]["rate"]) == {"value", "lo", "hi"}


PLAN = RolloutConfig(
    min_users=100, min_rewards=200, min_hours=2.0, max_hours=200.0, return_days=3.0, return_margin=0.02
)
ENOUGH = Rewards(100, 200, Interval(3.0, 2.9, 3.1))


def figures(lo, hi, users=100, other=100):
    found = ReturnMetrics(
        window_days=3.0, champion=Returns(other), challenger=Returns(users),
        rate_difference=Interval((lo + hi) / 2, lo, hi),
    )  # fmt: skip
    return StageMetrics(
        hours=80.0, champion=ENOUGH, challenger=ENOUGH, difference=Interval(0.0, -0.05, 0.05), returns=found
    )


@pytest.mark.parametrize(
    ("metrics", "action", "reason"),
    [
        (figures(-0.019, 0.03), "advance", "not worse"),
        (figures(-0.02, 0.03), "wait", "of the return rates may still be below -0.02"),
        (
            figures(-0.3, -0.021),
            "roll_back",
            "fewer users come back within 3 days: -0.161 [-0.300, -0.021], margin 0.02",
        ),
        (figures(-0.3, -0.02), "wait", "may still be below"),
        (
            figures(-0.01, 0.3, users=99),
            "wait",
            "returns: cannot tell: 99 of 100 users of the challenger were followed",
        ),
        (figures(-0.01, 0.3, other=99), "wait", "returns: cannot tell: 99 of 100 users of the champion were followed"),
        (
            replace(figures(-0.3, 0.3), hours=200.0),
            "roll_back",
            "the stage did not pass within 200 hours: the difference",
        ),
        (replace(figures(-0.3, -0.2), returns=None), "advance", "not worse"),
    ],
)
def test_what_follows_from_returns(metrics, action, reason):
    decision = decide(metrics, 0, PLAN)
    assert decision.action == action, decision
    assert reason in decision.reason


def test_no_stage_with_all_users_waits_for_returns_of_the_champion():
    assert decide(figures(-np.inf, np.inf, other=0), 2, PLAN).action == "promote"


def test_two_criteria_share_the_doubt_and_windows_must_fit_into_a_stage():
    assert PLAN.stage_level == pytest.approx(1 - 0.05 / 4)
    with pytest.raises(ConfigError, match="return_days is 14 and max_hours is 336: no user is followed for so long"):
        RolloutConfig(return_days=14.0)


def test_a_rollout_reports_returns_and_waits_for_them(tmp_path):
    plan = replace(QUICK, return_days=0.5, max_hours=48.0)
    with rolling(tmp_path, plan) as state:
        row = controller.start(state, 2, "tests")
        rate(state, row, 400, hours=13.0)
        status = controller.status(state)
        returned = status.metrics.returns
        assert status.metrics.as_dict()["returns"]["window_days"] == 0.5
        assert returned.challenger.users + returned.champion.users == 400
        assert returned.challenger.rate.value == 0  # nobody came back, so nobody tells the variants apart
        assert status.decision.action == "wait"
        assert "of the return rates may still be below -0.02" in status.decision.reason
        state.store.engine.dispose()
