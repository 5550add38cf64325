"""Figures of drift against values worked out by hand, planted changes, and long runs without any."""

import math

import numpy as np
import pytest
from event_factory import event
from hypothesis import given
from hypothesis import strategies as st
from job_fixtures import HOUR, get_state
from rank_events import rank_event
from sqlalchemy import select
from tiny_policies import write_tiny

from recpolicy.core.errors import ConfigError
from recpolicy.data.reward_signals import RewardConfig
from recpolicy.inference.load_scorer import load_scorer
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.event_windows import Window, rank_window, window
from recpolicy.server.db.events import daily_rewards, insert_events, now_ms
from recpolicy.server.db.feedback import FeedbackItem, RewardRules, apply_feedback
from recpolicy.server.db.rank_events import insert_rank_events, row_digest
from recpolicy.server.db.rank_signals import RankSignal, apply_rank_actions
from recpolicy.server.db.schema import audit, rank_events, rank_signals
from recpolicy.server.jobs.drift import alarms_in, check, compute_drift_metrics
from recpolicy.server.jobs.drift_statistics import (
    action_concentration,
    activity_groups,
    cusum,
    cusum_limit,
    psi,
    psi_by_dimension,
)
from recpolicy.server.live_models import LiveState, LoadedVersion, ModelManager
from recpolicy.server.rank.ranker import UniformPolicy
from recpolicy.server.settings import DriftConfig, Settings

CONFIG = DriftConfig(min_count=50)
counts = st.lists(st.integers(1, 1000), min_size=2, max_size=8)


@given(counts, st.integers(1, 9))
def test_psi_of_equal_shares_is_0(expected, times):
    assert psi(np.array(expected), times * np.array(expected)) == pytest.approx(0, abs=1e-12)


@given(st.data())
def test_psi_is_never_negative_and_the_same_both_ways(data):
    one = data.draw(counts)
    other = data.draw(st.lists(st.integers(0, 1000), min_size=len(one), max_size=len(one)).filter(any))
    forth, back = psi(np.array(one), np.array(other)), psi(np.array(other), np.array(one))
    assert 0 <= forth == pytest.approx(back)


def test_psi_is_that_of_the_textbook():
    # (.5 - .8) ln(.5 / .8) + (.5 - .2) ln(.5 / .2) = .3 ln 1.6 + .3 ln 2.5 = .3 ln 4
    assert psi(np.array([80, 20]), np.array([5, 5])) == pytest.approx(0.3 * math.log(4))
    # an empty bin counts as 1e-4: (1e-4 - .5) ln(2e-4) + .5 ln 2
    assert psi(np.array([1, 1]), np.array([0, 3])) == pytest.approx(-0.4999 * math.log(2e-4) + 0.5 * math.log(2))


def test_psi_by_dimension_finds_the_dimension_that_moved():
    rng = np.random.default_rng(0)
    before, after = rng.normal(size=(2_000, 4)), rng.normal(size=(2_000, 4))
    after[:, 2] += 1
    found = psi_by_dimension(before, after)
    assert found.argmax() == 2
    assert found[2] > 0.5
    assert np.delete(found, 2).max() < 0.05
    assert psi_by_dimension(before, before) == pytest.approx(np.zeros(4))


def test_a_dimension_with_few_values_has_fewer_bins():
    before = np.repeat([[0.0], [1.0]], 50, axis=0)
    after = np.concatenate([np.zeros((20, 1)), np.ones((80, 1))])
    assert psi_by_dimension(before, after)[0] == pytest.approx(0.3 * math.log(4))  # shares .5, .5 and .2, .8


def test_activity_groups_are_quantiles_and_equal_activity_is_one_group():
    assert activity_groups(np.arange(100)).tolist() == np.repeat(np.arange(10), 10).tolist()
    group = activity_groups(np.array([0] * 50 + [5] * 40 + [9] * 10))
    assert [len(set(group[part].tolist())) for part in (slice(50), slice(50, 90), slice(90, 100))] == [1, 1, 1]
    assert group[0] < group[50] < group[99]


def test_the_limit_gives_the_mean_time_that_siegmund_wrote_down():
    limit = cusum_limit(1_000, 0.25, 0.05)
    b = limit + 1.166
    one_side = (math.exp(0.5 * b) - 0.5 * b - 1) / (2 * 0.25**2)
    assert 1 - math.exp(-1_000 * 2 / one_side) == pytest.approx(0.05, rel=1e-6)


