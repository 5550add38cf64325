"""Files of traces: CSV or Parquet with the columns item, start, active_days and, if wanted, count.

    item,start,active_days
    film/7,2026-01-05,1 2 5
    film/7,2026-01-06,

`start` is a date or the number of a day. `active_days` lists days after the start in ascending order, as a text of
whole numbers or as a list of a Parquet file; it may be empty. `count` is the number of equal traces that a row stands
for. Every fault is a DataError that names file and row.
"""

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recpolicy.coldstart.traces import MAX_DAYS, Traces, concatenate
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.files import atomic_path
from recpolicy.core.memory import check_memory
from recpolicy.core.text import join_words
from recpolicy.data.csv_reader import Source, is_parquet, open_table
from recpolicy.data.feature_columns import object_array
from recpolicy.data.table_columns import identifiers, numbers, seconds, texts

ITEM, START, ACTIVE, COUNT = "item", "start", "active_days", "count"
_DAY_SECONDS = 86_400
_FAR = 10**7
"""Days from day 0; a later one is a time in seconds."""
_EXAMPLE = "expected ascending whole numbers such as '1 2 5'"


def read_traces(paths: Path | Sequence[Path], horizon: int, until: int | str | None = None) -> Traces:
    """Read files of traces.

    Args:
        paths: One or several CSV or Parquet files, or folders of such files.
        horizon: Days J of a trace.
        until: Last day that is over, as a number or a date. None is the last day in the files; later days of the
            traces are then not observed yet.

    Raises:
        DataError: A file is wrong; names file and row.
        ConfigError: The horizon or `until` is out of range.
        MemoryLimitError: The traces do not fit into memory.
    """
    if not 1 <= horizon <= MAX_DAYS:
        raise ConfigError(f"horizon of {horizon} days; expected 1 to {MAX_DAYS}")
    given = None if until is None else parse_day(until)
    listed = [paths] if isinstance(paths, Path) else list(paths)
    return concatenate([_read(path, horizon, given) for path in listed])


def parse_day(day: int | str) -> int:
    """Return a day as a number; dates count from 1970-01-01. Raises ConfigError for anything else."""
    text = str(day).strip()
    try:
        return (date.fromisoformat(text) - date(1970, 1, 1)).days if "-" in text[1:] else int(text)
    except ValueError:
        raise ConfigError(f"{text!r} is not a day; expected a number or a date such as 2026-01-05") from None


def write_traces(path: Path, traces: Traces) -> None:
    """Write traces as Parquet if the name says so, else as CSV; the file appears whole or not at all."""
    lists = [np.flatnonzero(row) + 1 for row in traces.active]
    start = [traces.format_day(day) for day in traces.start] if traces.dated else traces.start
    ids = traces.items.tolist()
    if len({type(item) for item in ids}) > 1:  # a column of a file has one type
        ids = list(map(str, ids))
    columns = {ITEM: pa.array(object_array(ids)[traces.item].tolist()), START: pa.array(start)}
    with atomic_path(path) as temporary:
        if is_parquet(path):
            columns |= {ACTIVE: pa.array(lists, pa.list_(pa.int16())), COUNT: pa.array(traces.count)}
            pq.write_table(pa.table(columns), temporary, compression="zstd")
        else:
            columns |= {ACTIVE: pa.array([" ".join(map(str, days)) for days in lists]), COUNT: pa.array(traces.count)}
            pyarrow.csv.write_csv(pa.table(columns), temporary)


