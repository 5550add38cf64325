"""Read columns of a Parquet log in pieces and check types, missing values and ranges.

n rows in a piece, C candidates of all of them. Every fault is a DataError that names the file and the row, counted
from 1.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.ids import type_hint
from recpolicy.core.text import join_words
from recpolicy.data.column_names import likely_columns

TIME = pa.timestamp("ms", tz="UTC")
NO_NAMES: Mapping[str, str] = {}
_ROWS = 1 << 16
_VALUES = 1 << 22
"""Values of a piece; lists of thousands of ids take some bytes a value, several times."""
_LEAST = float(np.log(np.finfo(np.float64).tiny))


@dataclass(frozen=True)
class Piece:
    """Consecutive rows of a file."""

    path: Path
    first: int
    """Number of earlier rows of the file."""
    batch: Any

    def __len__(self) -> int:
        return int(self.batch.num_rows)

    def has(self, name: str) -> bool:
        """Return True if there is a column of this name."""
        return name in self.batch.schema.names

    def refuse(self, wrong: NDArray[np.bool_], say: Callable[[int], str]) -> None:
        """Raise DataError for the first wrong row of the piece, with what `say` says of it."""
        if wrong.any():
            row = int(wrong.argmax())
            raise DataError(f"{self.path}: row {self.first + row + 1}: {say(row)}")

    def refuse_type(self, name: str, expected: str) -> None:
        """Raise DataError for the type of a column."""
        raise DataError(f"{self.path}: column {name} is of type {self.batch.column(name).type}; expected {expected}")


def open_parquet(path: Path, columns: tuple[str, ...] = (), old_names: Mapping[str, str] = NO_NAMES) -> Any:
    """Return the Parquet file at `path`; raises DataError unless it is one and has these columns.

    old_names: names of columns in the file, with the current ones (log_metadata.old_columns).
    """
    try:
        file = pq.ParquetFile(path)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; expected a log in Parquet") from None
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file: {_line(error)}") from None
    names = current_names(file.schema_arrow, old_names)
    lacking = [name for name in columns if name not in names]
    if lacking:
        others = [name for name in names if name not in columns]
        likely = likely_columns(others, {name.removesuffix("_id"): None for name in lacking})
        renames = [f"{name} to {right}" for right in lacking if (name := likely.get(right.removesuffix("_id")))]
        hint = f"; rename {join_words(renames)}" if renames else ""
        raise DataError(f"{path}: no column {', '.join(lacking)}; found {', '.join(names)}{hint}")
    return file


def current_names(schema: Any, old_names: Mapping[str, str]) -> list[str]:
    """Return the current names of the columns of a file."""
    return [old_names.get(name, name) for name in schema.names]


def pieces(
    path: Path, columns: tuple[str, ...], old_names: Mapping[str, str] = NO_NAMES, only: list[str] | None = None
) -> Iterator[Piece]:
    """Yield the rows of a file, in order, under the current names of its columns (see `open_parquet`).

    `only` names the columns of the file to read; None reads all. Raises DataError where they cannot be read.
    """
    file, first = open_parquet(path, columns, old_names), 0
    try:
        for batch in file.iter_batches(_ROWS if only else _rows_at_once(file), columns=only):
            yield Piece(path, first, batch.rename_columns(current_names(batch.schema, old_names)))
            first += batch.num_rows
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{path}: damaged: {_line(error)}; write or copy it again") from None


def _rows_at_once(file: Any) -> int:
    """Return the rows of a piece: at most _ROWS, fewer if lists of thousands of values would fill memory."""
    groups = [file.metadata.row_group(number) for number in range(file.metadata.num_row_groups)]
    values = sum(group.column(number).num_values for group in groups for number in range(group.num_columns))
    return int(max(1, min(_ROWS, _VALUES * file.metadata.num_rows // max(values, 1))))


def text_column(piece: Piece, name: str) -> Any:
    """Return texts [n], none missing, as an Arrow array; Python objects would take most of the memory of a log."""
    column = piece.batch.column(name)
    coded = pa.types.is_dictionary(column.type)
    kind = column.type.value_type if coded else column.type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        piece.refuse_type(name, "text")
    _refuse_missing(piece, name)
    return column


def texts(piece: Piece, name: str) -> NDArray[np.object_]:
    """Return texts [n], none missing."""
    column = text_column(piece, name)
    if pa.types.is_dictionary(column.type):
        return shared_texts(piece, name)
    return np.asarray(column.to_numpy(zero_copy_only=False), object)


def shared_texts(piece: Piece, name: str) -> NDArray[np.object_]:
    """Return texts [n], none missing; rows of one text share one object."""
    column = text_column(piece, name)
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    known = np.asarray(coded.dictionary.to_numpy(zero_copy_only=False), object)
    return np.asarray(known[np.asarray(coded.indices)])


def optional_texts(piece: Piece, name: str, default: str) -> NDArray[np.object_]:
    """Return texts [n], `default` where one is missing; rows of one text share one object."""
    if not piece.has(name) or piece.batch.column(name).null_count == len(piece):
        return np.full(len(piece), default, object)
    column = piece.batch.column(name)
    coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    if not (pa.types.is_string(coded.type.value_type) or pa.types.is_large_string(coded.type.value_type)):
        piece.refuse_type(name, "texts")
    known = np.asarray(coded.dictionary.to_numpy(zero_copy_only=False), object)
    index = np.asarray(coded.indices.fill_null(len(known)))
    return np.asarray(np.append(known, default)[index], object)


def times(piece: Piece) -> NDArray[np.int64]:
    """Return milliseconds since 1970 [n]; a timestamp without a zone is UTC."""
    column = piece.batch.column("time")
    if not pa.types.is_timestamp(column.type):
        piece.refuse_type("time", "timestamps")
    _refuse_missing(piece, "time")
    return np.asarray(column.cast(TIME, safe=False).cast(pa.int64()))


def id_rows(
    piece: Piece, name: str, known: "pd.Index[Any]", stranger: NDArray[np.bool_] | None = None
) -> NDArray[np.int32]:
    """Return ids as rows [n] of the table whose ids are `known`; -1 for others where `stranger` [n] allows them."""
    column = piece.batch.column(name)
    _refuse_nested(piece, name, column.type)
    rows = known.get_indexer(pd.Index(column.to_pandas()))
    piece.refuse(
        rows < 0 if stranger is None else (rows < 0) & ~stranger,
        lambda row: (
            f"{name} {column[row].as_py()!r} is none of the {len(known)} of the policy or ratings"
            f"{type_hint([column[row].as_py()], known)}"
        ),
    )
    return np.asarray(rows, np.int32)


def strangers(piece: Piece, name: str, rows: NDArray[np.int32], known: "pd.Index[Any]") -> NDArray[np.object_]:
    """Return the ids [n] that `id_rows` found no row for, None elsewhere; they must be of the type of those known."""
    column, new = piece.batch.column(name), rows < 0
    ids = np.full(len(piece), None, object)
    if not new.any():
        return ids
    piece.refuse(new & _is_null(column), lambda _: f"{name} is missing")
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    whole = known.dtype.kind in "iu"
    if not (pa.types.is_integer(kind) if whole else pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        piece.refuse_type(name, f"{'whole numbers' if whole else 'text'}, as those of the policy or ratings")
    ids[new] = column.filter(pa.array(new)).to_pylist()
    if whole:
        most = np.iinfo(np.int64).max
        large = np.array([identifier is not None and identifier > most for identifier in ids])
        piece.refuse(large, lambda row: f"{name} {ids[row]} is above {most}")
    return ids


def log_propensities(piece: Piece) -> NDArray[np.float64]:
    """Return logarithms [n] of probabilities in (0, 1]."""
    column = piece.batch.column("log_propensity")
    if column.type != pa.float64():  # float32 would have rounded what estimators divide by
        piece.refuse_type("log_propensity", "float64")
    values = np.asarray(column.to_numpy(zero_copy_only=False), np.float64)
    piece.refuse(
        ~possible(values),
        lambda row: f"log_propensity {values[row]}: expected the logarithm of a probability in (0, 1]",
    )
    return values


def possible(log_propensity: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return a mask of the logarithms of probabilities in (0, 1] that float64 can represent and divide by."""
    return np.asarray((log_propensity >= _LEAST) & (log_propensity <= 0))


