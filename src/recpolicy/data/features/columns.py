"""Read the raw values of features: columns of numbers, labels, flags, times, lists and objects.

n rows. A column is an array of numbers or flags, or of objects: text, lists of text, dicts. NaN, None and, in a
numeric column, nothing else is missing. Each reader checks the types and raises DataError with the row and the value.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.types import Array, Bools

Column: TypeAlias = NDArray[Any]
Columns: TypeAlias = Mapping[str, Column]
"""Raw values of all rows by the name of the feature."""
_NUMBERS = (int, float, bool, np.integer, np.floating, np.bool_)
_LARGEST = 1e15
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def columns_from_records(records: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Column]:
    """Return the columns `names` of JSON objects; an absent value is None.

    A name with points that is no key of a record is a path: "device.os" is record["device"]["os"].
    """
    columns = {}
    for name in names:
        values = [record.get(name) for record in records]
        if "." in name and None in values:
            values = [value if value is not None else _nested(record, name) for record, value in zip(records, values)]  # noqa: B905
        columns[name] = object_column(values)
    return columns


def object_column(values: Sequence[Any]) -> Column:
    """Return the values as an array [n] of objects; lists stay objects."""
    column = np.empty(len(values), object)
    column[:] = values if not any(isinstance(value, list | tuple) for value in values) else _wrapped(values)
    return column


def _wrapped(values: Sequence[Any]) -> Any:
    """Return values with lists in a form that NumPy assigns one to a place."""
    column = np.empty(len(values), object)
    for place, value in enumerate(values):
        column[place] = value
    return column


def _nested(record: Mapping[str, Any], name: str) -> Any:
    """Return the value at a path of keys; None if there is none."""
    value: Any = record
    for key in name.split("."):
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
            raise DataError(f"{where}: a number is too large; expected at most {_LARGEST:g}") from None
    elif column.dtype.kind in "biuf":
        numbers = np.asarray(column, np.float64)
    else:
        raise DataError(f"{where}: the column holds {column.dtype}; expected numbers")
    beyond = np.abs(numbers) > _LARGEST
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
        column = object_column([_as_number(value, row, per_hour, where) for row, value in enumerate(column)])
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
                if abs(number) > _LARGEST:
                    raise DataError(f"{where}: {path} is {number:g}; expected a number from -1e15 to 1e15")
                leaves.append((path, number))
        else:
            raise DataError(f"{where}: {path} is {_short(part)}; expected text, a number, a flag, a list or an object")
    return leaves


def present(column: Column) -> Bools:
    """Return True [n] where a value is not missing."""
    column = np.asarray(column)
    if column.dtype.kind == "f":
        return ~np.isnan(column)
    if column.dtype.kind == "M":
        return ~np.isnat(column)
    if column.dtype.kind != "O":
        return np.ones(len(column), bool)
    missing = (value is None or (isinstance(value, float) and value != value) for value in column)
    return ~np.fromiter(missing, bool, len(column))


def _wrong_type(column: Column, where: str, expected: str, fits: Any) -> DataError:
    """Return the error for the first value of another type."""
    row = next(row for row, value in enumerate(column) if not fits(value))
    return DataError(f"{where}: row {row} is {_short(column[row])}; expected {expected}, or null")


def _short(value: Any) -> str:
    """Return a value as text of at most 60 characters."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