def _read(path: Path, horizon: int, until: int | None) -> Traces:
    file = open_table(path)
    lacking = [name for name in (ITEM, START, ACTIVE) if name not in file.names]
    if lacking:
        missing = f"no column{'s' * (len(lacking) > 1)} {join_words([*map(repr, lacking)])}"
        raise DataError(f"{path}: {missing}; found {', '.join(file.names)}; expected item, start, active_days")
    names = [ITEM, START, ACTIVE, *([COUNT] if COUNT in file.names else [])]
    table, source = file.read(names), file.source
    rows = len(table)
    if not rows:
        raise DataError(f"{path}: no traces; expected a row for each user to whom an item was shown")
    check_memory(rows * (horizon * 12 + 100), f"{path}: {rows:,} traces", "read fewer traces or a shorter horizon")
    ids = identifiers(table.column(ITEM), ITEM, source)
    start, dated = _start_days(table.column(START), source)
    row, day = _active_days(table.column(ACTIVE), source)
    _refuse(row, (day < 1) | (day > horizon), source, lambda place: (
        f"active day {day[place]} is not in 1..{horizon}, the days after the start within the horizon"
    ))  # fmt: skip
    same = row[1:] == row[:-1]
    _refuse(row[1:], same & (day[1:] <= day[:-1]), source, lambda place: (
        f"active day {day[place + 1]} follows {day[place]}; {_EXAMPLE}"
    ))  # fmt: skip
    last = start.copy()
    np.maximum.at(last, row, start[row] + day)
    over = int(last.max()) if until is None else until
    _refuse(np.arange(rows), last > over, source, lambda place: (
        f"a day of this trace is {last[place] - over} after {_day(over, dated)}, the last day that is over"
    ))  # fmt: skip
    active = np.zeros((rows, horizon), bool)
    active[row, day - 1] = True
    items, item = np.unique(ids, return_inverse=True)
    return Traces(
        object_array(items.tolist()), item.astype(np.int64), start, active, _counts(table, source), over, dated
    )


def _start_days(column: Any, source: Source) -> tuple[NDArray[np.int64], bool]:
    """Return the days [N] and True if they are dates."""
    kind = column.type
    dated = pa.types.is_date(kind) or pa.types.is_timestamp(kind)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        first = column[0].as_py() or ""
        dated = len(first.strip()) >= 8 and first.strip()[4:5] == "-"
    if dated:
        return seconds(column, source) // _DAY_SECONDS, True
    days = numbers(column, START, source, "the number of a day, or a date such as 2026-01-05")
    _refuse(np.arange(len(days)), (days != np.floor(days)) | (np.abs(days) > _FAR), source, lambda place: (
        f"start {days[place]:g} is not the number of a day; expected a whole number, or a date such as 2026-01-05"
    ))  # fmt: skip
    return days.astype(np.int64), False


def _active_days(column: Any, source: Source) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row and the day of every active day, in the order of the file."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type):
        row = np.asarray(pc.list_parent_indices(array).to_numpy(zero_copy_only=False), np.int64)
        return row, _whole_days(pc.list_flatten(array), row, source)
    words = [text.split() for text in texts(column)]
    row = np.repeat(np.arange(len(words)), [len(parts) for parts in words])
    return row, _whole_days(pa.array([word for parts in words for word in parts], pa.string()), row, source)


def _whole_days(values: Any, row: NDArray[np.int64], source: Source) -> NDArray[np.int64]:
    try:
        if values.null_count:
            raise pa.ArrowInvalid("missing")
        return np.asarray(values.cast(pa.int64()).to_numpy(zero_copy_only=False), np.int64)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        for place, value in enumerate(values.to_pylist()):
            if not str(value).removeprefix("-").isdecimal():
                raise DataError(f"{source.at(int(row[place]))}: active_days holds {value!r}; {_EXAMPLE}") from None
        raise DataError(f"{source.path}: active_days of type {values.type}; {_EXAMPLE}") from None


def _counts(table: Any, source: Source) -> NDArray[np.int64]:
    if COUNT not in table.column_names:
        return np.ones(len(table), np.int64)
    values = numbers(table.column(COUNT), COUNT, source, "a whole number of users, 1 or more")
    wrong = (values < 1) | (values != np.floor(values)) | (values > 2**40)
    _refuse(np.arange(len(values)), wrong, source, lambda place: (
        f"count {values[place]:g}; expected a whole number of users, 1 or more"
    ))  # fmt: skip
    return values.astype(np.int64)


def _day(day: int, dated: bool) -> str:
    return str(np.datetime64(day, "D")) if dated else str(day)


def _refuse(row: NDArray[np.int64], wrong: NDArray[np.bool_], source: Source, message: Any) -> None:
    """Raise DataError for the first wrong value; row has the row of each value in the file."""
    if wrong.any():
        place = int(wrong.argmax())
        raise DataError(f"{source.at(int(row[place]))}: {message(place)}")
