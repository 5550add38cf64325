"""Convert columns of an Arrow table to NumPy arrays: ids, numbers, times and texts, every value checked.

N rows. Every fault is a DataError that names file, line and value. Text and binary columns of any Arrow type are text.
"""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.data.csv_reader import Source
from recpolicy.data.read_options import timestamp_error

_INTEGER = r"^(0|-?[1-9][0-9]{0,17})(\.0+)?$"
_WHOLE_FLOAT = r"^(0|-?[1-9][0-9]*)\.0+$"
_DECIMAL_COMMA = re.compile(r"\s*-?\d+,\d+\s*$")
_LARGEST = np.iinfo(np.int64).max
_YEAR_1, _YEAR_5138 = -62_135_596_800, 100_000_000_000
"""Seconds since 1970; later times are in a smaller unit than seconds."""
_UNITS = (("nanoseconds", 1e17, "1,000,000,000"), ("microseconds", 1e14, "1,000,000"), ("milliseconds", 0.0, "1,000"))
_DATE = "an ISO 8601 date such as 2020-01-05 or 2020-01-05T10:00:00Z"


def identifiers(column: Any, what: str, source: Source) -> NDArray[Any]:
    """Return ids [N] as int64, or as str objects if any is not a whole number of at most 18 digits.

    "007" is text and stays so. "196.0", as pandas writes ids of a column with gaps, is 196. Raises DataError for a
    missing id or one that is neither an integer nor text.
    """
    column = _combined(column, source)
    if column.null_count:
        raise DataError(f"{source.at(_first(pc.is_null(column)))}: {what} id is missing")
    if pa.types.is_uint64(column.type) and len(column) and pc.max(column).as_py() > _LARGEST:
        column = column.cast(pa.string())
    if pa.types.is_integer(column.type):
        return np.asarray(column.to_numpy(zero_copy_only=False), np.int64)
    if pa.types.is_floating(column.type):
        return _whole(column, what, source)
    if pa.types.is_decimal(column.type):
        column = column.cast(pa.string())
    if not _is_text(column.type):
        raise DataError(f"{source.path}: {what} ids are of type {column.type}; expected integers or text")
    column = pc.utf8_trim_whitespace(column)
    integer = bool(pc.all(pc.match_substring_regex(column, _INTEGER)).as_py())
    if pc.any(pc.match_substring(column, ".0")).as_py():
        column = pc.replace_substring_regex(column, _WHOLE_FLOAT, r"\1")
    if integer:
        return np.asarray(column.cast(pa.int64()).to_numpy(zero_copy_only=False))
    blank = pc.equal(column, "")
    if pc.any(blank).as_py():
        raise DataError(f"{source.at(_first(blank))}: {what} id is missing")
    return np.asarray(column.to_numpy(zero_copy_only=False), object)


