"""Columns of raw features: the one form of the values of contexts and actions, in logs and in requests.

n rows. A column is an array of float64 (missing: NaN), of bools (none missing), or of objects (text, lists, nested
JSON objects; missing: None). A value is the same whether it comes from JSON or from Parquet: whole numbers and
fractions are float64, and whole numbers beyond 2^53 become text, because float64 would merge some of them.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError

Columns = Mapping[str, NDArray[Any]]
EXACT = 2.0**53
"""Float64 represents every whole number up to this one."""
MAX_DEPTH = 20
"""Largest nesting of the JSON of a feature."""
_DIGEST = 32
_LARGEST_ID = 2**63 - 1
_OBJECTS = {str, list, dict, type(None)}


def columns_from_records(records: Sequence[Mapping[str, Any]], names: Sequence[str] | None = None) -> Columns:
    """Return the columns of records; a value that a record lacks is missing.

    Args:
        records: n objects of features.
        names: The columns; None takes all names that occur, sorted.

    Raises:
        DataError: A value is no JSON value, or is an infinite number.
    """
    if names is None:
        names = sorted({name for record in records for name in record})
    return {name: column_from_values([record.get(name) for record in records], name) for name in names}


def column_from_values(values: Sequence[Any], name: str = "a feature") -> NDArray[Any]:
    """Return the column [n] of values of one feature; `name` is for messages."""
    types = {type(value) for value in values}
    if types <= {float, int, type(None)} and types != {type(None)}:
        try:
            column = np.array([math.nan if value is None else value for value in values], np.float64)
        except OverflowError:
            column = np.full(len(values), math.inf)
        if np.isinf(column).any() and any(isinstance(value, float) and math.isinf(value) for value in values):
            raise DataError(f"{name} is infinite; expected a finite number")
        if int not in types or (np.abs(column, where=~np.isnan(column), out=np.zeros(len(column))) <= EXACT).all():
            return column
    if types == {bool}:
        return np.array(values, bool)
    column = np.empty(len(values), object)
    for row, value in enumerate(values):
        column[row] = plain_value(value, name)
    return column


def object_array(values: Sequence[Any]) -> NDArray[np.object_]:
    """Return values as an array [n] of objects; lists stay objects."""
    column = np.empty(len(values), object)
    for row, value in enumerate(values):
        column[row] = value
    return column


def as_column(values: NDArray[Any], name: str = "a feature") -> NDArray[Any]:
    """Return an array [n] in the form of a column; columns are returned unchanged."""
    if values.dtype == np.float64:
        if np.isinf(values).any():
            raise DataError(f"{name} is infinite; expected a finite number")
        return values
    if values.dtype == bool:
        return values
    if values.dtype == object and set(map(type, values)) <= _OBJECTS and any(value is not None for value in values):
        return values
    return column_from_values(values.tolist(), name)


def plain_value(value: Any, name: str = "a feature", depth: int = 0) -> Any:
    """Return a value as plain JSON without missing parts: numbers as floats, keys sorted; None for a missing value.

    Raises:
        DataError: The value is no JSON value, is infinite, or is nested too deeply.
    """
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, np.generic):
        return plain_value(value.item(), name, depth)
    if isinstance(value, int | float):
        if isinstance(value, int) and abs(value) > EXACT:
            return str(value)
        if math.isnan(value):
            return None
        if math.isinf(value):
            raise DataError(f"{name} is infinite; expected a finite number")
        return float(value)
    if depth >= MAX_DEPTH:
        raise DataError(f"{name} is nested more than {MAX_DEPTH} levels deep")
    if isinstance(value, Mapping):
        parts = ((str(key), plain_value(part, name, depth + 1)) for key, part in value.items())
        return {key: part for key, part in sorted(parts, key=lambda pair: pair[0]) if part is not None}
    if isinstance(value, list | tuple | np.ndarray):
        return [plain for part in value if (plain := plain_value(part, name, depth + 1)) is not None]
    raise DataError(f"{name} is {type(value).__name__}; expected a number, text, true or false, a list or an object")


def is_missing(column: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the mask [n] of the missing values of a column."""
    if column.dtype.kind == "f":
        return np.asarray(np.isnan(column))
    if column.dtype != object:
        return np.zeros(len(column), bool)
    return np.fromiter((value is None for value in column), bool, len(column))