def rewards(piece: Piece, scale: tuple[float, float], *, missing: bool) -> NDArray[np.float64]:
    """Return rewards [n] within the scale; where `missing` is allowed, null or no column at all is NaN."""
    if missing and not piece.has("reward"):
        return np.full(len(piece), np.nan)
    column = piece.batch.column("reward")
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type) or pa.types.is_null(column.type)):
        piece.refuse_type("reward", "numbers")
    if not missing:
        _refuse_missing(piece, "reward")
    values = np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    low, high = scale
    piece.refuse(
        ~_is_null(column) & ~((values >= low) & (values <= high)),  # a NaN that is no null is refused, too
        lambda row: f"reward {values[row]} is not in {low:g}..{high:g}",
    )
    return values


def listed_rows(piece: Piece, column: str, ids: "Lists", known: "pd.Index[Any]", what: str) -> NDArray[np.int32]:
    """Return the item rows [C] of a column of lists of ids; `what` names one of them in messages."""
    _refuse_nested(piece, column, ids.values.type)
    rows = known.get_indexer(pd.Index(ids.values.to_pandas()))
    piece.refuse(
        any_in_list(rows < 0, ids.start),
        lambda _: f"{what} is none of the {len(known)} items of the policy or ratings",
    )
    return np.asarray(rows, np.int32)