def numbers(
    column: Any,
    what: str,
    source: Source,
    expected: str = "a number",
    error: Callable[[str], DataError] = DataError,
) -> NDArray[np.float64]:
    """Return finite numbers [N]; true and false are 1 and 0. Raises DataError for a missing value or any other.

    Args:
        column: An Arrow column.
        what: The meaning of the column, for messages.
        source: The file.
        expected: The values that the message names.
        error: Makes the error of a message.
    """
    column = _combined(column, source)
    kind = column.type
    if pa.types.is_boolean(kind):
        column = column.cast(pa.int8())
    elif _is_text(kind):
        column = _truth_as_number(pc.utf8_trim_whitespace(column))
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)):
        raise DataError(f"{source.path}: {what} column is of type {kind}; expected numbers")
    try:
        values = np.asarray(column.cast(pa.float64()).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        values = pd.to_numeric(column.to_pandas(), errors="coerce").to_numpy(np.float64, na_value=np.nan)
    bad = ~np.isfinite(values)
    if bad.any():
        row = int(bad.argmax())
        value = column[row].as_py()
        problem = f"{what} is missing" if value in (None, "") else f"{what} {value!r} is not {expected}"
        if isinstance(value, str) and _DECIMAL_COMMA.match(value):
            problem += f"; write it with a decimal point, {value.strip().replace(',', '.')}"
        raise error(f"{source.at(row)}: {problem}")
    return values


def seconds(column: Any, source: Source) -> NDArray[np.int64]:
    """Return seconds since 1970 [N] from such numbers, from dates, or from Arrow dates and timestamps.

    Dates are ISO 8601 text (UTC unless it says so) or, if all values are dates, eight digits such as 20200705. Raises
    DataError for anything else, and for milliseconds and smaller units.
    """
    column = _combined(column, source)
    if pa.types.is_date(column.type) or pa.types.is_timestamp(column.type):
        if column.null_count:
            raise timestamp_error(f"{source.at(_first(pc.is_null(column)))}: timestamp is missing")
        values = np.asarray(column.cast(pa.timestamp("s"), safe=False).cast(pa.int64()).to_numpy(zero_copy_only=False))
    elif _is_text(column.type) and len(column) and _is_date(column[0].as_py()):
        values = _from_dates(column, source)
    else:
        expected = f"a number of seconds since 1970 or {_DATE}"
        found = np.floor(numbers(column, "timestamp", source, expected, timestamp_error))
        dates = _eight_digit_dates(found)
        if dates is None:
            _check_seconds(found, column, source)
        values = found.astype(np.int64) if dates is None else dates
    early = values < _YEAR_1
    if early.any():
        row = int(early.argmax())
        raise timestamp_error(f"{source.at(row)}: timestamp {column[row].as_py()!r} is before the year 1")
    return values


def texts(column: Any) -> NDArray[Any]:
    """Return str objects [N]; missing values become ""."""
    column = _combined(column, None)
    return np.asarray(pc.fill_null(column.cast(pa.string()), "").to_numpy(zero_copy_only=False), object)


def _check_seconds(values: NDArray[np.float64], column: Any, source: Source) -> None:
    late = np.abs(values) > _YEAR_5138
    if late.any():
        row = int(late.argmax())
        unit, factor = next((name, factor) for name, least, factor in _UNITS if abs(values[row]) >= least)
        raise timestamp_error(
            f"{source.at(row)}: timestamp {column[row].as_py()!r} is not in seconds since 1970; {unit} are divided by"
            f" {factor} first"
        )


def _eight_digit_dates(values: NDArray[np.float64]) -> NDArray[np.int64] | None:
    """Return the seconds of dates such as 20200705 [N]; None unless all values are dates of 1900 to 2100."""
    if not len(values) or values.min() < 19_000_101 or values.max() > 21_001_231:
        return None
    whole = values.astype(np.int64)
    year, month, day = whole // 10_000, whole // 100 % 100, whole % 100
    if not ((month >= 1) & (month <= 12) & (day >= 1)).all():
        return None
    first = (12 * (year - 1970) + month - 1).astype("datetime64[M]")
    date = first.astype("datetime64[D]") + (day - 1)
    return None if (date.astype("datetime64[M]") != first).any() else date.astype("datetime64[s]").astype(np.int64)


def _truth_as_number(column: Any) -> Any:
    """Return a text column with true and false, in any case, as 1 and 0, if it has no other values."""
    lower = pc.utf8_lower(column)
    if not pc.all(pc.is_in(lower, pa.array(["true", "false"], lower.type))).as_py():
        return column
    return pc.equal(lower, "true").cast(pa.int8())


def _whole(column: Any, what: str, source: Source) -> NDArray[Any]:
    """Return float ids (of a column that once had gaps) as integers, or raise DataError."""
    values = column.to_numpy(zero_copy_only=False)
    with np.errstate(invalid="ignore"):
        bad = ~(np.isfinite(values) & (values == np.floor(values)) & (np.abs(values) < 2**53))
    if bad.any():
        row = int(bad.argmax())
        raise DataError(f"{source.at(row)}: {what} id {values[row]:g} is not an integer or text")
    return np.asarray(values, np.int64)


def _from_dates(column: Any, source: Source) -> NDArray[np.int64]:
    with_zone = pc.replace_substring_regex(pc.utf8_trim_whitespace(column), r"\s*(UTC|GMT)$", "Z")
    moments = pd.to_datetime(with_zone.to_pandas(), format="ISO8601", utc=True, errors="coerce")
    if moments.isna().any():
        row = int(moments.isna().to_numpy().argmax())
        value = column[row].as_py()
        problem = "is missing" if value in (None, "") else f"{value!r} is not {_DATE}"
        raise timestamp_error(f"{source.at(row)}: timestamp {problem}")
    return np.asarray(moments.dt.tz_convert(None).to_numpy().astype("datetime64[s]"), np.int64)


def _is_date(text: str | None) -> bool:
    return text is not None and len(text.strip()) >= 8 and text.strip()[:4].isdigit() and text.strip()[4] == "-"


def _is_text(kind: Any) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _combined(column: Any, source: Source | None) -> Any:
    """Return one array of plain values out of chunks, dictionaries, views and bytes."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    kind = array.type
    is_bytes = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    if not is_bytes and not pa.types.is_string_view(kind):
        return array
    try:
        return array.cast(pa.large_string() if pa.types.is_large_binary(kind) else pa.string())
    except pa.ArrowInvalid as error:
        where = "a column" if source is None else str(source.path)
        raise DataError(f"{where}: bytes that are not UTF-8 text: {str(error).splitlines()[0]}") from None


def _first(mask: Any) -> int:
    return int(pc.index(mask, True).as_py())
