"""Columns of features as Arrow arrays, and back.

n rows. Values that no Arrow type fits are JSON text, and their field has the metadata `recpolicy: json`.
"""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.data import log_columns as read
from recpolicy.data.feature_columns import EXACT, Columns, canonical_texts, column_from_values, is_missing

_JSON = {b"recpolicy": b"json"}


class FeatureStruct:
    """The Arrow type of each column of features."""

    def __init__(self, kinds: dict[str, tuple[Any, bool]]):
        self.kinds = kinds
        self.fields = [arrow_field(name, *kind) for name, kind in kinds.items()]

    @classmethod
    def from_columns(cls, columns: Columns) -> "FeatureStruct":
        """Return the types of columns."""
        return cls({name: arrow_kind(column) for name, column in columns.items()})

    def array(self, columns: Columns) -> Any:
        """Return columns of these types as an Arrow array of structs."""
        arrays = [_array(columns[name], *kind) for name, kind in self.kinds.items()]
        return pa.StructArray.from_arrays(arrays, fields=self.fields)


def arrow_field(name: str, kind: Any, as_json: bool) -> Any:
    """Return the field of a column; `as_json`: its values are JSON text."""
    return pa.field(name, kind, metadata=_JSON if as_json else None)


def arrow_kind(column: NDArray[Any]) -> tuple[Any, bool]:
    """Return the Arrow type of a column, and True for values that are written as JSON text."""
    if column.dtype.kind == "f":
        return pa.float64(), False
    if column.dtype.kind == "b":
        return pa.bool_(), False
    types = set(map(type, column.tolist())) - {type(None)}
    if types <= {str}:
        return pa.string(), False
    if types <= {int} and types:
        return pa.int64(), False
    if types == {list}:
        parts = {type(part) for value in column if value for part in value}
        if parts <= {str}:
            return pa.list_(pa.string()), False
        if parts == {float}:
            return pa.list_(pa.float64()), False
    return pa.string(), True


def _array(column: NDArray[Any], kind: Any, as_json: bool) -> Any:
    if as_json:
        missing = is_missing(column).tolist()
        texts = [None if absent else text for absent, text in zip(missing, canonical_texts(column), strict=True)]
        return pa.array(texts, pa.string())
    return pa.array(column, kind, from_pandas=column.dtype.kind == "f")


def id_array(ids: NDArray[np.object_], kind: Any = None, as_json: bool = False) -> Any:
    """Return ids as an Arrow array; `kind` and `as_json` are those of all ids of the log, if there are more."""
    if kind is None:
        kind, as_json = arrow_kind(ids)
    values = ids.tolist()
    return pa.array([None if value is None else json.dumps(value) for value in values] if as_json else values, kind)


def column_from_arrow(column: Any, field: Any, *, integers: bool = False) -> NDArray[Any]:
    """Return the column of an Arrow array; `integers` keeps whole numbers as they are, for ids."""
    kind, types = column.type, pa.types
    if types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if (field.metadata or {}).get(b"recpolicy") == b"json":
        return _values([_loads(text, field.name) for text in column.to_pylist()], field.name, integers)
    if types.is_boolean(kind) and not column.null_count:
        return np.asarray(column.to_numpy(zero_copy_only=False), bool)
    if types.is_integer(kind) and not integers:
        low_high = pc.min_max(column).as_py()
        if low_high["min"] is None or max(-low_high["min"], low_high["max"]) <= EXACT:
            return np.array(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    if types.is_floating(kind) or types.is_decimal(kind):
        values = np.array(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
        if np.isinf(values).any():
            raise DataError(f"{field.name} is infinite; expected finite numbers")
        return values
    if types.is_timestamp(kind) or types.is_date(kind):
        column = pc.strftime(column.cast(read.TIME, safe=False), "%Y-%m-%dT%H:%M:%SZ")
    return _values(column.to_pylist(), field.name, integers)


def _values(values: list[Any], name: str, integers: bool) -> NDArray[Any]:
    """Return values as a column of features, or as ids if `integers`."""
    if not integers:
        return column_from_values(values, name)
    return np.array([*values, None], object)[:-1]


def _loads(text: str | None, name: str) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(f"{name} is not JSON: {text[:80]!r}") from None  # type: ignore[index]
