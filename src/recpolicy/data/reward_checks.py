"""Checks of a table `[reward]`: does each signal pay what the table says, alone, together, late and not at all?

The checks call the one function that training, exports and the server use (reward_signals.py), with the settings in
effect. A wrong range or clip fails a check before users meet it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from recpolicy.core.errors import DataError
from recpolicy.data.reward_signals import RewardConfig, Signal, combined_reward

_EVENT_TIME = 1_000_000_000
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class RewardCheck:
    """One check and its outcome."""

    name: str
    passed: bool
    detail: str
    """The value found and the one expected; or the error."""


def check_reward(config: RewardConfig) -> list[RewardCheck]:
    """Return the checks of a table: two for each type of signal, then those of pairs, of no signal, and of the window.

    Args:
        config: The table.
    """
    checks = []
    for name in config.weights:
        for value in _values(name, config):
            signal = Signal(name, value, _EVENT_TIME)
            checks.append(_check(f"{name} = {value:g}", [signal], config, _clipped(_worth(signal, config), config)))
    first, second = (Signal(name, _values(name, config)[-1], _EVENT_TIME + at) for at, name in enumerate(_pair(config)))
    adds = config.combine == "sum" and config.wait_ms > 0  # the second one comes a millisecond later
    both = _worth(first, config) + (_worth(second, config) if adds else 0.0)
    title = f"{first.type}, then {second.type} ({config.combine})"
    checks.append(_check(title, [first, second], config, _clipped(both, config)))
    checks.append(_check("the same signals in another order", [second, first], config, _clipped(both, config)))
    late = Signal(first.type, first.value, _EVENT_TIME + config.wait_ms + 1)
    nothing = np.nan if config.default_reward is None else config.default_reward
    checks.append(_check("no signal", [], config, _clipped(nothing, config)))
    checks.append(_check("a signal after the window", [late], config, _clipped(nothing, config)))
    return checks


def _values(name: str, config: RewardConfig) -> tuple[float, ...]:
    """Return the values of a type to check: the ends of its range, or 1."""
    return config.range_of(name) or (1.0,)


def _pair(config: RewardConfig) -> tuple[str, str]:
    """Return two types with positive weights, as far as there are any."""
    ranked = sorted(config.weights, key=lambda name: config.weights[name] <= 0)
    return ranked[0], ranked[min(1, len(ranked) - 1)]


def _worth(signal: Signal, config: RewardConfig) -> float:
    return config.weights[signal.type] * signal.value


def _clipped(reward: float, config: RewardConfig) -> float:
    return reward if config.clip is None else float(np.clip(reward, *config.clip))


def _check(name: str, signals: Sequence[Signal], config: RewardConfig, expected: float) -> RewardCheck:
    compute: Callable[[], float] = lambda: combined_reward(signals, _EVENT_TIME, config)  # noqa: E731
    try:
        found = compute()
    except DataError as error:
        return RewardCheck(name, False, str(error))
    passed = abs(found - expected) <= _TOLERANCE or (np.isnan(found) and np.isnan(expected))
    return RewardCheck(name, bool(passed), f"{found:g}; expected {expected:g}")
