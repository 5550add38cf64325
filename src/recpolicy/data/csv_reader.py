"""Read CSV, TSV and Parquet files, and folders of such files, as Arrow tables.

Arrow reads the files in parallel. If a file is faulty, a second pass in plain Python finds the line for the message.
The reader skips blank lines and keeps text columns as text; table_columns.py converts them. N rows.
"""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.dataset
import pyarrow.parquet

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.read_options import separator_error

SEPARATORS = ("::", "||", ",", "\t", ";", "|", " ")
"""Usual separators, longer ones first."""
_UNIT_SEPARATOR = "\x1f"
"""Stands for a separator of several bytes, which neither Arrow nor the csv module takes."""
_FOREIGN = {
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"\xff\xfe": "UTF-16 text; save it as UTF-8",
    b"\xfe\xff": "UTF-16 text; save it as UTF-8",
    b"PAR1": "a Parquet file; give it a name that ends in .parquet",
    b"\x1f\x8b": "compressed by gzip; give it a name that ends in .gz",
}
"""First bytes of files that are not text, and their meaning."""
TEXT_ENDINGS = (".csv", ".tsv", ".tab", ".txt", ".dat")
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
    skipped_lines: int = 0
    """Lines before the header: 1 for a line such as "sep=;"."""
    parts: "tuple[tuple[Source, int], ...]" = ()
    """The files of a folder, with the number of rows of each."""

    def at(self, row: int) -> str:
        """Return "file:line" of a row of data, "file: row n" (from 1) where there are no lines."""
        for part, rows in self.parts:
            if row < rows:
                return part.at(row)
            row -= rows
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
        encoding = "utf-8-sig" if self.encoding == "utf-8" else self.encoding  # without a byte order mark
        try:
            with self.open() as raw, io.TextIOWrapper(raw, encoding, errors="replace", newline="") as text:
                for _ in range(self.skipped_lines):
                    text.readline()
                records = _quoted(text, self.separator) if self.quoted else _plain(text, self.separator)
                for line, fields in records:
                    yield line + self.skipped_lines, fields
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

    @property
    def delimiter(self) -> str | None:
        """The separator as one byte."""
        separator = self.separator
        return _UNIT_SEPARATOR if separator and len(separator.encode(self.encoding)) > 1 else separator


def text_source(path: Path, separator: str | None = None, *, header: bool = True) -> Source:
    """Return the source of a text file: by default a tab separates .tsv files, a comma others.

    A first line "sep=;", as spreadsheets write it, names the separator.

    Raises:
        ConfigError: The separator is empty, or a regular expression.
        DataError: The file does not exist, or is an archive or Parquet.
    """
    check_separator(separator)
    tabs = {".tsv", ".tab"} & set(path.suffixes)
    source = Source(path, separator or ("\t" if tabs else ","), header=header)
    try:
        with source.open() as stream:
            start = stream.read(16)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error}") from None
    for magic, meaning in _FOREIGN.items():
        if start.startswith(magic):
            raise DataError(f"{path}: {meaning}")
    first = start.removeprefix(b"\xef\xbb\xbf").splitlines()[:1]
    if first and first[0][:4].lower() == b"sep=" and len(first[0]) == 5:
        return replace(source, separator=separator or chr(first[0][4]), skipped_lines=1)
    return source


def check_separator(separator: str | None) -> None:
    """Raise ConfigError for a separator that no line can contain."""
    expected = "expected the text between two columns, such as ',', '\\t' or '::'"
    if separator is not None and not separator:
        raise ConfigError(f"separator is empty; {expected}")
    if separator and any(character in separator for character in '\\"\r\n'):
        raise ConfigError(f"separator {separator!r}: neither a regular expression nor a quote; {expected}")


def read_text(source: Source, names: Sequence[str] | None = None) -> Any:
    """Read a separated text file as an Arrow table of strings.

    Args:
        source: The file.
        names: Names of the columns; by default those of the header, or "1", "2", ... for a file without a header.

    Raises:
        DataError: The file is missing, unreadable or empty, has a wrong separator, a line with too few or too many
            fields, or bytes that are not in the encoding.
    """
    columns = column_names(source) if names is None else list(names)
    if names is None and not source.header:
        names = columns
    try:
        with source.open() as raw:
            stream: Any = raw
            if source.delimiter != source.separator:
                separator = (source.separator or "").encode(source.encoding)
                stream = pa.BufferReader(raw.read().replace(separator, _UNIT_SEPARATOR.encode()))
            return _with_separator(pa.csv.read_csv(stream, *_options(source, names, columns)), source)
    except pa.ArrowInvalid as error:
        raise _explain(source, names, str(error)) from None
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{source.path}: cannot be read as {source.encoding} text: {error}") from None


@dataclass(frozen=True)
class TableFile:
    """A table that is open: a file or a folder of parts."""

    names: list[str]
    """Names of its columns."""
    source: Source
    read: Callable[[Sequence[str]], Any]
    """Return an Arrow table of some columns."""


def open_table(path: Path, separator: str | None = None, *, header: bool = True) -> TableFile:
    """Open a CSV, TSV or Parquet file, or a folder of such files, by its name.

    Args:
        path: The file or folder. Folders such as `year=2020` within a folder of Parquet files add a column.
        separator: Separator of text files; by default a tab for .tsv, else a comma.
        header: False if the first line of text files has no names; the columns are then "1", "2", ...

    Raises:
        DataError: The file is missing, of another kind, or damaged; a folder has no parts, or parts of other columns.
        ConfigError: A separator or a missing header is given for Parquet.
    """
    files = find_parts(path) if path.is_dir() else [path]
    if not files:
        raise DataError(f"{path}: neither Parquet nor CSV files in this folder; expected the parts of a table")
    if is_parquet(files[0]):
        if separator is not None or not header:
            raise ConfigError(f"{path}: separator and header are options of text files, not of Parquet")
        return _open_parquet(path, files)
    sources = [text_source(file, separator, header=header) for file in files]
    tables = [read_text(source) for source in sources]
    names = tables[0].column_names
    for source, table in zip(sources, tables, strict=True):
        if table.column_names != names:
            raise DataError(f"{source.path}:1: other columns than those of {sources[0].path}")
    source = sources[0]
    if path.is_dir():
        counts = zip(sources, map(len, tables), strict=True)
        source = Source(path, source.separator, header=header, parts=tuple(counts))
    return TableFile(names, source, pa.concat_tables(tables).select)


