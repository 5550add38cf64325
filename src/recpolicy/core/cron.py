"""Cron expressions: the next time of a job (UTC), and the dialects of Kubeflow Pipelines and Vertex AI.

cronsim reads five fields (minute hour day month weekday) as Debian's cron does: if neither day nor weekday is `*`,
either may match. Weekdays count from Sunday = 0; our own server accepts 7 too. Intervals are written `@every 10s`.
"""

import re
from datetime import UTC, datetime, timedelta

from cronsim import CronSim, CronSimError

from recpolicy.core.errors import ConfigError

_EVERY = re.compile(r"@every ([1-9]\d{0,8})([smh])")
_MILLISECONDS = {"s": 1_000, "m": 60_000, "h": 3_600_000}
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# The names are those in cronsim's messages ("Bad minute"), in the order of the fields.
_RANGES = {
    "minute": "0-59",
    "hour": "0-23",
    "day-of-month": "1-31, a day that the month has",
    "month": "1-12 or JAN-DEC",
    "day-of-week": "0-6 or SUN-SAT",
}
_BEYOND_ROBFIG = re.compile(r"[L#]|(^|[,-])0*7(?!\d)")
"""Weekdays that cronsim accepts and the schedulers of Kubeflow and Google do not: 7, 5L and 1#2."""


def next_time(cron: str, after: int) -> int:
    """Return the first time later than `after`, both in milliseconds since 1970.

    Raises ConfigError for anything but a cron expression or `@every N[smh]`, and for an expression that never occurs.
    """
    if interval := _EVERY.fullmatch(cron.lower()):
        step = int(interval[1]) * _MILLISECONDS[interval[2]]
        return (after // step + 1) * step
    fields = cron.split()
    if len(fields) != 5:
        raise ConfigError(
            f"cron {cron!r} has {len(fields)} fields; expected 5 (minute hour day month weekday), such as"
            ' "0 1 * * mon" for Mondays at 01:00, or an interval such as "@every 10s"'
        )
    due = next(_parse(cron, fields, _EPOCH + timedelta(milliseconds=after)), None)
    if due is None:
        raise ConfigError(f"cron {cron!r} never occurs; choose a day that the month has")
    return int((due - _EPOCH) / timedelta(milliseconds=1))


def kubeflow_cron(cron: str) -> str:
    """Return the six fields of Kubeflow Pipelines (robfig/cron v1), the second first; raise ConfigError."""
    return " ".join(_six_fields(cron))


def vertex_cron(cron: str) -> str:
    """Return the five fields of Vertex AI; raise ConfigError, also for a second other than 0."""
    second, *fields = _six_fields(cron)
    if second != "0":
        raise ConfigError(f"cron {cron!r}: Vertex AI starts runs at full minutes; leave out the field of seconds")
    return " ".join(fields)


def _six_fields(cron: str) -> list[str]:
    fields = cron.split()
    if len(fields) == 5:
        fields = ["0", *fields]
    if len(fields) != 6:
        raise ConfigError(
            f"cron {cron!r} has {len(fields)} fields; expected 5 (minute hour day month weekday), or 6 with seconds"
            ' first, such as "0 1 * * 1" for Mondays at 01:00'
        )
    second, *others = (field.upper().replace("?", "*") for field in fields)
    if re.search("[A-Z]", others[2]):  # cronsim's L and LW
        raise _bad_field(cron, "day-of-month", others[2])
    if _BEYOND_ROBFIG.search(others[4]):
        raise _bad_field(cron, "day-of-week", others[4])
    try:
        _parse(cron, [second, "*", "*", "*", "*"], _EPOCH)  # seconds have the range of minutes
    except ConfigError:
        raise _bad_field(cron, "second", second) from None
    _parse(cron, others, _EPOCH)
    return fields


def _parse(cron: str, fields: list[str], after: datetime) -> CronSim:
    try:
        return CronSim(" ".join(fields), after)
    except CronSimError as error:
        name = str(error).removeprefix("Bad ")
        raise _bad_field(cron, name, fields[list(_RANGES).index(name)]) from None


def _bad_field(cron: str, name: str, field: str) -> ConfigError:
    expected = _RANGES.get(name, "0-59")
    return ConfigError(
        f"cron {cron!r}: bad {name} {field!r}; expected {expected}, a range, a list such as 1,3, a step such as */2,"
        " or *"
    )
