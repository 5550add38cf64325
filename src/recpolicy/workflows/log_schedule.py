"""What the settings of all simulated logs share: how sharply the logger chooses, and when the events happen."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError

DAY = 86_400_000
"""Milliseconds."""
_CENTURY = 36_525
_TEMPERATURES = 1e-9, 1e9


def check_clock(settings: Any) -> None:
    """Raise ConfigError unless `first_day` is a date and `days` a span above 0 of at most a century."""
    if not 0 < settings.days <= _CENTURY:
        name = type(settings).__name__
        raise ConfigError(f"{name}.days is {settings.days!r}; it must be above 0 and at most {_CENTURY}")
    day = settings.first_day
    try:
        known = not np.isnat(np.datetime64(day, "ms"))
    except ValueError:
        known = False
    if not known:
        raise ConfigError(f"{type(settings).__name__}.first_day is {day!r}; expected a date such as 2026-01-05")


def check_temperature(settings: Any) -> None:
    """Raise ConfigError unless `temperature` is one that a softmax can divide by."""
    low, high = _TEMPERATURES
    if not low <= settings.temperature <= high:
        name = type(settings).__name__
        raise ConfigError(f"{name}.temperature is {settings.temperature!r}; it must be in [{low:g}, {high:g}]")


def start_of(first_day: str) -> int:
    """When a day begins (UTC), in milliseconds since 1970."""
    return int(np.datetime64(first_day, "ms").astype(np.int64))


def spread(first_day: str, days: float, count: int) -> NDArray[np.int64]:
    """The times [count] of events that come at even intervals over so many days."""
    return start_of(first_day) + np.linspace(0, days * DAY, count, endpoint=False).astype(np.int64)