@pytest.mark.parametrize("rounds", [500, 5_000])
def test_no_alarm_without_a_change_in_95_of_100_long_runs(rounds):
    rng, runs = np.random.default_rng(5), 1_000
    share = np.array([0.06, 0.11, 0.27, 0.34, 0.22])  # as the stars of MovieLens 100K
    stars = rng.choice(np.arange(1.0, 6.0), p=share, size=(runs, rounds))
    mean = float(share @ np.arange(1, 6))
    std = math.sqrt(float(share @ (np.arange(1, 6) - mean) ** 2))
    alarms = sum(cusum(run, mean, std, 0.25, 0.04).at is not None for run in stars)
    assert alarms <= 0.05 * runs + 3 * math.sqrt(0.05 * 0.95 * runs)
    assert alarms > 0  # the limit is not so high that nothing could be found


@pytest.mark.parametrize(("shift", "direction"), [(-0.75, "down"), (0.75, "up")])
def test_a_shift_of_the_mean_is_found_soon_after_it_came(shift, direction):
    rng, early = np.random.default_rng(6), 0
    for _ in range(200):
        values = 3.5 + rng.normal(size=2_000)
        values[1_500:] += shift
        found = cusum(values, 3.5, 1.0, 0.25, 0.01)
        if found.at < 1_500:
            early += 1
            continue
        assert found.direction == direction
        assert found.at < 1_500 + 3 * found.limit / (0.75 - 0.25)
    assert early <= 6  # 2 expected, standard deviation 1.4


def test_equal_rewards_are_no_change():
    assert cusum(np.full(100, 4.0), 4.0, 0.0, 0.25, 0.01).direction == "none"
    assert cusum(np.array([]), 4.0, 1.0, 0.25, 0.01).at is None


def test_spread_is_that_of_equal_and_of_single_items():
    even, single = action_concentration(np.arange(8).repeat(3)), action_concentration(np.array(["7"] * 5))
    assert (even.top_share, even.effective) == (pytest.approx(1 / 8), pytest.approx(8))
    assert (single.top_share, single.effective) == (1, pytest.approx(1))
    uneven = action_concentration(np.array([1, 1, 2, 3]))  # entropy .5 ln 2 + 2 (.25 ln 4) = 1.5 ln 2
    assert uneven.effective == pytest.approx(2**1.5)


@pytest.mark.parametrize(
    ("words", "says"),
    [({"psi": 0}, "psi is 0"), ({"false_alarms": 1.0}, "false_alarms is 1"), ({"min_count": 5}, "min_count is 5")],
)
def test_settings_that_make_no_sense_are_refused(words, says):
    with pytest.raises(ConfigError, match=says):
        DriftConfig(**words)


def seen(users=range(1, 8), items=("101",), rewards=(4.0,), contexts=None, times=60):
    """A window in which everything comes `times` times."""
    vectors = np.empty((0, 0), np.float32) if contexts is None else contexts
    return Window(list(users) * times, vectors, np.array(list(items) * times), np.array(list(rewards) * times))


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    return load_scorer(write_tiny(tmp_path_factory.mktemp("tiny") / "policy"))


def test_small_windows_give_no_figures_and_no_alarms(scorer):
    for recent, older in ((seen(times=5), seen()), (seen(), seen(times=5))):
        metrics = compute_drift_metrics(recent, older, scorer, CONFIG)
        assert metrics["contexts"] is metrics["actions"] is metrics["reward"] is None
        assert alarms_in(metrics, CONFIG) == {}


def test_planted_shifts_are_alarming_and_equal_windows_are_not(scorer):
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(400, 3)).astype(np.float32)
    usual = seen(items=[str(n) for n in range(20)], rewards=(3.0, 4.0, 5.0), contexts=vectors)
    assert alarms_in(compute_drift_metrics(usual, usual, scorer, CONFIG), CONFIG) == {}
    # Of the tiny policy's users the first has one rating, the others none.
    shifted = seen(users=[1] * 7, items=["7"], rewards=(2.0, 3.0, 4.0), contexts=vectors + np.float32([0, 1, 0]))
    metrics = compute_drift_metrics(shifted, usual, scorer, CONFIG)
    alarms = alarms_in(metrics, CONFIG)
    assert set(alarms) == {"users", "contexts", "reward", "actions"}
    assert metrics["contexts"]["dimension"] == 1
    assert alarms["reward"] == "the mean reward went down from 4.000 to 3.000"
    assert alarms["actions"] == "one item has 100% of the first positions"


