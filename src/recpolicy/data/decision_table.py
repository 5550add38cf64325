"""Tables of decisions in memory: CSV, Parquet and JSON lines, with typed access to columns.

N rows, one decision each. A CSV file has texts, whose types follow from all values of a column; other files have types.
Every fault is a DataError that names file and row.
"""

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.hashes import mix, text_hashes
from recpolicy.data.column_names import did_you_mean, likely_columns
from recpolicy.data.csv_reader import Source
from recpolicy.data.feature_columns import as_column, canonical_texts, column_from_values, object_array
from recpolicy.data.feature_log_arrow import column_from_arrow
from recpolicy.data.feature_log_json import JSON_LINES
from recpolicy.data.log_import import numbered_id
from recpolicy.data.open_bandit import csv_options, first_line, milliseconds, missing_log_columns, numbers

NAMELESS = "Unnamed: "
"""pandas calls nameless columns so; in the Open Bandit Dataset they number the lines."""
EVENT_ID = "event_id"
OPTIONAL = ("user",)
"""Meanings of columns that a file may lack."""
_PARQUET = (".parquet", ".pq")


class DecisionTable:
    """The columns of a file in memory: texts of a CSV file, features of other files."""

    def __init__(self, path: Path, separator: str):
        self.path, self.is_text = path, not path.name.endswith((*_PARQUET, *JSON_LINES))
        self.line = np.empty(0, np.int64)
        """The line [N] of each row; for messages."""
        if self.is_text:
            self._columns = self._read_csv(separator)
        elif path.name.endswith(JSON_LINES):
            self._columns = self._read_json_lines()
        else:
            self._columns = self._read_parquet()
        self.names = list(self._columns)
        if not len(self):
            raise DataError(f"{path}: no rounds")

    def __len__(self) -> int:
        return len(self.line)

    def _read_csv(self, separator: str) -> dict[str, NDArray[Any]]:
        options = {**csv_options(separator), "keep_default_na": False, "skip_blank_lines": False}
        try:
            frame = pd.read_csv(self.path, **options).fillna("")
        except FileNotFoundError:
            raise _missing(self.path) from None
        except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError, OSError, EOFError) as error:
            raise DataError(f"{self.path}: not readable as CSV: {first_line(error)}") from None
        blank = (frame == "").all(axis=1).to_numpy(bool)
        self.line = np.arange(2, 2 + len(frame))[~blank]
        frame = frame[~blank]
        return {str(name): frame[name].to_numpy(object) for name in frame.columns}

    def _read_json_lines(self) -> dict[str, NDArray[Any]]:
        lines, records = [], []
        try:
            with Source(self.path).open() as raw, io.TextIOWrapper(raw, "utf-8-sig") as stream:
                for line, text in enumerate(stream, 1):
                    if text.strip():
                        record = json.loads(text)
                        if not isinstance(record, dict):
                            raise DataError(f"{self.path}:{line}: expected a JSON object")
                        lines.append(line)
                        records.append(record)
        except DataError:
            raise
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: not UTF-8 text: {error}") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.path}:{line}: not JSON: {error}") from None
        except (OSError, EOFError) as error:
            raise DataError(f"{self.path}: cannot be read: {error}") from None
        self.line = np.array(lines, np.int64)
        names = dict.fromkeys(name for record in records for name in record)
        return {name: object_array([record.get(name) for record in records]) for name in names}

    def _read_parquet(self) -> dict[str, NDArray[Any]]:
        try:
            table = pq.read_table(self.path).combine_chunks()
        except FileNotFoundError:
            raise _missing(self.path) from None
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: not a readable Parquet file: {first_line(error)}") from None
        self.line = np.arange(1, 1 + table.num_rows)
        columns = {}
        for name, field in zip(table.schema.names, table.schema, strict=True):
            chunks = table.column(name).chunks
            array = chunks[0] if chunks else pa.array([], field.type)
            columns[name] = column_from_arrow(array, field, integers=pa.types.is_integer(field.type))
        return columns

    def refuse(self, wrong: NDArray[np.bool_], message: Any) -> None:
        """Raise DataError for the first wrong row."""
        if wrong.any():
            row = int(wrong.argmax())
            place = f":{self.line[row]}" if not self.path.name.endswith(_PARQUET) else f": row {self.line[row]}"
            raise DataError(f"{self.path}{place}: {message(row)}")

    def meanings(self, names: Mapping[str, str], given: Sequence[str]) -> dict[str, str]:
        """Return the names of the columns by meaning that the file has; raise DataError where one is missing."""
        lacking = [m for m, name in names.items() if name not in self.names and (m not in OPTIONAL or m in given)]
        if lacking:
            raise missing_log_columns(str(self.path), self.names, names, lacking, given)
        return {meaning: name for meaning, name in names.items() if name in self.names}

    def check_names(self, names: Sequence[str]) -> list[str]:
        """Return the names of columns, each once; raise DataError for one that the file lacks."""
        missing = {name: name for name in names if name not in self.names}
        if missing:
            hint = did_you_mean(likely_columns(self.names, missing), len(missing))
            raise DataError(
                f"{self.path}: no column {', '.join(missing)}; found {', '.join(self.names)}.{hint}".rstrip(".")
            )
        return list(dict.fromkeys(names))

    def column(self, name: str) -> NDArray[Any]:
        """Return a column as read."""
        return self._columns[name]

    def feature(self, name: str) -> NDArray[Any]:
        """Return a column in the form of a feature; texts that are all numbers, or true and false, become such."""
        column = self._columns[name]
        try:
            return feature_from_texts(column) if self.is_text else as_column(column, name)
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from None

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column of numbers [N], none missing; true and false are 1 and 0."""
        if self.is_text:
            return numbers(self.path, pd.Series(self._columns[name], name=name), self.line)
        values = pd.to_numeric(pd.Series(self._columns[name]), errors="coerce").to_numpy(np.float64)
        self.refuse(np.isnan(values), lambda row: f"{name} is {self._columns[name][row]!r}; expected a number")
        return np.asarray(values)

    def times(self, name: str) -> NDArray[np.int64]:
        """Return a column of times [N] in milliseconds since 1970."""
        texts = pd.Series([str(value) for value in self._columns[name].tolist()], name=name)
        return milliseconds(self.path, texts, self.line)

    def ids(self, name: str, *, missing: bool = False) -> NDArray[np.object_]:
        """Return a column of ids [N]: whole numbers if all of them are, else texts; None where they are missing."""
        raw = self._columns[name].tolist()
        texts = [None if value is None or value != value or value == "" else _id_text(value) for value in raw]
        absent = np.array([text is None for text in texts], bool)
        if not missing:
            self.refuse(absent, lambda _: f"{name} is missing")
        return ids_from_texts(texts)

    def event_ids(self) -> NDArray[np.object_]:
        """Return the column event_id as texts, or ids of the content of the rows."""
        if EVENT_ID in self.names:
            texts = object_array([str(value) for value in self._columns[EVENT_ID].tolist()])
            self.refuse(
                np.array([text in ("", "None", "nan") for text in texts], bool), lambda _: "event_id is missing"
            )
            self.refuse(pd.Series(texts).duplicated().to_numpy(), lambda row: f"event_id {texts[row]!r} occurs twice")
            return texts
        hashes = np.zeros(len(self), np.uint64)
        for name in sorted(name for name in self.names if not name.startswith(NAMELESS)):
            column = self._columns[name]
            texts = column if self.is_text else object_array(list(canonical_texts(as_column(column, name))))
            hashes = mix(hashes, text_hashes(texts))
        occurrences = Counter[str]()
        return object_array([numbered_id(f"{value:016x}", occurrences) for value in hashes.tolist()])


def feature_from_texts(texts: NDArray[np.object_]) -> NDArray[Any]:
    """Return texts [n] of a CSV file as a feature: numbers or truth values if all are such, else texts.

    An empty text is a missing value.
    """
    stripped = pd.Series(texts, dtype=object).str.strip()
    empty = (stripped == "").to_numpy(bool)
    if not empty.all():
        values = np.asarray(pd.to_numeric(stripped.mask(empty), errors="coerce"), np.float64)
        if (np.isfinite(values) | empty).all():
            return values
        lower = stripped.str.lower()
        if (lower.isin(["true", "false"]).to_numpy(bool) | empty).all():
            return column_from_values(
                [None if absent else text == "true" for text, absent in zip(lower, empty, strict=True)]
            )
    return object_array([None if absent else text for text, absent in zip(stripped, empty, strict=True)])


def ids_from_texts(texts: Sequence[str | None]) -> NDArray[np.object_]:
    """Return ids: whole numbers where all texts are such, written as Python writes them."""
    distinct = {text for text in texts if text is not None}
    whole = all(
        text.isascii() and text.removeprefix("-").isdecimal() and len(text) < 19 and str(int(text)) == text
        for text in distinct
    )  # fmt: skip
    known: dict[str | None, Any] = {text: int(text) if whole else text for text in distinct}
    return object_array([known.get(text) for text in texts])


def _id_text(value: Any) -> str:
    """Return an id as text; 12.0, as pandas writes ids of a column with gaps, is 12."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    return text.removesuffix(".0") if text.removesuffix(".0").isdecimal() else text


def _missing(path: Path) -> DataError:
    """Return the error of a file that is missing."""
    return DataError(f"{path}: no such file; expected a table: CSV, JSON lines or Parquet")