def records_from_columns(columns: Columns, rows: int) -> Iterator[dict[str, Any]]:
    """Yield the records of `rows` rows of columns, without missing values."""
    names = sorted(columns)
    values = [columns[name].tolist() for name in names]
    for row in range(rows):
        record = {}
        for name, column in zip(names, values, strict=True):
            value = plain_value(column[row], name)
            if value is not None:
                record[name] = value
        yield record


def take_rows(columns: Columns, rows: slice | NDArray[Any]) -> Columns:
    """Return chosen rows of all columns."""
    return {name: column[rows] for name, column in columns.items()}


def join_columns(parts: Sequence[tuple[Columns, int]]) -> Columns:
    """Return the columns of several parts, one below the other; a part that lacks a column has missing values there.

    Args:
        parts: The columns of each part and its number of rows.
    """
    names = dict.fromkeys(name for columns, _ in parts for name in columns)
    return {name: _join([(columns.get(name), rows) for columns, rows in parts]) for name in names}


def _join(parts: list[tuple[NDArray[Any] | None, int]]) -> NDArray[Any]:
    kinds = {None if column is None or _is_empty(column) else column.dtype.kind for column, _ in parts}
    if kinds == {None}:  # all are missing: numbers if a part says so
        kinds = {column.dtype.kind for column, _ in parts if column is not None and column.dtype.kind == "f"}
    if kinds and kinds <= {"f", None}:
        missing: Any = np.nan
        dtype: Any = np.float64
    elif kinds == {"b"}:
        missing, dtype = False, bool
    else:
        missing, dtype = None, object
    joined = np.full(sum(rows for _, rows in parts), missing, dtype)
    first = 0
    for column, rows in parts:
        if column is not None and not _is_empty(column):
            joined[first : first + rows] = _as_objects(column) if dtype is object else column
        first += rows
    return joined


def _is_empty(column: NDArray[Any]) -> bool:
    """Return True for a column of missing values only."""
    return column.dtype.kind in "fO" and bool(is_missing(column).all())


def _as_objects(column: NDArray[Any]) -> NDArray[np.object_]:
    objects = column.astype(object)
    if column.dtype.kind == "f":
        objects[np.isnan(column)] = None
    return objects


def canonical_texts(column: NDArray[Any]) -> Iterable[str]:
    """Yield the canonical JSON text of each value of a column; equal values have equal texts."""
    return (canonical_json(plain_value(value)) for value in column.tolist())


def canonical_json(value: Any) -> str:
    """Return the JSON text of a value that `plain_value` returned: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def check_action_id(identifier: Any) -> int | str:
    """Return the id of an action; raises DataError unless it is a 64-bit integer or a text that is not empty."""
    if isinstance(identifier, str) and identifier:
        return identifier
    if isinstance(identifier, int) and not isinstance(identifier, bool) and abs(identifier) <= _LARGEST_ID:
        return identifier
    raise DataError(f"the action id {identifier!r}: expected a whole number or a text that is not empty")


def action_digest(identifier: int | str, features: Mapping[str, Any]) -> str:
    """Return the content hash of an action: 32 hexadecimal digits of the SHA-256 of its id and its features.

    The order of the features and missing values play no part, and 3 equals 3.0.
    """
    return action_digest_of_plain(identifier, plain_value(features))


def action_digest_of_plain(identifier: int | str, features: Mapping[str, Any]) -> str:
    """Return the content hash of an action whose features are plain (`plain_value`)."""
    text = canonical_json([identifier, features]).encode("utf-8", "surrogatepass")
    return hashlib.sha256(text).hexdigest()[:_DIGEST]


def action_digests(action_id: NDArray[np.object_], actions: Columns) -> NDArray[np.object_]:
    """Return the content hashes [M] of the actions with these ids [M] and columns of M rows."""
    records = records_from_columns(actions, len(action_id))
    pairs = zip(action_id.tolist(), records, strict=True)
    return np.array([action_digest_of_plain(identifier, record) for identifier, record in pairs], object)