def test_fewer_items_are_alarming_without_any_at_the_top(scorer):
    older, recent = seen(items=[str(n) for n in range(60)]), seen(items=[str(n) for n in range(20)])
    assert (
        "narrowed from 60.0 to 20.0 effective items"
        in alarms_in(compute_drift_metrics(recent, older, scorer, CONFIG), CONFIG)["actions"]
    )


def test_windows_hold_what_the_version_showed_in_them(each_engine):
    engine = each_engine
    vector = np.arange(3, dtype=np.float32)
    shown = [
        event(user=1, time=100), event(user=1, time=110), event(user=2, time=250, items=(9, 7)),
        event(user="new", time=260, context=vector.tobytes()), event(user=3, time=120, version=2),
        event(user=4, time=300),
    ]  # fmt: skip
    with transaction(engine) as connection:
        insert_events(connection, shown)
        said = [FeedbackItem(shown[0].id, 7, "rating", 2.0), FeedbackItem(shown[0].id, 8, "rating", 4.0)]
        apply_feedback(connection, said, 150, RewardRules((1.0, 5.0), 10**6))
        apply_feedback(connection, [FeedbackItem(shown[2].id, 9, "rating", 5.0)], 290, RewardRules((1.0, 5.0), 10**6))
    with engine.connect() as connection:
        found = window(connection, 1, 100, 300, 1_000, 100)
        assert found.users == [1, 2]  # user 1 once in the slice
        assert found.contexts.tolist() == [[0, 1, 2]]
        assert found.items.tolist() == ["7", "7", "9", "7"]
        assert found.rewards.tolist() == [3.0, 5.0]
        assert window(connection, 1, 100, 300, 1_000, 5).users == [1, 1, 2]
        assert window(connection, 1, 100, 300, 1, 100).items.tolist() == ["7"]
        (row,) = daily_rewards(connection, 160)
        assert (row.day, row.version, row.variant, row.rewards, row.mean) == (0, 1, "champion", 1, 5.0)
        assert daily_rewards(connection, 0)[0].mean == pytest.approx(11 / 3)


def test_the_check_alerts_once_for_what_it_finds(engine, scorer):
    now = now_ms()
    old = [event(user=1 + n % 7, time=now - 30 * HOUR - n, items=(n % 40,)) for n in range(400)]
    new = [event(user=1 + n % 7, time=now - HOUR - n, items=(5,)) for n in range(400)]
    with transaction(engine) as connection:
        insert_events(connection, [*old, *new])
    state = get_state(engine)
    object.__setattr__(state, "models", ModelManager(LiveState(LoadedVersion(scorer, 1))))
    object.__setattr__(state.settings, "drift", CONFIG)
    results = [check(state, {}) for _ in range(2)]
    assert results[0].metadata["alarms"] == results[1].metadata["alarms"]
    assert list(results[0].metadata["alarms"]) == ["actions"]
    assert (results[0].users, results[0].records) == (7, 400)
    with engine.connect() as connection:
        assert connection.scalars(select(audit.c.action)).all() == ["alert drift.actions"]
    object.__setattr__(state, "models", ModelManager(LiveState(LoadedVersion(scorer, None))))
    with pytest.raises(ConfigError, match="no registry"):
        check(state, {})


def rewarded(engine, rewards, version=1, time=100):
    """Lists of different users with these rewards."""
    shown = [event(user=user, time=time, version=version) for user in range(len(rewards))]
    with transaction(engine) as connection:
        insert_events(connection, shown)
        said = [FeedbackItem(each.id, 7, "rating", value) for each, value in zip(shown, rewards, strict=True)]
        apply_feedback(connection, said, time + 1, RewardRules((1.0, 5.0), 10**6))