def contexts(piece: Piece, width: int | None = None) -> NDArray[np.float32] | None:
    """Return vectors [n, D], NaN in rows without one; None if no row has one. `width`: D, if earlier rows fix it."""
    vectors = lists(piece, "context", "lists of numbers")
    if vectors is None:
        return None
    kind = vectors.values.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        piece.refuse_type("context", "lists of numbers")
    length, present = np.diff(vectors.start), ~vectors.missing
    width = width or max(int(length[present.argmax()]), 1)
    expected = f"expected {width}, as many as the first of this file"
    piece.refuse(
        present & (length != width),
        lambda row: f"context has {length[row]} numbers; {expected if length[row] else 'expected at least 1'}",
    )
    values = np.asarray(vectors.values.to_numpy(zero_copy_only=False))
    with np.errstate(over="ignore"):  # beyond float32 is infinite
        values = values.astype(np.float32)
    piece.refuse(
        any_in_list(~np.isfinite(values), vectors.start), lambda _: "context contains a number that is not finite"
    )
    rows = np.full((len(piece), width), np.nan, np.float32)
    rows[present] = values.reshape(-1, width)
    return rows


@dataclass(frozen=True)
class Lists:
    """Lists of n rows, their values one after the other."""

    start: NDArray[np.int64]  # [n + 1], where each row's values begin
    values: Any  # [C], an Arrow array
    missing: NDArray[np.bool_]  # [n], rows without a list: of length 0 here


def lists(piece: Piece, name: str, expected: str) -> Lists | None:
    """Return a column of lists; None where there is none, or only nulls. Raises DataError that names
    `expected`."""
    if not piece.has(name) or piece.batch.column(name).null_count == len(piece):
        return None
    column = piece.batch.column(name)
    kind = pa.types
    if not (kind.is_list(column.type) or kind.is_large_list(column.type) or kind.is_fixed_size_list(column.type)):
        piece.refuse_type(name, expected)
    length = np.asarray(pc.fill_null(pc.list_value_length(column), 0))
    start = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
    return Lists(start, column.flatten(), _is_null(column))


def any_in_list(true: NDArray[np.bool_], start: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return a mask [n] of the rows with any true candidate [C]."""
    count = np.concatenate([[0], np.cumsum(true)])
    return np.asarray(np.diff(count[start]) > 0)


def _refuse_nested(piece: Piece, name: str, kind: Any) -> None:
    if pa.types.is_nested(kind):
        piece.refuse_type(name, "ids, whole numbers or text")


def _refuse_missing(piece: Piece, name: str) -> None:
    piece.refuse(_is_null(piece.batch.column(name)), lambda _: f"{name} is missing")


def _is_null(column: Any) -> NDArray[np.bool_]:
    return np.asarray(pc.is_null(column))


def _line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
