"""Text and Parquet files as Arrow tables of which every row can still be named by file and line.

Files are read by Arrow, fast and in parallel; only when something is wrong is a file walked again, in plain Python, to
find the line to blame. Blank lines are skipped. All text columns stay text: what they mean is decided by `columns`.
"""

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet

from recpolicy.core.errors import DataError

_OTHER_SEPARATORS = (",", "\t", ";", "|", "::")
# Longer fields are no ids, ratings or titles; the limit guards the walk, not Arrow.
csv.field_size_limit(1 << 24)


@dataclass(frozen=True)
class Source:
    """Where the rows of a table come from; row 0 is the first row of data."""

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
        """Open the file as bytes, uncompressed if its name ends in .gz and the like; raises DataError."""
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
        raise DataError(f"{source.path}: the file is empty; expected a line of column names, then rows")
    return [field.removeprefix("\ufeff") for field in first[1]]


def _check_header(source: Source) -> None:
    """Raise DataError when the header is missing or speaks for another separator."""
    fields = _header(source)
    if len(fields) > 1:
        return
    for other in _OTHER_SEPARATORS:
        if other != source.separator and other in fields[0]:
            raise DataError(
                f"{source.path}:1: the header {fields[0]!r} has one column when split at {source.separator!r}; "
                f"it looks like {other!r}: give that as separator"
            )


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
    return DataError(f"{source.path}: not a table of text: {reason.splitlines()[0]}")