@pytest.mark.parametrize(("floor", "alarm"), [(3.4, True), (2.9, False), (None, False)])
def test_a_mean_reward_below_the_floor_is_alarming_however_long_it_has_been_there(each_engine, scorer, floor, alarm):
    """60 users give 3 on average, with an interval of 0.33; there is no older window to compare with."""
    rewarded(each_engine, [2.0, 4.0, 3.0] * 20)
    with each_engine.connect() as connection:
        recent, older = window(connection, 1, 0, 1_000, 100, 100, 4.0), window(connection, 1, 2_000, 3_000, 100, 100)
    config = DriftConfig(min_mean_reward=floor)
    metrics = compute_drift_metrics(recent, older, scorer, config)
    assert metrics["reward"] is None
    assert set(alarms_in(metrics, config)) == ({"floor"} if alarm else set())
    if alarm:
        assert metrics["floor"]["mean"] == 3
        assert 2.6 < metrics["floor"]["lo"] < 2.7 < 3.3 < metrics["floor"]["hi"] < 3.4
        assert "below the floor of 3.4" in alarms_in(metrics, config)["floor"]


def test_a_mean_of_few_users_is_not_shown_to_be_below_the_floor(each_engine, scorer):
    rewarded(each_engine, [1.0] * 29)
    with each_engine.connect() as connection:
        recent = window(connection, 1, 0, 1_000, 100, 100, 4.0)
    metrics = compute_drift_metrics(recent, recent, scorer, DriftConfig(min_mean_reward=4.0))
    assert metrics["floor"]["hi"] is None
    assert alarms_in(metrics, DriftConfig(min_mean_reward=4.0)) == {}


def test_a_window_of_ranks_has_their_rewards_and_chosen_actions(each_engine):
    """Signals add up, a rank without signals has the reward 0, and beyond the range counts the end of the range."""
    shown = [
        rank_event(user=1, time=100), rank_event(time=110), rank_event(time=120, activated_at=None),
        rank_event(user=1, time=130), rank_event(time=140, version=2), rank_event(time=150, task="strategy"),
    ]  # fmt: skip
    with transaction(each_engine) as connection:
        insert_rank_events(connection, shown)
        said = [RankSignal(shown[0].id, "like", 1.0), RankSignal(shown[0].id, "share", 1.0)]
        said += [RankSignal(each.id, "like", 1.0) for each in shown[4:]]
        apply_rank_actions(connection, [*said, RankSignal(shown[3].id, "dislike", 1.0)], 160, 1_000)
    reward = RewardConfig(min_reward=-0.5, max_reward=2.0, wait_seconds=1.0)
    with each_engine.connect() as connection:
        found = rank_window(connection, 1, 100, 200, 1_000, reward)
        assert found.rewards.tolist() == [1.8, 0.0, -0.5]
        assert found.items.tolist() == [row_digest(shown[0].rows[0]).hex()] * 3
        assert found.users == []
        assert (found.mean_reward.value, found.reward_users) == (pytest.approx(1.3 / 3), 2)
        assert rank_window(connection, 1, 100, 200, 1, reward).rewards.tolist() == [-0.5]
        assert rank_window(connection, 3, 100, 200, 1, reward).mean_reward is None


def test_ranks_are_checked_after_their_window_and_their_rates_are_gauges(engine):
    """The rewards of the last hour are not final yet; those of the 24 hours before have fallen from 0.9 to 0."""
    reward = RewardConfig(weights={"click": 1.0}, wait_seconds=3_600)
    now = now_ms()
    ages = [(0, 10, 1.0), (0.5, 60, 1.0), (2, 60, 0.0), (30, 60, 1.0)]
    shown = [
        (rank_event(user=user, time=now - round(age * HOUR), activated_at=1), value * (user % 10 > 0))
        for age, count, value in ages
        for user in range(count)
    ]
    with transaction(engine) as connection:
        insert_rank_events(connection, [each for each, _ in shown])
        said = [RankSignal(each.id, "click", value) for each, value in shown]
        apply_rank_actions(connection, said, now, 10**9)
        connection.execute(rank_signals.update().values(time=select(rank_events.c.time).where(
            rank_events.c.id == rank_signals.c.event_id).scalar_subquery()))  # fmt: skip
    state = get_state(engine, Settings(reward=reward, drift=DriftConfig(min_count=50, min_mean_reward=0.5)))
    object.__setattr__(state, "models", ModelManager(LiveState(LoadedVersion(UniformPolicy(), 1))))
    result = check(state, {})
    assert set(result.metadata["alarms"]) == {"reward", "floor"}
    found = result.metadata["metrics"]["reward"]
    assert (found["recent"], found["reference"], found["direction"]) == (0.0, pytest.approx(0.9), "down")
    assert (found["events"], result.records) == (60, 60)
    text = state.metrics.text().decode()
    assert 'recpolicy_signal_rate{task="rank",type="click",version="1"} 1.0' in text
