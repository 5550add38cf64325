"""The checks of a reward table find tables that do not pay what they say."""

import pytest

from recpolicy.data import reward_checks
from recpolicy.data.reward_checks import check_reward
from recpolicy.data.reward_signals import RewardConfig


def failed(config):
    return [check.name for check in check_reward(config) if not check.passed]


@pytest.mark.parametrize(
    "settings",
    [
        {}, {"combine": "first"}, {"default_reward": None}, {"clip": (-0.2, 0.7)}, {"weights": {"click": 1.0}},
        {"weights": {"bad": -1.0}}, {"ranges": {"watch_fraction": (0.2, 0.9)}, "wait_seconds": 0.0},
        {"min_reward": -1.0, "max_reward": 2.0},
    ],
)  # fmt: skip
def test_sound_tables_pass_every_check(settings):
    config = RewardConfig(**settings)
    assert failed(config) == []
    assert len(check_reward(config)) >= len(config.weights) + 4


def test_a_range_that_a_signal_leaves_is_found():
    """Like and purchase pay 1 each, and complete after like 1.5: beyond 1.2."""
    config = RewardConfig(weights={"like": 1.0, "complete": 0.5}, min_reward=-1.0, max_reward=1.2)
    assert failed(config) == ["like, then complete (sum)", "the same signals in another order"]


def test_a_function_that_forgets_the_window_is_found(monkeypatch):
    config = RewardConfig(default_reward=0.0)
    monkeypatch.setattr(reward_checks, "combined_reward", lambda signals, *_: sum(
        config.weights[signal.type] * signal.value for signal in signals))  # fmt: skip
    assert failed(config) == ["a signal after the window"]
