"""When a job is due: cron expressions, UTC.

Five fields as on Unix (minute, hour, day, month, weekday), or six with seconds in front. Weekdays are words, or numbers
from Sunday = 0 (and 7). APScheduler does the calendar; it counts weekdays from Monday, so that numbers are turned into
words first.
"""

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from apscheduler.triggers.cron import CronTrigger  # type: ignore[import-untyped]

from recpolicy.core.errors import ConfigError

_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_FIELDS = ("second", "minute", "hour", "day", "month", "day_of_week")
_NUMBERS = re.compile(r"(?P<low>\*|[0-7])(?:-(?P<high>[0-7]))?(?:/(?P<step>[1-9]))?")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def next_time(cron: str, after: int) -> int:
    """The first time after `after` at which the expression is due; both in milliseconds since 1970.

    Raises ConfigError for what is no cron expression, and for one that is never due.
    """
    due = _trigger(cron).get_next_fire_time(None, _EPOCH + timedelta(milliseconds=after + 1))
    if due is None:
        raise ConfigError(f"cron {cron!r} is never due; is there such a day?")
    return int((due - _EPOCH) / timedelta(milliseconds=1))


@lru_cache(maxsize=64)
def _trigger(cron: str) -> CronTrigger:
    fields = cron.lower().split()
    if len(fields) == 5:
        fields = ["0", *fields]
    if len(fields) != 6:
        raise ConfigError(
            f"cron {cron!r} has {len(fields)} fields; expected 5 (minute hour day month weekday), or 6 with seconds"
            ' first, such as "0 1 * * mon"'
        )
    fields[-1] = ",".join(map(_in_words, fields[-1].split(",")))
    try:
        return CronTrigger(**dict(zip(_FIELDS, fields, strict=True)), timezone=UTC)
    except ValueError as error:
        raise ConfigError(f"cron {cron!r}: {error}") from None


def _in_words(part: str) -> str:
    """Weekdays by number as weekdays by name; anything else as it is."""
    found = _NUMBERS.fullmatch(part)
    if found is None or part == "*":
        return part
    low, high = (0, 6) if found["low"] == "*" else (int(found["low"]), int(found["high"] or found["low"]))
    if found["step"] and not found["high"]:
        high = 6
    days = range(low, high + 1, int(found["step"] or 1))
    return ",".join(_DAYS[day % 7] for day in days) or part
