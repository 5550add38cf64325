"""Types of settings that all simulated logs share, and the times of their events."""

from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, Field

from recpolicy.core.errors import ConfigError

DAY = 86_400_000
"""Milliseconds."""


def _check_day(day: str) -> str:
    try:
        known = not np.isnat(np.datetime64(day, "ms"))
    except ValueError:
        known = False
    if not known:
        raise ConfigError(f"first_day is {day!r}: expected a date such as 2026-01-05")
    return day


Day = Annotated[str, AfterValidator(_check_day)]
"""A date such as 2026-01-05, in UTC."""
Days = Annotated[float, Field(gt=0, le=36_525)]
"""A span of at most a century."""
Temperature = Annotated[float, Field(ge=1e-9, le=1e9)]
"""A temperature that a softmax can divide by."""


def start_of(first_day: str) -> int:
    """When a day begins (UTC), in milliseconds since 1970."""
    return int(np.datetime64(first_day, "ms").astype(np.int64))


def spread(first_day: str, days: float, count: int) -> NDArray[np.int64]:
    """The times [count] of events that come at even intervals over so many days."""
    return start_of(first_day) + np.linspace(0, days * DAY, count, endpoint=False).astype(np.int64)
