"""Responses of click and watch logs in place of ratings: which item was shown to whom, and what the user did.

N rows, each an item that was shown. The like is `completed`, else `clicked`, else a watch fraction of three quarters or
more. The watch fraction is a column of its own, or watch_time / duration, or watch_time / its 95th percentile. Like and
watch fraction w together are one of five ordered levels, which are ratings of 1 to 5:

    no like: 1, 2 or 3, by the quarter that is nearest to w, a half at most        a like: 4, or 5 from w = .875 on

So likes are the ratings of 4 and 5. Without watch columns there are 1 and 5. The scale is that on which the defaults of
the rating models were chosen. Watch fractions stay with the ratings: a level pays its mean one, not its quarter.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError, unknown_name_error
from recpolicy.data.csv_reader import Source
from recpolicy.data.table_columns import numbers, texts

SIGNAL_COLUMNS = ("clicked", "completed", "watch_time", "duration", "watch_fraction", "context")
"""Meanings of the columns of responses; one of the like's is needed."""
MAX_CONTEXTS = 50
"""Most values of the context, such as kinds of devices."""
_LIKED_WATCH = 0.75
_USUAL_LONGEST = 0.95
"""Quantile of watch times that counts as watched whole where no duration is known."""


class Responses(NamedTuple):
    """The responses of N rows."""

    rating: NDArray[np.float64]  # [N], 1, 2, 3, 4 or 5
    watch: NDArray[np.float32] | None  # [N] watch fraction, 0 to 1
    context: NDArray[Any] | None  # [N] text


def check_signals(signals: Mapping[str, str]) -> None:
    """Raise ConfigError for an unknown signal, or signals that say no like or two watch fractions."""
    for name in signals:
        if name not in SIGNAL_COLUMNS:
            raise unknown_name_error("signal", name, SIGNAL_COLUMNS)
    if not {"clicked", "completed", "watch_time", "watch_fraction"} & set(signals):
        raise ConfigError("signals: expected a column for clicked, completed, watch_time or watch_fraction")
    if {"watch_time", "watch_fraction"} <= set(signals):
        raise ConfigError("signals: give watch_time or watch_fraction, not both")
    if "duration" in signals and "watch_time" not in signals:
        raise ConfigError("signals: duration belongs to watch_time, which is missing")


def find_signals(names: Sequence[str], signals: Mapping[str, str], source: Source) -> dict[str, str]:
    """Return the columns by signal; raise DataError for one that the file does not have."""
    for signal, name in signals.items():
        if name not in names:
            raise DataError(f"{source.path}: no column {name!r} for the signal {signal}; found: {', '.join(names)}")
    return dict(signals)


def read_responses(columns: Mapping[str, Any], source: Source) -> Responses:
    """Return the responses of Arrow columns [N] by signal.

    Raises:
        DataError: A value is missing or out of range; names file, line and value.
    """
    flags = {name: _flags(columns[name], name, source) for name in ("completed", "clicked") if name in columns}
    watch = _watch(columns, source)
    if flags:
        like = next(iter(flags.values()))
    else:
        assert watch is not None, "check_signals asks for one"
        like = watch >= _LIKED_WATCH
    if watch is None:
        level = 4.0 * like
    else:
        level = np.where(like, np.where(watch >= 0.875, 4.0, 3.0), np.minimum(np.rint(4 * watch), 2.0))
    context = None
    if "context" in columns:
        context = texts(columns["context"])
        count = len(set(context.tolist()))
        if count > MAX_CONTEXTS:
            raise DataError(
                f"{source.path}: the context has {count:,} values; expected {MAX_CONTEXTS} at most, such as kinds of"
                " devices or hours of the day"
            )
    rating = np.asarray(1 + level, np.float64)
    return Responses(rating, None if watch is None else watch.astype(np.float32), context)


def _flags(column: Any, name: str, source: Source) -> NDArray[np.bool_]:
    values = numbers(column, name, source, "0 or 1")
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(f"{source.at(row)}: {name} {values[row]:g}: expected 0 or 1")
    return np.asarray(values == 1)


def _watch(columns: Mapping[str, Any], source: Source) -> NDArray[np.float64] | None:
    """Return the watch fraction [N]; None without such a column."""
    if "watch_fraction" in columns:
        fraction = numbers(columns["watch_fraction"], "watch_fraction", source)
        _refuse((fraction < 0) | (fraction > 1), fraction, "watch_fraction {:g}: expected 0 to 1", source)
        return fraction
    if "watch_time" not in columns:
        return None
    time = numbers(columns["watch_time"], "watch_time", source)
    _refuse(time < 0, time, "watch_time {:g}: expected 0 or more", source)
    if "duration" in columns:
        duration = numbers(columns["duration"], "duration", source)
        _refuse(duration <= 0, duration, "duration {:g}: expected more than 0", source)
    else:
        watched = time[time > 0]
        duration = np.full(len(time), np.quantile(watched, _USUAL_LONGEST) if len(watched) else 1.0)
    return np.minimum(time / duration, 1.0)


def _refuse(wrong: NDArray[np.bool_], values: NDArray[np.float64], what: str, source: Source) -> None:
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(f"{source.at(row)}: {what.format(values[row])}")
