"""One column of a table becomes one NumPy array, or an error that names file, line and value.

A column comes as an Arrow array of text (CSV) or of its own type (Parquet, data frames). N rows.
"""

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.data.csv_source import Source

_PLAIN_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
_NUMERIC = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
# Seconds since 1970 that lie beyond the year 5000 are milliseconds.
_TOO_LATE = 100_000_000_000


def identifiers(column: Any, what: str, source: Source) -> NDArray[Any]:
    """Return ids [N] as int64, or as str objects when any is not a plain integer ("007" is text and stays so).

    Raises DataError for a missing id or one that is neither integer nor text.
    """
    column = _combined(column)
    if column.null_count:
        row = _first(pc.is_null(column))
        raise DataError(f"{source.at(row)}: {what} id is missing")
    if pa.types.is_integer(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False), np.int64)
    if pa.types.is_floating(column.type):
        return _whole(column, what, source)
    if not _is_text(column.type):
        raise DataError(f"{source.path}: {what} ids are of type {column.type}; expected integers or text")
    column = pc.utf8_trim_whitespace(column)
    if pc.all(pc.match_substring_regex(column, _PLAIN_INTEGER)).as_py():
        return np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False))
    blank = pc.equal(column, "")
    if pc.any(blank).as_py():
        raise DataError(f"{source.at(_first(blank))}: {what} id is missing")
    return np.asarray(column.to_numpy(zero_copy_only=False), object)


def numbers(column: Any, what: str, source: Source) -> NDArray[np.float64]:
    """Return finite numbers [N]; raises DataError for a missing, non-numeric, NaN or infinite one."""
    column = _combined(column)
    if _is_text(column.type):
        column = pc.utf8_trim_whitespace(column)
    elif not (
        pa.types.is_integer(column.type) or pa.types.is_floating(column.type) or pa.types.is_decimal(column.type)
    ):
        raise DataError(f"{source.path}: {what} column is of type {column.type}; expected numbers")
    try:
        values = np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        values = pd.to_numeric(column.to_pandas(), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(bad.argmax())
        value = column[row].as_py()
        found = f"{what} is missing" if value in (None, "") else f"{what} {value!r} is not a number"
        raise DataError(f"{source.at(row)}: {found}")
    return values


def seconds(column: Any, source: Source) -> NDArray[np.int64]:
    """Return seconds since 1970 [N] from such numbers, ISO 8601 text (UTC unless it says so) or Arrow timestamps.

    Raises DataError for anything else and for milliseconds.
    """
    column = _combined(column)
    if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
        if column.null_count:
            raise DataError(f"{source.at(_first(pc.is_null(column)))}: timestamp is missing")
        return np.asarray(column.cast(pa.timestamp("s"), safe=False).cast(pa.int64()).to_numpy(zero_copy_only=False))
    if _is_text(column.type) and len(column) and _is_date(column[0].as_py()):
        return _from_dates(column, source)
    values = np.floor(numbers(column, "timestamp", source))
    late = np.abs(values) > _TOO_LATE
    if late.any():
        row = int(late.argmax())
        raise DataError(
            f"{source.at(row)}: timestamp {column[row].as_py()!r} is not in seconds since 1970; milliseconds are "
            "divided by 1000 first"
        )
    return values.astype(np.int64)


def texts(column: Any) -> NDArray[Any]:
    """Return str objects [N]; missing values become ""."""
    column = _combined(column)
    return np.asarray(pc.fill_null(column.cast(pa.string()), "").to_numpy(zero_copy_only=False), object)


def _whole(column: Any, what: str, source: Source) -> NDArray[Any]:
    """Ids that went through floats (a column that once had gaps) are integers again, or an error."""
    values = column.to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):
        bad = ~(np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < 2**53))
    if bad.any():
        row = int(bad.argmax())
        raise DataError(f"{source.at(row)}: {what} id {values[row]:g} is not an integer or text")
    return np.asarray(values, np.int64)


def _from_dates(column: Any, source: Source) -> NDArray[np.int64]:
    moments = pd.to_datetime(column.to_pandas(), format="ISO8601", utc=True, errors="coerce")
    if moments.isna().any():
        row = int(moments.isna().to_numpy().argmax())
        raise DataError(
            f"{source.at(row)}: timestamp {column[row].as_py()!r} is not an ISO 8601 date like the first one"
        )
    return np.asarray(moments.dt.tz_convert(None).to_numpy().astype("datetime64[s]"), np.int64)


def _is_date(text: str | None) -> bool:
    return text is not None and len(text) >= 8 and text[:4].isdigit() and text[4] == "-"


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _combined(column: Any) -> Any:
    """One array of plain values out of chunks and dictionaries."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return array.dictionary_decode() if pa.types.is_dictionary(array.type) else array


def _first(mask: Any) -> int:
    return int(pc.index(mask, True).as_py())
