"""Requests and states: a checked profile and situation as the number of a state, and back.

N requests, K traits, P parts of a state (K traits, then content type, mood, time of day). A trait in 0..100 has `bins`
equal bins; 100 belongs to the last one. The number of a state is its codes in mixed radix, the first trait first.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError, unknown_name_error
from recpolicy.core.types import Array
from recpolicy.strategies.config import OTHER, SITUATION, TRAIT_RANGE, StrategyConfig

States = NDArray[np.int64]


@dataclass(frozen=True)
class StrategyRequest:
    """One request: who asks, and in which situation."""

    profile: Mapping[str, float]
    """Value of each trait, in 0..100."""
    content_type: str
    mood: str
    time_of_day: str


def request_arrays(request: StrategyRequest, config: StrategyConfig) -> tuple[Array, NDArray[np.int64]]:
    """Return the profile [1, K] and the codes of the situation [1, 3] of a request.

    Raises:
        DataError: A trait is missing, unknown or outside 0..100, or a name of the situation is unknown.
    """
    profile = np.array([profile_values(request.profile, config)])
    return profile, np.array([[situation_code(part, getattr(request, part), config) for part in SITUATION]])


def request_state(request: StrategyRequest, config: StrategyConfig) -> int:
    """Return the number of a request's state, as `state_numbers` of its arrays, without arrays: ten times as fast.

    Raises:
        DataError: What `request_arrays` raises.
    """
    low, high = TRAIT_RANGE
    bins, number = config.profile.bins, 0
    factor = bins / (high - low)
    for value in profile_values(request.profile, config):
        number = number * bins + min(int((value - low) * factor), bins - 1)
    for part in SITUATION:
        number = number * len(config.situation.names(part)) + situation_code(part, getattr(request, part), config)
    return number


def profile_values(profile: Mapping[str, Any], config: StrategyConfig) -> list[float]:
    """Return the values of the traits [K] in the order of the config.

    Raises:
        DataError: A trait is missing, unknown, no number or outside 0..100.
    """
    traits = config.profile.traits
    if not isinstance(profile, Mapping):
        raise DataError(f"profile: found {type(profile).__name__}; expected a number for each of {', '.join(traits)}")
    for name in profile:
        if name not in traits:
            raise DataError(f"profile: {unknown_name_error('trait', str(name)[:64], traits)}")
    low, high = TRAIT_RANGE
    values = []
    for name in traits:
        value = profile.get(name)
        if value is None:
            raise DataError(f"profile: {name} is missing; expected a number in {low:g}..{high:g}")
        if isinstance(value, bool) or not isinstance(value, int | float | np.number) or not math.isfinite(value):
            raise DataError(f"profile: {name} is {str(value)[:64]!r}; expected a number in {low:g}..{high:g}")
        if not low <= value <= high:
            raise DataError(f"profile: {name} is {value:g}; expected {low:g}..{high:g}")
        values.append(float(value))
    return values


def situation_code(part: str, name: Any, config: StrategyConfig) -> int:
    """Return the code of a content type, mood or time of day.

    Raises:
        DataError: The name is unknown, and the config has no "other".
    """
    known = config.situation.names(part)
    if isinstance(name, str) and name in known:
        return known.index(name)
    if config.situation.allow_other and isinstance(name, str):
        return known.index(OTHER)
    if not isinstance(name, str):
        raise DataError(f"{part} is {str(name)[:64]}; expected one of {', '.join(known)}")
    raise DataError(f"{unknown_name_error(part, name[:64], known)} Or set allow_other = true in [situation].")


def trait_bins(profile: Array, bins: int) -> NDArray[np.int64]:
    """Return the bins [N, K] of profiles [N, K] in 0..100."""
    low, high = TRAIT_RANGE
    return np.minimum((profile - low) * (bins / (high - low)), bins - 1).astype(np.int64)


def state_codes(profile: Array, situation: NDArray[np.integer[Any]], config: StrategyConfig) -> NDArray[np.int64]:
    """Return the codes [N, P] of profiles [N, K] and situations [N, 3]."""
    return np.concatenate([trait_bins(profile, config.profile.bins), np.asarray(situation, np.int64)], axis=1)


def state_numbers(codes: NDArray[np.int64], config: StrategyConfig) -> States:
    """Return the numbers [N] of states with codes [N, P]."""
    number = np.zeros(len(codes), np.int64)
    for part, size in enumerate(config.sizes):
        number = number * size + codes[:, part]
    return number


def codes_of_states(states: States, config: StrategyConfig) -> NDArray[np.int64]:
    """Return the codes [N, P] of numbers of states [N]."""
    codes = np.empty((len(states), len(config.sizes)), np.int64)
    rest = states
    for part in range(len(config.sizes) - 1, -1, -1):
        rest, codes[:, part] = np.divmod(rest, config.sizes[part])
    return codes


def state_name(codes: NDArray[np.int64], config: StrategyConfig) -> str:
    """Return the name of a state with codes [P]: trait bins, then the situation, such as 3-2-4-1-0|music|calm|night."""
    traits = len(config.profile.traits)
    parts = [config.situation.names(part)[code] for part, code in zip(SITUATION, codes[traits:], strict=True)]
    return "|".join(["-".join(map(str, codes[:traits].tolist())), *parts])


def state_from_name(name: Any, config: StrategyConfig) -> int:
    """Return the number of the state that `state_name` named; raise DataError for any other text."""
    parts = name.split("|") if isinstance(name, str) else []
    bins = parts[0].split("-") if parts else []
    known = [config.situation.names(part) for part in SITUATION]
    if (
        len(parts) != 1 + len(SITUATION)
        or len(bins) != len(config.profile.traits)
        or not all(text.isascii() and text.isdigit() and int(text) < config.profile.bins for text in bins)
        or not all(text in names for text, names in zip(parts[1:], known, strict=True))
    ):
        raise DataError(
            f"the state {str(name)[:80]!r}: expected {len(config.profile.traits)} bins in 0..{config.profile.bins - 1},"
            f" then {', '.join(SITUATION)}, such as {state_name(np.zeros(len(config.sizes), np.int64), config)}"
        )
    codes = [int(text) for text in bins]
    codes += [names.index(text) for text, names in zip(parts[1:], known, strict=True)]
    return int(state_numbers(np.array([codes], np.int64), config)[0])
