"""Read the raw values of features: columns of numbers, labels, flags, times, lists and objects.

n rows. data/feature_columns.py defines the form of a column. These readers also accept other arrays of numbers, flags
and times. Each checks the types and raises DataError with the row and the value.
"""

import math
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.types import Array
from recpolicy.data.feature_columns import Columns, column_from_values

Column: TypeAlias = NDArray[Any]
_NUMBERS = (int, float, bool, np.integer, np.floating, np.bool_)
LARGEST = 1e15
"""Largest number of a feature."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def column_of(columns: Columns, name: str) -> Column:
    """Return the column of a feature.

    "device.os" is the column of that name, and where it is missing or has no value, the value `os` of the objects in
    the column `device`.

    Raises:
        KeyError: There is no such column.
    """
    column = columns.get(name)
    head, _, path = name.partition(".")
    if head in columns and path and (column is None or column.dtype.kind == "O"):
        nested = [_nested(value, path) for value in columns[head].tolist()]
        if column is not None:
            nested = [inner if value is None else value for value, inner in zip(column, nested, strict=True)]
        return column_from_values(nested, name)
    return columns[name]


def _nested(value: Any, path: str) -> Any:
    """Return the value at a path of keys; None if there is none."""
    for key in path.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def as_numbers(column: Column, where: str) -> Array:
    """Return the column as numbers [n]; NaN is missing."""
    column = np.asarray(column)
    if column.dtype.kind == "O":
        others = set(map(type, column)) - {int, float, bool, type(None)}
        if any(not issubclass(kind, _NUMBERS) for kind in others):
            raise _wrong_type(column, where, "a number", lambda value: value is None or isinstance(value, _NUMBERS))
        try:
            numbers = np.asarray(column, np.float64)
        except OverflowError:  # a whole number beyond 1e308
            raise DataError(f"{where}: a number is too large; expected at most {LARGEST:g}") from None
    elif column.dtype.kind in "biuf":
        numbers = np.asarray(column, np.float64)
    else:
        raise DataError(f"{where}: the column holds {column.dtype}; expected numbers")
    beyond = np.abs(numbers) > LARGEST
    if beyond.any():
        row = int(np.argmax(beyond))
        raise DataError(f"{where}: row {row} is {numbers[row]:g}; expected a number from -1e15 to 1e15, or null")
    return numbers


def as_labels(column: Column, where: str) -> list[str | None]:
    """Return the column as texts; whole numbers and flags become texts, and None is missing."""
    column = np.asarray(column)
    if column.dtype.kind == "b":
        return ["true" if flag else "false" for flag in column.tolist()]
    if column.dtype.kind in "iu":
        return list(map(str, column.tolist()))
    values: list[Any] = column.tolist()
    if set(map(type, values)) <= {str, type(None)}:
        return values
    try:
        keys = [(type(value), value) for value in values]  # True == 1
        known = {key: _label(key[1], where) for key in set(keys)}
    except TypeError:  # a list or an object
        raise _wrong_type(column, where, "a text or a whole number", lambda value: not _holds_values(value)) from None
    return [known[key] for key in keys]


def _holds_values(value: Any) -> bool:
    return isinstance(value, list | dict | set | np.ndarray)


def _label(value: Any, where: str) -> str | None:
    """Return the text of one value of a category."""
    if value is None or isinstance(value, str) or value != value:
        return value if isinstance(value, str) else None
    if isinstance(value, bool | np.bool_):
        return "true" if value else "false"
    if isinstance(value, int | np.integer):
        return str(int(value))
    if isinstance(value, float | np.floating) and np.isfinite(value):
        return str(int(value)) if float(value).is_integer() else repr(float(value))
    raise DataError(f"{where}: found {_short(value)}; expected a text, a whole number or null")


def as_flags(column: Column, where: str) -> Array:
    """Return the column as 0 and 1 [n]; NaN is missing."""
    numbers = as_numbers(column, where)
    wrong = ~((numbers == 0) | (numbers == 1) | np.isnan(numbers))
    if wrong.any():
        row = int(np.argmax(wrong))
        raise DataError(f"{where}: row {row} is {numbers[row]:g}; expected true, false, 1, 0 or null")
    return numbers


def as_tags(column: Column, where: str) -> tuple[NDArray[np.int64], list[str]]:
    """Return the row [k] and the text [k] of each tag; a missing list is an empty one."""
    rows: list[int] = []
    tags: list[str] = []
    for row, value in enumerate(np.asarray(column, object)):
        if value is None or (isinstance(value, float) and value != value):
            continue
        labels = value.tolist() if isinstance(value, np.ndarray) else value
        if not isinstance(labels, list | tuple) or not all(isinstance(label, str) for label in labels):
            raise DataError(f"{where}: row {row} is {_short(value)}; expected a list of texts, or null")
        different = set(labels)
        rows += [row] * len(different)
        tags += sorted(different)
    return np.array(rows, np.int64), tags


def as_local_hours(column: Column, unit: str, utc_offset_hours: float, where: str) -> Array:
    """Return the time of each row in hours [n] since 1970 in local time; NaN is missing."""
    column = np.asarray(column)
    if column.dtype.kind == "M":
        hours = column.astype("datetime64[ms]").astype(np.int64) / 3_600_000.0
        return np.where(np.isnat(column), np.nan, hours) + utc_offset_hours
    per_hour = timedelta(hours=1) / timedelta(**{"milliseconds" if unit == "ms" else "seconds": 1})
    if column.dtype.kind == "O" and any(isinstance(value, str | date) for value in column):
        numbers = [_as_number(value, row, per_hour, where) for row, value in enumerate(column)]
        column = np.array([math.nan if number is None else number for number in numbers], np.float64)
    return as_numbers(column, where) / per_hour + utc_offset_hours


def _as_number(value: Any, row: int, per_hour: float, where: str) -> Any:
    """Return a time as a number of units since 1970; a time without an offset is UTC."""
    if value is None or isinstance(value, _NUMBERS):
        return value
    try:
        time = datetime.fromisoformat(value) if isinstance(value, str) else value
        if isinstance(time, date) and not isinstance(time, datetime):
            time = datetime(time.year, time.month, time.day)
        if isinstance(time, datetime):
            time = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
            return (time - _EPOCH) / timedelta(hours=1) * per_hour
    except ValueError:
        pass
    raise DataError(f"{where}: row {row} is {_short(value)}; expected a time such as 2026-11-30T08:00:00, or null")


def flattened(value: Any, name: str, where: str) -> list[tuple[str, float]]:
    """Return the names and values of all leaves of one JSON object, in the form `name.key=text` and `name.key`.

    Texts get the value 1, numbers and flags their own; null is left out. A list of texts gives a feature each; other
    lists count by place. The order of keys and the way of nesting do not matter.
    """
    leaves: list[tuple[str, float]] = []
    stack: list[tuple[str, Any]] = [(name, value)]
    while stack:
        path, part = stack.pop()
        if part is None:
            continue
        if isinstance(part, str):
            leaves.append((f"{path}={part}", 1.0))
        elif isinstance(part, Mapping):
            stack += [(f"{path}.{key}", inner) for key, inner in part.items()]
        elif isinstance(part, list | tuple | np.ndarray):
            texts = [inner for inner in part if isinstance(inner, str)]
            leaves += [(f"{path}={text}", 1.0) for text in texts]
            stack += [(f"{path}.{place}", inner) for place, inner in enumerate(part) if not isinstance(inner, str)]
        elif isinstance(part, _NUMBERS):
            number = float(part)
            if number == number:
                if abs(number) > LARGEST:
                    raise DataError(f"{where}: {path} is {number:g}; expected a number from -1e15 to 1e15")
                leaves.append((path, number))
        else:
            raise DataError(f"{where}: {path} is {_short(part)}; expected text, a number, a flag, a list or an object")
    return leaves


def _wrong_type(column: Column, where: str, expected: str, fits: Any) -> DataError:
    """Return the error for the first value of another type."""
    row = next(row for row, value in enumerate(column) if not fits(value))
    return DataError(f"{where}: row {row} is {_short(column[row])}; expected {expected}, or null")


def _short(value: Any) -> str:
    """Return a value as text of at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
