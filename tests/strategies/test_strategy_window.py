"""One training: the window, users with enough interactions, nothing learned twice."""

from dataclasses import replace

import numpy as np
import pytest
from strategy_worlds import CONFIG, random_rounds

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.strategies.policy import StrategyPolicy
from recpolicy.strategies.training import DAY_MS, train_on_rounds


def rounds_of(*users_and_days):
    """Return a round for each (user, day)."""
    rounds = random_rounds(len(users_and_days))
    time = np.array([round(day * DAY_MS) for _, day in users_and_days])
    return replace(rounds, user=np.array([user for user, _ in users_and_days], object), time=time)


def test_the_window_ends_at_the_last_round():
    rounds = rounds_of(("a", 0), ("a", 1), ("a", 3.01), ("a", 10))
    _, statistics = train_on_rounds(StrategyPolicy(CONFIG), rounds, min_interactions=1)
    assert (statistics.interactions, statistics.outside_window) == (2, 2)
    assert statistics.window_end - statistics.window_start == 7 * DAY_MS
    _, statistics = train_on_rounds(StrategyPolicy(CONFIG), rounds, min_interactions=1, days_back=14)
    assert statistics.interactions == 4
    _, statistics = train_on_rounds(StrategyPolicy(CONFIG), rounds, min_interactions=1, until=4 * DAY_MS)
    assert (statistics.interactions, statistics.outside_window) == (3, 1)


def test_users_need_enough_interactions_in_the_window():
    rounds = rounds_of(*[("few", day) for day in range(4)], *[("many", day) for day in range(5)], (None, 3))
    policy, statistics = train_on_rounds(StrategyPolicy(CONFIG), rounds, min_interactions=5)
    assert (statistics.interactions, statistics.few_interactions, statistics.users) == (5, 5, 1)
    assert policy.rounds == 5


def test_interactions_learned_before_count_for_the_user_but_are_not_learned_again():
    rounds = rounds_of(*[("a", day) for day in range(8)])
    first, _ = train_on_rounds(StrategyPolicy(CONFIG), rounds.select(np.arange(6)), min_interactions=5)
    second, statistics = train_on_rounds(first, rounds, min_interactions=5, days_back=10)
    assert (statistics.interactions, statistics.already_learned) == (2, 6)
    assert second.policy_digest == StrategyPolicy(CONFIG).updated(rounds).policy_digest


def test_statistics_are_those_of_the_rounds_learned():
    rounds = rounds_of(*[("a", 0.1 * number) for number in range(10)])
    policy, statistics = train_on_rounds(StrategyPolicy(CONFIG), rounds)
    assert statistics.average_reward == pytest.approx(rounds.reward.mean())
    assert statistics.share_positive == (rounds.reward > 0).mean()
    assert statistics.sessions == policy.sessions == 10
    assert statistics.new_states == len(policy.table.states)
    assert statistics.as_dict()["interactions"] == 10


@pytest.mark.parametrize(
    ("users", "options", "message"),
    [
        (["a"] * 4, {}, "no user has 5 interactions or more in the last 7 days; the most are 4"),
        ([None] * 9, {}, "the most are 1"),
        (["a"] * 9, {"until": -DAY_MS}, "no round in the last 7 days; choose a longer window"),
    ],
)
def test_a_training_without_rounds_says_why(users, options, message):
    rounds = rounds_of(*[(user, 0) for user in users])
    with pytest.raises(DataError, match=message):
        train_on_rounds(StrategyPolicy(CONFIG), rounds, **options)


def test_the_same_training_twice_is_refused():
    rounds = rounds_of(*[("a", 0.1 * number) for number in range(10)])
    policy, _ = train_on_rounds(StrategyPolicy(CONFIG), rounds)
    with pytest.raises(DataError, match="has learned all 10 rounds of the last 7 days already"):
        train_on_rounds(policy, rounds)


def test_settings_out_of_range_are_refused():
    rounds = rounds_of(("a", 0))
    for options, name in (({"days_back": 0}, "days_back"), ({"min_interactions": 0}, "min_interactions")):
        with pytest.raises(ConfigError, match=name):
            train_on_rounds(StrategyPolicy(CONFIG), rounds, **options)
    with pytest.raises(DataError, match="no rounds to learn from"):
        train_on_rounds(StrategyPolicy(CONFIG), rounds.select(np.array([], int)))
