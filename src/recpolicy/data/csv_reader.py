"""Read CSV, TSV and Parquet files as Arrow tables, and their columns as NumPy arrays.

Arrow reads the files in parallel. If a file is faulty, a second pass in plain Python finds the line for the message.
The reader skips blank lines and keeps text columns as text; the functions for columns convert them. N rows.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.data.read_options import separator_error

_OTHER_SEPARATORS = (",", "\t", ";", "|", "::")
# Longer fields are no ids, ratings or titles; the limit guards the walk, not Arrow.
csv.field_size_limit(1 << 24)


@dataclass(frozen=True)
class Source:
    """The file of a table, for messages; row 0 is the first row of data."""

    path: Path | str
    """A file, or what to call a table that is in memory."""
    separator: str | None = None
    """Separator of a text file; None for Parquet and tables in memory."""
    header: bool = True
    quoted: bool = True
    encoding: str = "utf-8"

    def at(self, row: int) -> str:
        """Return "file:line" of a row of data, "file: row n" (from 1) where there are no lines."""
        if self.separator is None:
            return f"{self.path}: row {row + 1}"
        wanted = row + self.header
        for number, (line, _) in enumerate(self.records()):
            if number == wanted:
                return f"{self.path}:{line}"
        return f"{self.path}: row {row + 1}"

    def records(self) -> Iterator[tuple[int, list[str]]]:
        """Yield (line of its start, fields) of every record that is not blank, header included; the slow way."""
        assert self.separator is not None
        try:
            with self.open() as raw, io.TextIOWrapper(raw, self.encoding, errors="replace", newline="") as text:
                yield from _quoted(text, self.separator) if self.quoted else _plain(text, self.separator)
        except (OSError, csv.Error) as error:
            raise DataError(f"{self.path}: cannot be read: {error}") from None

    def open(self) -> Any:
        """Open the file as bytes, uncompressed if its name has an ending such as .gz; raises DataError."""
        try:
            return pa.input_stream(str(self.path), compression="detect")
        except FileNotFoundError:
            raise DataError(f"{self.path}: no such file") from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error}") from None


def read_text(source: Source, names: Sequence[str] | None = None) -> Any:
    """Read a separated text file as an Arrow table of strings; names are those of the header unless given.

    Raises DataError for a missing, unreadable or empty file, a wrong separator, a line with too few or too many fields,
    and bytes that are not in the encoding.
    """
    if names is None:
        _check_header(source)
    try:
        with source.open() as raw:
            stream = raw if source.separator != "::" else pa.BufferReader(raw.read().replace(b"::", b"\x1f"))
            return pa.csv.read_csv(stream, *_options(source, names))
    except pa.ArrowInvalid as error:
        raise _explain(source, names, str(error)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source.path}: cannot be read as {source.encoding} text: {error}") from None


def read_parquet(path: Path, columns: Sequence[str] | None = None) -> Any:
    """Read a Parquet file as an Arrow table; raises DataError when it is missing or not one."""
    try:
        return pa.parquet.read_table(path, columns=columns)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}") from None


def _quoted(text: TextIO, separator: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(text, delimiter=separator)
    start = 1
    for fields in reader:
        if fields:
            yield start, fields
        start = reader.line_num + 1


def _plain(text: TextIO, separator: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text, start=1):
        if line.strip("\r\n"):
            yield number, line.rstrip("\r\n").split(separator)


def _options(source: Source, names: Sequence[str] | None) -> tuple[Any, Any, Any]:
    separator = "\x1f" if source.separator == "::" else source.separator
    read = pa.csv.ReadOptions(column_names=names, encoding=source.encoding)
    quote = '"' if source.quoted else False
    parse = pa.csv.ParseOptions(delimiter=separator, quote_char=quote, newlines_in_values=source.quoted)
    columns = names or _header(source)
    types = dict.fromkeys(columns, pa.string())
    return read, parse, pa.csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])


def _header(source: Source) -> list[str]:
    first = next(source.records(), None)
    if first is None:
        raise DataError(f"{source.path}: the file is empty; expected a line of column names and then rows")
    return [field.removeprefix("\ufeff") for field in first[1]]


def _check_header(source: Source) -> None:
    """Raise DataError if the header is missing or has another separator."""
    fields = _header(source)
    if len(fields) > 1:
        return
    for other in _OTHER_SEPARATORS:
        if other != source.separator and other in fields[0]:
            fact = (
                f"{source.path}:1: the header {fields[0]!r} has one column when split at {source.separator!r}, and"
                f" contains {other!r}"
            )
            raise separator_error(fact, source.separator or ",", other)


def _explain(source: Source, names: Sequence[str] | None, reason: str) -> DataError:
    """Find the first record that Arrow could not take and say what is wrong with it."""
    expected = None if names is None else len(names)
    for line, fields in source.records():
        expected = expected or len(fields)
        if any("\ufffd" in field for field in fields):
            return DataError(f"{source.path}:{line}: not {source.encoding} text; save the file in this encoding")
        if len(fields) != expected:
            text = (source.separator or "").join(fields)
            return DataError(
                f"{source.path}:{line}: {len(fields)} fields separated by {source.separator!r} in {text[:80]!r}, "
                f"expected {expected}; check the separator and the line"
            )
    if expected is None or (names is not None and "Empty" in reason):
        return DataError(f"{source.path}: the file is empty; expected rows")
    return DataError(f"{source.path}: not readable as a table: {reason.splitlines()[0]}")


_PLAIN_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
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
        problem = f"{what} is missing" if value in (None, "") else f"{what} {value!r} is not a number"
        raise DataError(f"{source.at(row)}: {problem}")
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
    """Return float ids (of a column that once had gaps) as integers, or raise DataError."""
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