def find_parts(folder: Path) -> list[Path]:
    """Return the Parquet files below a folder, or else its text files; names that begin with _ or . do not count."""
    files = [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file() and not any(part.startswith(("_", ".")) for part in file.relative_to(folder).parts)
    ]
    parquet = [file for file in files if is_parquet(file)]
    return parquet or [file for file in files if {*file.suffixes} & {*TEXT_ENDINGS}]


def is_parquet(path: Path) -> bool:
    """Return True if the name is that of a Parquet file."""
    return ".parquet" in path.suffixes or ".pq" in path.suffixes


def _open_parquet(path: Path, files: Sequence[Path]) -> TableFile:
    """Return the table of the files; raises DataError unless all are Parquet files of the same columns."""
    for file in files:
        if not file.exists():
            raise DataError(f"{file}: no such file")
    try:
        base = str(path) if path.is_dir() else None
        names = [str(file) for file in files]
        data = pa.dataset.dataset(names, format="parquet", partitioning="hive", partition_base_dir=base)
        counts = [pa.parquet.read_metadata(file).num_rows for file in files]
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _damaged(path, error) from None
    parts = tuple(zip(map(Source, files), counts, strict=True)) if path.is_dir() else ()

    def read(columns: Sequence[str]) -> Any:
        try:
            return data.to_table(columns=list(columns))
        except (pa.ArrowException, OSError) as error:
            raise _damaged(path, error) from None

    return TableFile(list(data.schema.names), Source(path, parts=parts), read)


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: not a readable Parquet file: {str(error).splitlines()[0]}")


def _quoted(text: TextIO, separator: str) -> Iterator[tuple[int, list[str]]]:
    several = len(separator) > 1
    lines = (line.replace(separator, _UNIT_SEPARATOR) for line in text) if several else text
    reader = csv.reader(lines, delimiter=_UNIT_SEPARATOR if several else separator)
    start = 1
    for fields in reader:
        if fields:
            yield start, [field.replace(_UNIT_SEPARATOR, separator) for field in fields] if several else fields
        start = reader.line_num + 1


def _plain(text: TextIO, separator: str) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(text, start=1):
        if line.strip("\r\n"):
            yield number, line.rstrip("\r\n").split(separator)


def _options(source: Source, names: Sequence[str] | None, columns: Sequence[str]) -> tuple[Any, Any, Any]:
    read = pa.csv.ReadOptions(column_names=names, encoding=source.encoding, skip_rows=source.skipped_lines)
    quote = '"' if source.quoted else False
    parse = pa.csv.ParseOptions(delimiter=source.delimiter, quote_char=quote, newlines_in_values=source.quoted)
    types = dict.fromkeys(columns, pa.string())
    return read, parse, pa.csv.ConvertOptions(column_types=types, strings_can_be_null=True, null_values=[""])


def _with_separator(table: Any, source: Source) -> Any:
    """Return the table with the separator in place of the byte that stood for it in quoted fields."""
    if source.delimiter == source.separator or not source.quoted:
        return table
    for place, column in enumerate(table.columns):
        if pa.types.is_string(column.type) and pc.any(pc.match_substring(column, _UNIT_SEPARATOR)).as_py():
            restored = pc.replace_substring(column, _UNIT_SEPARATOR, source.separator)
            table = table.set_column(place, table.column_names[place], restored)
    return table


def column_names(source: Source) -> list[str]:
    """Return the names of the columns: those of the header, or "1", "2", ... without one.

    Raises DataError for an empty file, and if the first line seems to have another separator.
    """
    fields = header_names(source)
    _check_header(source, fields)
    return fields if source.header else [str(place) for place in range(1, len(fields) + 1)]


def header_names(source: Source) -> list[str]:
    """Return the fields of the first line; raises DataError for an empty file."""
    first = next(source.records(), None)
    if first is None:
        expected = "a line of column names and then rows" if source.header else "rows"
        raise DataError(f"{source.path}: the file is empty; expected {expected}")
    return first[1]


def _check_header(source: Source, fields: Sequence[str]) -> None:
    """Raise DataError if the only field of the first line is a comment, JSON, or has another separator."""
    place, text = f"{source.path}:{1 + source.skipped_lines}", fields[0].strip()
    if text.startswith(("{", "[{")):
        raise DataError(f"{place}: JSON, not a table; convert it to CSV or Parquet, with a column for each key")
    if len(fields) > 1:
        return
    if text.startswith("#"):
        raise DataError(f"{place}: a comment, {text[:80]!r}; expected the names of the columns: remove this line")
    for other in SEPARATORS:
        if other != source.separator and other in fields[0]:
            line = "header" if source.header else "first line"
            fact = (
                f"{place}: the {line} {fields[0][:80]!r} has one column when split at {source.separator!r}, and"
                f" contains {other!r}"
            )
            values = source.header and any(map(_is_number, fields[0].split(other)))
            raise separator_error(fact, source.separator or ",", other, header=not values)


def _is_number(text: str) -> bool:
    try:
        float(text.strip('" '))
    except ValueError:
        return False
    return True


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
