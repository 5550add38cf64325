"""When the events of a simulated log happen."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError

DAY = 86_400_000
"""Milliseconds."""


def check_first_day(settings: Any) -> None:
    """Raise ConfigError unless the setting `first_day` is a date."""
    day = settings.first_day
    try:
        known = not np.isnat(np.datetime64(day, "ms"))
    except ValueError:
        known = False
    if not known:
        raise ConfigError(f"{type(settings).__name__}.first_day is {day!r}; expected a date such as 2026-01-05")


def start_of(first_day: str) -> int:
    """When a day begins (UTC), in milliseconds since 1970."""
    return int(np.datetime64(first_day, "ms").astype(np.int64))


def spread(first_day: str, days: float, count: int) -> NDArray[np.int64]:
    """The times [count] of events that come at even intervals over so many days."""
    return start_of(first_day) + np.linspace(0, days * DAY, count, endpoint=False).astype(np.int64)
