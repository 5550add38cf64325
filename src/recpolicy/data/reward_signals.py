"""Rewards from signals: the table `[reward]` gives each type of signal a weight, and the signals of an event add up.

N events, S signals. A signal has a type, such as like or mood_change, and a value: 1 where nothing else is said. The
reward of an event is the sum of weight times value over its signals within the wait window, or that of the first one.
Without a signal it is the default. Offline ingest and server use the same function.

    [reward]
    weights = { like = 1.0, dislike = -1.0, watch_fraction = 0.5, mood_change = 1.0 }
    ranges = { mood_change = [-0.5, 0.5] }
    min_reward = -1.5
    max_reward = 2.0
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recpolicy.core.config import Number, config_dataclass
from recpolicy.core.errors import ConfigError, DataError, unknown_name_error

Array = NDArray[np.float64]

DEFAULT_WEIGHTS: Mapping[str, float] = {
    "like": 1.0, "dislike": -1.0, "complete": 0.5, "skip": -0.3, "share": 0.8, "watch_fraction": 0.5, "click": 1.0,
    "purchase": 1.0, "reward": 1.0,
}  # fmt: skip
"""Weights of a table `[reward]` without weights; `reward` is a number that is the reward itself."""
KNOWN_RANGES: Mapping[str, tuple[float, float]] = {"watch_fraction": (0.0, 1.0)}
"""Ranges of the values of some types; `ranges` can replace them."""
SPARSE = 0.01
"""A smaller share of rewards that differ from the most common one is reported."""
_MAX_NAME = 100


@config_dataclass
class RewardConfig:
    """The table `[reward]`: weights of signals, and their combination to one reward per event."""

    weights: Mapping[Annotated[str, Field(min_length=1, max_length=_MAX_NAME)], Number] = Field(
        default_factory=lambda: dict(DEFAULT_WEIGHTS)
    )
    """Weight of each type of signal, by any name; a signal adds its weight times its value, which is 1 by default."""
    ranges: Mapping[str, tuple[Number, Number]] = Field(default_factory=dict)
    """Lowest and highest value of a type of signal; values outside are refused."""
    combine: Literal["sum", "first"] = "sum"
    """sum: all signals of an event add up; first: the earliest one counts alone."""
    wait_seconds: Annotated[float, Field(ge=0, le=1e8)] = 86_400.0
    """Seconds after an event within which its signals count."""
    default_reward: Number | None = 0.0
    """Reward of an event without a signal in its window; None leaves such events out."""
    clip: tuple[Number, Number] | None = None
    """Smallest and largest reward; combined rewards beyond take these values."""
    normalize: bool = False
    """True: training divides rewards by their standard deviation; reports are in the original unit."""
    min_reward: Number | None = None
    """Lowest possible reward; verdicts need it and `max_reward`."""
    max_reward: Number | None = None
    """Highest possible reward."""

    def __post_init__(self) -> None:
        """Raise ConfigError for settings that contradict each other."""
        if not self.weights:
            raise ConfigError("weights is empty; expected a weight for each type of signal, such as {click = 1.0}")
        for name, (low, high) in self.ranges.items():
            if name not in self.weights:
                raise ConfigError(f"ranges: {unknown_name_error('signal', name, self.weights)}")
            if low >= high:
                raise ConfigError(f"ranges.{name} is [{low:g}, {high:g}]; expected the lowest, then a higher value")
        if self.clip is not None and self.clip[0] >= self.clip[1]:
            raise ConfigError(f"clip is {list(self.clip)}; expected [smallest, largest]")
        if (self.min_reward is None) != (self.max_reward is None):
            raise ConfigError("min_reward and max_reward: expected both or none")
        if self.reward_range is None:
            return
        low, high = self.reward_range
        if low >= high:
            raise ConfigError(f"min_reward is {low:g} and max_reward {high:g}; expected a higher max_reward")
        for name, bounds in (("clip", self.clip), ("default_reward", (self.default_reward,))):
            if any(value is not None and not low <= value <= high for value in bounds or ()):
                raise ConfigError(f"{name} lies outside min_reward..max_reward, which is {low:g}..{high:g}")

    @property
    def reward_range(self) -> tuple[float, float] | None:
        """Lowest and highest reward; None if they are not set."""
        return None if self.min_reward is None or self.max_reward is None else (self.min_reward, self.max_reward)

    @property
    def wait_ms(self) -> int:
        """The wait window in milliseconds."""
        return round(self.wait_seconds * 1000)

    def range_of(self, signal_type: str) -> tuple[float, float] | None:
        """Return the lowest and the highest value of a type of signal; None if any finite number is legal."""
        return self.ranges.get(signal_type, KNOWN_RANGES.get(signal_type))


@dataclass(frozen=True)
class Signal:
    """One signal of an event."""

    type: str
    value: float = 1.0
    time: int = 0
    """Milliseconds since 1970."""


def check_signal(signal_type: str, value: float, config: RewardConfig) -> None:
    """Raise DataError for a signal without a weight, or with a value that is out of range."""
    if signal_type not in config.weights:
        raise DataError(f"no weight for the signal {signal_type!r}; [reward] has {', '.join(sorted(config.weights))}")
    if not math.isfinite(value):
        raise DataError(f"{signal_type} is {value}; expected a finite number")
    bounds = config.range_of(signal_type)
    if bounds is not None and not bounds[0] <= value <= bounds[1]:
        raise DataError(f"{signal_type} is {value:g}; expected a value in {bounds[0]:g}..{bounds[1]:g}")


def combined_reward(signals: Sequence[Signal], event_time: int, config: RewardConfig) -> float:
    """Return the reward of one event.

    Args:
        signals: All signals of the event, in any order; those before the event or after its window do not count.
        event_time: Time of the event in milliseconds since 1970.
        config: The settings.

    Returns:
        The reward; NaN if no signal counts and there is no default.

    Raises:
        DataError: A signal has no weight or a value out of range, or the reward is outside min_reward..max_reward.
    """
    for signal in signals:
        check_signal(signal.type, signal.value, config)
    parts = signal_parts([signal.type for signal in signals], np.array([signal.value for signal in signals]), config)
    times = np.array([signal.time for signal in signals], np.int64)
    rewards = combined_rewards(np.zeros(len(signals), np.int64), parts, times, np.array([event_time]), config)
    return float(rewards[0])


def signal_parts(types: Sequence[str] | NDArray[Any], values: Array, config: RewardConfig) -> Array:
    """Return weight times value [S] of signals whose types have a weight."""
    weight = np.array([config.weights[name] for name in types], np.float64)
    return np.asarray(weight * np.asarray(values, np.float64), np.float64)


def combined_rewards(
    event: NDArray[np.integer[Any]],
    parts: Array,
    time: NDArray[np.int64],
    event_time: NDArray[np.int64],
    config: RewardConfig,
) -> Array:
    """Return the reward of each event [N]; NaN if no signal counts and there is no default.

    Args:
        event: [S], the event 0..N-1 of each signal.
        parts: [S], weight times value of each signal.
        time: [S], of the signals, in milliseconds since 1970.
        event_time: [N], of the events.
        config: The settings.

    Raises:
        DataError: A reward is outside min_reward..max_reward.
    """
    counts = in_window(time - event_time[event], config)
    event, parts, time = event[counts], parts[counts], time[counts]
    has_signal = np.bincount(event, minlength=len(event_time)) > 0
    if config.combine == "first":
        order = np.lexsort((np.arange(len(event)), time, event))
        first = order[np.diff(event[order], prepend=-1) != 0]
        rewards = np.zeros(len(event_time))
        rewards[event[first]] = parts[first]
    else:
        rewards = np.bincount(event, parts, len(event_time)).astype(np.float64)
    default = np.nan if config.default_reward is None else config.default_reward
    rewards = np.where(has_signal, rewards, default)
    if config.clip is not None:
        rewards = np.clip(rewards, *config.clip)
    check_range(rewards, config)
    return rewards


def within_range(config: RewardConfig) -> RewardConfig:
    """Return the settings with combined rewards beyond the range cut to its ends, unless they have a clip already."""
    if config.clip is None and config.reward_range is not None:
        return replace(config, clip=config.reward_range)
    return config


def in_window(delay: NDArray[np.int64], config: RewardConfig) -> NDArray[np.bool_]:
    """Return the mask [S] of the signals that came at most the wait window after their event; delay in ms."""
    return np.asarray((delay >= 0) & (delay <= config.wait_ms))


def check_range(rewards: Array, config: RewardConfig) -> None:
    """Raise DataError for a reward outside min_reward..max_reward."""
    if config.reward_range is None:
        return
    low, high = config.reward_range
    tolerance = 1e-9 * max(abs(low), abs(high))
    wrong = (rewards < low - tolerance) | (rewards > high + tolerance)  # not so for NaN
    if wrong.any():
        raise DataError(
            f"a combined reward is {rewards[int(wrong.argmax())]:g}; [reward] says {low:g}..{high:g}: change"
            " min_reward and max_reward, or set clip"
        )


@dataclass(frozen=True)
class RewardSummary:
    """The distribution of the known rewards of a log."""

    known: int
    mean: float
    std: float
    share_positive: float
    """Share above 0, or above the middle of the range if the range has no 0."""
    share_other: float
    """Share that differs from the most common reward."""
    most_common: float

    def as_dict(self) -> dict[str, float]:
        """Return plain JSON-able values; None for those of an empty log."""
        return {name: (value if math.isfinite(value) else None) for name, value in vars(self).items()}  # type: ignore[misc]

    def line(self) -> str:
        """Return one line for people."""
        return (
            f"{self.known:,} rewards: mean {self.mean:.4g}, standard deviation {self.std:.4g},"
            f" {100 * self.share_positive:.3g} % positive"
        )

    def warnings(self) -> list[str]:
        """Return a warning for rewards that are constant or sparse; none for others."""
        if self.known and self.share_other == 0:
            return [f"all {self.known:,} rewards are {self.most_common:g}: there is nothing to learn from them"]
        if self.known and self.share_other < SPARSE:
            others = round(self.share_other * self.known)
            return [
                f"rewards are sparse: only {others:,} of {self.known:,} ({100 * self.share_other:.2g} %) differ from"
                f" {self.most_common:g}; expect wide intervals and slow learning"
            ]
        return []


def summarize_rewards(rewards: Array, reward_range: tuple[float, float] | None = None) -> RewardSummary:
    """Return the distribution of the rewards [N] that are not NaN; `reward_range` decides what is positive."""
    known = rewards[np.isfinite(rewards)]
    if not len(known):
        return RewardSummary(0, math.nan, math.nan, math.nan, math.nan, math.nan)
    threshold = sum(reward_range) / 2 if reward_range is not None and reward_range[0] > 0 else 0.0
    values, counts = np.unique(known, return_counts=True)
    most = int(counts.argmax())
    return RewardSummary(
        len(known), float(known.mean()), float(known.std()), float((known > threshold).mean()),
        1 - float(counts[most]) / len(known), float(values[most]),
    )  # fmt: skip
