"""Rewards from signals: weights, sums, windows, ranges, normalization, and warnings."""

import numpy as np
import pytest

from recpolicy.core.config import build
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.reward_signals import (
    RewardConfig,
    Signal,
    check_signal,
    combined_reward,
    combined_rewards,
    signal_parts,
    summarize_rewards,
)

_WEIGHTS = {
    "like": 1.0, "dislike": -1.0, "complete": 0.5, "skip": -0.3, "share": 0.8, "watch_fraction": 0.5, "click": 1.0,
    "mood_change": 1.0, "purchase": 0.1,
}  # fmt: skip


def config(**settings):
    return build(RewardConfig, {"weights": _WEIGHTS, "ranges": {"mood_change": (-0.5, 0.5)}, **settings}, "reward")


@pytest.mark.parametrize(
    ("signals", "expected"),
    [
        ([("like", 1)], 1.0),
        ([("dislike", 1)], -1.0),
        ([("complete", 1), ("share", 1)], 1.3),
        ([("skip", 1)], -0.3),
        ([("watch_fraction", 0.4)], 0.2),
        ([("mood_change", -0.5)], -0.5),
        ([("like", 1), ("skip", 1), ("mood_change", 0.25)], 0.95),
        ([("purchase", 19.5), ("click", 1)], 2.95),
        ([("like", 1), ("like", 1)], 2.0),
        ([], 0.0),
    ],
)
def test_the_signals_of_an_event_add_up(signals, expected):
    assert combined_reward([Signal(*signal) for signal in signals], 0, config()) == pytest.approx(expected, abs=1e-12)


def test_the_first_signal_counts_alone():
    first = config(combine="first")
    assert combined_reward([Signal("like", 1, 9), Signal("skip", 1, 5), Signal("share", 1, 7)], 0, first) == -0.3
    # Of two at one moment the earlier in the list counts.
    assert combined_reward([Signal("share", 1, 5), Signal("skip", 1, 5)], 0, first) == 0.8


@pytest.mark.parametrize(("time", "expected"), [(999, -7.0), (1000, 1.0), (61_000, 1.0), (61_001, -7.0)])
def test_signals_count_from_the_event_to_the_end_of_its_window(time, expected):
    window = config(wait_seconds=60, default_reward=-7)
    assert combined_reward([Signal("like", 1, time)], 1000, window) == expected


def test_without_a_default_an_event_without_signal_has_no_reward():
    assert np.isnan(combined_reward([], 0, config(default_reward=None)))


def test_rewards_are_clipped():
    clipped = config(clip=(-0.5, 1.2))
    assert combined_reward([Signal("like"), Signal("share")], 0, clipped) == 1.2
    assert combined_reward([Signal("dislike")], 0, clipped) == -0.5


def test_a_reward_out_of_range_is_refused():
    ranged = config(min_reward=-1, max_reward=1.3)
    assert combined_reward([Signal("complete"), Signal("share")], 0, ranged) == pytest.approx(1.3)
    with pytest.raises(DataError, match=r"a combined reward is 1\.8; \[reward\] says -1\.\.1\.3"):
        combined_reward([Signal("like"), Signal("share")], 0, ranged)


@pytest.mark.parametrize(
    ("signal", "message"),
    [
        (("love", 1), "no weight for the signal 'love'; "),
        (("mood_change", 0.6), r"mood_change is 0\.6; expected a value in -0\.5\.\.0\.5"),
        (("watch_fraction", 1.1), r"watch_fraction is 1\.1; expected a value in 0\.\.1"),
        (("like", float("nan")), "like is nan; expected a finite number"),
        (("purchase", float("inf")), "purchase is inf"),
    ],
)
def test_wrong_signals_are_refused(signal, message):
    with pytest.raises(DataError, match=message):
        combined_reward([Signal(*signal)], 0, config())


@pytest.mark.parametrize("combine", ["sum", "first"])
def test_many_events_at_once_have_the_reward_of_each_alone(combine):
    """500 events with 0 to 6 signals each, some outside their window."""
    rng, settings = np.random.default_rng(0), config(combine=combine, wait_seconds=1, default_reward=None)
    event = rng.integers(0, 500, 1500)
    types = rng.choice(list(_WEIGHTS), 1500)
    values, time = rng.uniform(0, 0.5, 1500), rng.integers(0, 2500, 1500)
    event_time = rng.integers(0, 1000, 500)
    together = combined_rewards(event, signal_parts(types, values, settings), time, event_time, settings)
    for number in range(500):
        rows = np.flatnonzero(event == number)
        alone = combined_reward(
            [Signal(types[row], values[row], time[row]) for row in rows], int(event_time[number]), settings
        )
        np.testing.assert_equal(together[number], alone)
    assert 0.05 < np.isnan(together).mean() < 0.95


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weights": {}}, "weights is empty"),
        ({"weights": {"like": "a"}}, "weights.like"),
        ({"weights": {"like": 1e9}}, "weights.like"),
        ({"ranges": {"mood": (0, 1)}}, "ranges: no signal named 'mood'"),
        ({"ranges": {"like": (1, 1)}}, "expected the lowest, then a higher"),
        ({"clip": (2, 1)}, r"clip is \[2.0, 1.0\]"),
        ({"min_reward": 0}, "min_reward and max_reward: expected both or none"),
        ({"min_reward": 1, "max_reward": 0}, "expected a higher max_reward"),
        ({"min_reward": 0, "max_reward": 1, "default_reward": 2}, "default_reward lies outside"),
        ({"min_reward": 0, "max_reward": 1, "clip": (-1, 1)}, "clip lies outside"),
        ({"combine": "last"}, "combine is 'last'"),
        ({"wait_seconds": -1}, "wait_seconds"),
        ({"wait": 3}, "no setting named 'wait'"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        config(**settings)


def test_constant_and_sparse_rewards_are_reported():
    (constant,) = summarize_rewards(np.full(50, 5.0)).warnings()
    assert constant == "all 50 rewards are 5: there is nothing to learn from them"
    rewards = np.zeros(1000)
    rewards[:3] = 1
    summary = summarize_rewards(np.append(rewards, np.nan))
    assert summary.known == 1000
    assert summary.share_positive == 0.003
    assert "only 3 of 1,000 (0.3 %) differ from 0" in summary.warnings()[0]
    rewards[:100] = 1
    assert not summarize_rewards(rewards).warnings()
    assert "10 % positive" in summarize_rewards(rewards).line()
    # On a scale without 0, the upper half is positive.
    assert summarize_rewards(np.array([1.0, 2, 4, 5]), (1, 5)).share_positive == 0.5
    assert summarize_rewards(np.array([np.nan])).known == 0


def test_a_value_may_be_any_number_where_no_range_is_set():
    check_signal("purchase", -19.0, config())
    check_signal("watch_fraction", -1.0, config(ranges={"watch_fraction": (-1, 1)}))
