"""Rates of signals by day, version and task, against values worked out by hand."""

import numpy as np
import pytest
from event_factory import event
from rank_events import rank_event

from recpolicy.core.statistics import half_width
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import insert_events
from recpolicy.server.db.feedback import DAY_MS, FeedbackItem, RewardRules, apply_feedback
from recpolicy.server.db.rank_events import insert_rank_events
from recpolicy.server.db.rank_signals import RankSignal, apply_rank_actions
from recpolicy.server.db.signal_rates import ratio_from_sums, signal_rates

RULES = RewardRules((1.0, 5.0), window_ms=DAY_MS)


def rates(engine, since=0, until=None):
    with engine.connect() as connection:
        return {(rate.day, rate.version, rate.task, rate.type): rate for rate in signal_rates(connection, since, until)}


def test_rates_of_lists_are_shares_of_the_events_of_their_day_and_version(each_engine):
    """Day 3: three lists of version 1. User 1 likes both items of one and shares it; the like of user 2 is late."""
    noon = 3 * DAY_MS + DAY_MS // 2
    shown = [event(user=1, time=noon), event(user=1, time=noon + 1), event(user=2, time=noon)]
    other = [event(user=1, time=noon, version=2), event(user=1, time=noon + DAY_MS)]
    with transaction(each_engine) as connection:
        insert_events(connection, [*shown, *other])
        said = [
            FeedbackItem(shown[0].id, 7, "like", 1.0), FeedbackItem(shown[0].id, 8, "like", 1.0),
            FeedbackItem(shown[0].id, 7, "share", 1.0), FeedbackItem(shown[1].id, 7, "revenue", 2.5),
            FeedbackItem(other[1].id, 7, "skip", 1.0),
        ]  # fmt: skip
        apply_feedback(connection, said, noon + DAY_MS // 2 + 10, RULES)  # on the next day, within the window
        apply_feedback(connection, [FeedbackItem(shown[2].id, 7, "like", 1.0)], noon + 2 * DAY_MS, RULES)
    found = rates(each_engine)
    assert set(found) == {
        (3, 1, "list", "like"), (3, 1, "list", "share"), (3, 1, "list", "revenue"), (4, 1, "list", "skip"),
    }  # fmt: skip
    like, revenue = found[3, 1, "list", "like"], found[3, 1, "list", "revenue"]
    assert (like.events, like.users, like.with_signal) == (3, 2, 1)
    assert (like.rate.value, like.mean.value) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert (revenue.rate.value, revenue.mean.value) == (pytest.approx(1 / 3), pytest.approx(2.5 / 3))
    assert like.as_dict()["rate"] == {"value": pytest.approx(1 / 3), "lo": None, "hi": None}  # two users are too few
    assert found[4, 1, "list", "skip"].rate.value == 1
    assert set(rates(each_engine, 4 * DAY_MS)) == {(4, 1, "list", "skip")}
    assert set(rates(each_engine, until=4 * DAY_MS)) == set(found) - {(4, 1, "list", "skip")}


def test_rates_of_ranks_leave_out_deferred_events_and_keep_strategies_apart(each_engine):
    shown = [
        rank_event(user=1, time=5), rank_event(time=5), rank_event(time=5), rank_event(time=5, activated_at=None),
        rank_event(time=5, task="strategy"),
    ]  # fmt: skip
    with transaction(each_engine) as connection:
        insert_rank_events(connection, shown)
        said = [
            *(RankSignal(shown[1].id, "click", 1.0) for _ in range(2)), RankSignal(shown[3].id, "click", 1.0),
            RankSignal(shown[4].id, "like", 1.0), RankSignal(shown[4].id, "mood", -0.5),
        ]  # fmt: skip
        apply_rank_actions(connection, said, 10, 1_000)
    found = rates(each_engine)
    assert set(found) == {(0, 1, "rank", "click"), (0, 1, "strategy", "like"), (0, 1, "strategy", "mood")}
    click = found[0, 1, "rank", "click"]
    assert (click.events, click.users, click.with_signal) == (3, 3, 1)
    assert (click.rate.value, click.mean.value) == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert found[0, 1, "strategy", "mood"].mean.value == -0.5


def test_the_interval_is_that_of_a_ratio_over_users(each_engine):
    """40 users with 1 to 4 lists each; the residuals of x - r n give the variance."""
    rng = np.random.default_rng(0)
    n = rng.integers(1, 5, 40)
    x = rng.binomial(n, 0.4)
    shown = [[event(user=user, time=user) for _ in range(count)] for user, count in enumerate(n.tolist())]
    with transaction(each_engine) as connection:
        insert_events(connection, [each for several in shown for each in several])
        said = [
            FeedbackItem(each.id, 7, "like", 1.0)
            for several, count in zip(shown, x.tolist(), strict=True)
            for each in several[:count]
        ]
        apply_feedback(connection, said, 100, RULES)
    rate = rates(each_engine)[0, 1, "list", "like"].rate
    ratio = x.sum() / n.sum()
    error = np.sqrt(((x - ratio * n) ** 2).sum() * 40 / 39) / n.sum()
    half = float(half_width(1.959964, error, (n @ n) / n.sum() ** 2))
    assert (rate.value, rate.lo, rate.hi) == pytest.approx((ratio, ratio - half, ratio + half))


def test_the_interval_covers_the_rate_in_95_of_100_samples_of_clustered_users():
    """Users differ: each likes a share of its own lists, drawn from a beta distribution with the mean 0.2."""
    rng, samples = np.random.default_rng(1), 1_000
    covered = dict.fromkeys((0.0, 1.0), 0)
    for _ in range(samples):
        n = rng.integers(1, 9, 200)
        x = rng.binomial(n, rng.beta(1, 4, 200)).astype(np.float64)
        for width in covered:
            found = ratio_from_sums(200, n.sum(), n @ n, x.sum(), x @ x, x @ n, width)
            covered[width] += found.lo <= 0.2 <= found.hi
    error = np.sqrt(0.95 * 0.05 / samples)
    assert abs(covered[0.0] / samples - 0.95) < 4 * error
    assert covered[1.0] >= covered[0.0]  # one more observation at an end of the range makes it wider


def test_few_users_have_no_interval():
    assert ratio_from_sums(29, 29, 29, 10, 10, 10).hi == float("inf")
    assert np.isfinite(ratio_from_sums(30, 30, 30, 10, 10, 10).hi)
