"""Rates of each type of signal by day, version and task: the share of events that got it, and its mean sum per event.

The day is that of the event, so a late evening's like counts where the list was shown. Late signals count nowhere. A
task is list, rank or strategy; feedback on lists and signals on ranked events are both signals here.

Users are the units of the intervals; an event without a user is its own. With n events of a user and x of them with the
signal, the rate r = sum x / sum n has the variance sum (x - r n)^2 / (sum n)^2 U / (U - 1), from sums that the database
computes (Cochran 1977, ratio estimator). Below MIN_UNITS units there is no interval.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import ColumnElement, Connection, Select, and_, func, literal, select

from recpolicy.core.statistics import Interval, half_width, largest_step
from recpolicy.server.db.feedback import DAY_MS
from recpolicy.server.db.schema import LIST, RANK, UNFILLED, events, feedback, rank_events, rank_signals

MIN_UNITS = 30
"""Users below which the normal approximation is too rough for an interval."""
_Z = 1.959964
"""Half-width of a 95 % interval in standard errors."""


@dataclass(frozen=True)
class SignalRate:
    """One type of signal on the events of one day, version and task."""

    day: int
    """Days since 1970, UTC."""
    version: int
    task: str
    """list, rank or strategy."""
    type: str
    events: int
    """Events of the day, whether or not they got the signal."""
    users: int
    """Users of these events; an event without a user counts as one."""
    with_signal: int
    """Events with at least one signal of this type."""
    rate: Interval
    """Share of the events with the signal."""
    mean: Interval
    """Mean over the events of the sum of its values, such as revenue per event."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON; None for an unbounded end."""
        return {**vars(self), "rate": plain_interval(self.rate), "mean": plain_interval(self.mean)}


def signal_rates(connection: Connection, since: int, until: int | None = None) -> list[SignalRate]:
    """Return the rates of all signals on events between two times (milliseconds since 1970), oldest day first.

    Args:
        connection: The database.
        since: First time of the events.
        until: Time after the last event; None takes all.
    """
    if connection.dialect.name == "postgresql":  # one pass over the events of some days
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    rates = [rate for parts in (_list_parts, _rank_parts) for rate in _rates(connection, *parts(since, until))]
    return sorted(rates, key=lambda rate: (rate.day, rate.version, rate.task, rate.type))


def _list_parts(since: int, until: int | None) -> tuple[Select[Any], Select[Any]]:
    """Return the number of events, and of events with a signal and the sum of its values, by group and user."""
    columns = events.c
    group = ((columns.time // DAY_MS).label("day"), columns.version, literal(LIST).label("task"))
    unit, wanted = columns.user_key.label("unit"), _between(columns.time, since, until)
    shown = select(*group, unit, func.count().label("n")).where(wanted).group_by("day", columns.version, unit)
    given = (
        select(
            *group, unit, feedback.c.type, func.count(func.distinct(columns.id)).label("x"),
            func.sum(feedback.c.value).label("s"),
        )
        .select_from(feedback.join(events, feedback.c.event_id == columns.id))
        .where(wanted, feedback.c.late.is_(False))
        .group_by("day", columns.version, unit, feedback.c.type)
    )  # fmt: skip
    return shown, given


def _rank_parts(since: int, until: int | None) -> tuple[Select[Any], Select[Any]]:
    """Return the same of ranked events, each slot as one; deferred events count once they are active."""
    columns, signals = rank_events.c, rank_signals.c
    task = func.coalesce(columns.task, RANK).label("task")
    group = ((columns.time // DAY_MS).label("day"), columns.version, task)
    unit = func.coalesce(columns.user_key, columns.id).label("unit")
    wanted = and_(_between(columns.time, since, until), columns.activated_at.is_not(None), task != UNFILLED)
    by = ("day", columns.version, task, unit)
    shown = select(*group, unit, func.count().label("n")).where(wanted).group_by(*by)
    given = (
        select(
            *group, unit, signals.type, func.count(func.distinct(columns.seq)).label("x"),
            func.sum(signals.value).label("s"),
        )
        .select_from(
            rank_signals.join(rank_events, and_(signals.event_id == columns.id, signals.slot == columns.slot))
        )
        .where(wanted, signals.late.is_(False))
        .group_by(*by, signals.type)
    )  # fmt: skip
    return shown, given


def _between(time: ColumnElement[Any], since: int, until: int | None) -> ColumnElement[bool]:
    return time >= since if until is None else and_(time >= since, time < until)


def _rates(connection: Connection, shown: Select[Any], given: Select[Any]) -> Iterator[SignalRate]:
    """Return the rates from the counts by group and user."""
    n, x = shown.subquery(), given.subquery()
    key = (n.c.day, n.c.version, n.c.task)
    sizes = select(*key, func.count(), func.sum(n.c.n), func.sum(n.c.n * n.c.n)).group_by(*key)
    totals = {tuple(row[:3]): tuple(row[3:]) for row in connection.execute(sizes)}
    same = and_(*(n.c[name] == x.c[name] for name in ("day", "version", "task", "unit")))
    sums = (x.c.x, x.c.x * x.c.x, x.c.x * n.c.n, x.c.s, x.c.s * x.c.s, x.c.s * n.c.n)
    query = select(*key, x.c.type, *map(func.sum, sums)).select_from(x.join(n, same)).group_by(*key, x.c.type)
    for day, version, task, signal_type, *values in connection.execute(query):
        count, size, squares = totals[day, version, task]
        x1, x2, xn, s1, s2, sn = (float(value) for value in values)
        users, events_, square = int(count), float(size), float(squares)
        yield SignalRate(
            int(day), int(version), str(task), str(signal_type), int(size), users, round(x1),
            _as_share(ratio_from_sums(users, events_, square, x1, x2, xn, width=1.0)),
            ratio_from_sums(users, events_, square, s1, s2, sn),
        )  # fmt: skip


def ratio_from_sums(
    users: int, size: float, size_squares: float, total: float, squares: float, products: float, width: float = 0.0
) -> Interval:
    """Return sum(total) / sum(size) over users with its 95 % interval, from sums over users.

    Args:
        users: U.
        size: Sum of n.
        size_squares: Sum of n^2.
        total: Sum of x.
        squares: Sum of x^2.
        products: Sum of x n.
        width: Range of the terms that x adds up; 0 if it is unknown.
    """
    ratio = total / size
    if users < MIN_UNITS:
        return Interval.unbounded(ratio)
    residuals = max(squares - 2 * ratio * products + ratio**2 * size_squares, 0.0)
    error = np.sqrt(residuals * users / (users - 1)) / size
    half = float(half_width(_Z, error, largest_step(width, size**2 / size_squares)))
    return Interval(ratio, ratio - half, ratio + half)


def _as_share(interval: Interval) -> Interval:
    """Return the interval without what lies outside of 0..1; an unbounded one stays."""
    if not np.isfinite(interval.hi):
        return interval
    return Interval(interval.value, max(interval.lo, 0.0), min(interval.hi, 1.0), interval.level)


def plain_interval(interval: Interval) -> dict[str, float | None]:
    """Return value and ends for JSON; None where they are not finite."""
    return {name: value if np.isfinite(value) else None for name, value in interval.as_dict().items()}
