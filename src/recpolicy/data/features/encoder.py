"""Encode raw features as numbers, the same in training, in the artifact and in the server.

n rows, C and D dense columns of contexts and actions. An encoder is a schema with what the training part said: means,
bins, vocabularies. It is JSON-able and needs NumPy only, so TensorFlow, NumPy and the server read the same columns.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.config import as_dict, build
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.feature_columns import Columns
from recpolicy.data.features.columns import Column, column_of
from recpolicy.data.features.fitted import Dense, Entries, FittedFeature
from recpolicy.data.features.fitting import fit_feature, fitted_type, restore_feature
from recpolicy.data.features.hashing import Indices, Values
from recpolicy.data.features.number_block import NumberBlock
from recpolicy.data.features.schema import PARTS, FeatureSchema, raw_names, schema_from_dict


@dataclass(frozen=True)
class SparseRows:
    """Hashed features of n rows, row after row: start int64 [n + 1], index uint32 [F], value float32 [F].

    Indices have all their bits; a model of 2^bits weights keeps the lowest ones.
    """

    start: NDArray[np.int64]
    index: Indices
    value: Values

    def __len__(self) -> int:
        return len(self.start) - 1


@dataclass(frozen=True)
class FeatureEncoder:
    """A schema that was fitted on the training part."""

    schema: FeatureSchema
    fitted: Mapping[str, tuple[FittedFeature[Any], ...]]
    """Fitted features of "context" and "action", in the order of the schema."""

    @classmethod
    def fit(cls, schema: FeatureSchema, context: Columns, action: Columns) -> "FeatureEncoder":
        """Return the encoder of a schema.

        Args:
            schema: Names and encodings.
            context: Columns [N] of the rounds of the training part.
            action: Columns [M] of its different actions.

        Raises:
            DataError: A column is missing, or a value has the wrong type.
        """
        fitted = {}
        for part, columns in zip(PARTS, (context, action), strict=True):
            raw, _ = _raw_columns(schema, part, columns)
            fitted[part] = tuple(
                fit_feature(f"{part}.{name}", feature, column)
                for (name, feature), column in zip(schema.part(part).items(), raw, strict=True)
            )
        return cls(schema, fitted)

    def names(self, part: str) -> tuple[str, ...]:
        """Return the keys of JSON objects that the features of "context" or "action" read."""
        return raw_names(self.schema.part(part))

    @cached_property
    def context_names(self) -> tuple[str, ...]:
        """Names of the C dense columns of contexts."""
        return self._dense_names("context")

    @cached_property
    def action_names(self) -> tuple[str, ...]:
        """Names of the D dense columns of actions."""
        return self._dense_names("action")

    def dense_context(self, columns: Columns) -> Dense:
        """Return the dense columns [n, C] of contexts, by raw values; names that the schema lacks are ignored."""
        return self._dense("context", columns)

    def dense_action(self, columns: Columns) -> Dense:
        """Return the dense columns [n, D] of actions; see `dense_context`."""
        return self._dense("action", columns)

    def sparse_context(self, columns: Columns) -> SparseRows:
        """Return the hashed features of contexts."""
        return self._sparse("context", columns)

    def sparse_action(self, columns: Columns) -> SparseRows:
        """Return the hashed features of actions."""
        return self._sparse("action", columns)

    def encode(self, part: str, columns: Columns, *, sparse: bool) -> Dense | SparseRows:
        """Return the dense columns or the hashed features of "context" or "action"."""
        return self._sparse(part, columns) if sparse else self._dense(part, columns)

    def check(self, columns: Columns, part: str = "context") -> None:
        """Raise DataError if a column is missing, or a value has a type that the schema does not allow."""
        self._sparse(part, columns)

    @cached_property
    def number_blocks(self) -> Mapping[str, NumberBlock]:
        """The numbers of "context" and "action" that encode_records encodes at once."""
        return {
            part: NumberBlock.of(dict(zip(self.schema.part(part), self.fitted[part], strict=True))) for part in PARTS
        }

    def as_dict(self) -> dict[str, Any]:
        """Return the encoder as plain JSON-able values."""
        plain: dict[str, Any] = {"schema": self.schema.as_dict()}
        for part in PARTS:
            items = zip(self.schema.part(part), self.fitted[part], strict=True)
            plain[part] = {name: as_dict(item.fitted_values()) for name, item in items if fitted_type(item.feature)}
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any], where: str = "feature encoder") -> "FeatureEncoder":
        """Return the encoder that `as_dict` describes; raise ConfigError for anything else."""
        if not isinstance(plain, Mapping) or set(plain) != {"schema", *PARTS}:
            raise ConfigError(f"{where}: expected the keys schema, context and action")
        schema = schema_from_dict(plain["schema"], f"{where}: schema")
        fitted = {}
        for part in PARTS:
            values = plain[part]
            needed = {name for name, feature in schema.part(part).items() if fitted_type(feature) is not None}
            if not isinstance(values, Mapping) or set(values) != needed:
                raise ConfigError(
                    f"{where}: {part}: expected the fitted values of {', '.join(sorted(needed)) or 'none'}"
                )
            fitted[part] = tuple(
                restore_feature(
                    f"{part}.{name}", feature, _record(feature, values.get(name), f"{where}: {part}.{name}")
                )
                for name, feature in schema.part(part).items()
            )
        return cls(schema, fitted)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the encoder: policies with different digests read different columns."""
        # Unsorted: the order of the features is that of the columns.
        return hashlib.sha256(json.dumps(self.as_dict()).encode()).hexdigest()

    def _dense_names(self, part: str) -> tuple[str, ...]:
        return tuple(name for item in self.fitted[part] for name in item.dense_names())

    def _dense(self, part: str, columns: Columns) -> Dense:
        raw, count = _raw_columns(self.schema, part, columns)
        parts = [item.dense(column) for column, item in zip(raw, self.fitted[part], strict=True)]
        return np.concatenate([np.zeros((count, 0), np.float32), *parts], axis=1)

    def _sparse(self, part: str, columns: Columns) -> SparseRows:
        raw, count = _raw_columns(self.schema, part, columns)
        return _by_row([item.sparse(column) for column, item in zip(raw, self.fitted[part], strict=True)], count)


def _by_row(entries: Sequence[Entries], count: int) -> SparseRows:
    """Return the entries of all features, row after row and in each row in the order of the schema."""
    if not entries:
        return SparseRows(np.zeros(count + 1, np.int64), np.zeros(0, np.uint32), np.zeros(0, np.float32))
    if all(
        len(entry.row) == count and (count == 1 or np.array_equal(entry.row, np.arange(count))) for entry in entries
    ):
        start = np.arange(count + 1) * len(entries)
        index = np.stack([entry.index for entry in entries], axis=1)
        value = np.stack([entry.value for entry in entries], axis=1)
        return SparseRows(start, index.ravel(), value.ravel())
    row = np.concatenate([entry.row for entry in entries])
    order = np.argsort(row, kind="stable")
    start = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=count))]).astype(np.int64)
    index = np.concatenate([entry.index for entry in entries])[order]
    value = np.concatenate([entry.value for entry in entries])[order]
    return SparseRows(start, index, value)


def _record(feature: Any, values: Any, where: str) -> Any:
    """Return the fitted record of a feature from plain values."""
    kind = fitted_type(feature)
    if kind is None:
        return None
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where}: found {str(values)[:60]}; expected fitted values by name")
    return build(kind, values, where)


def _raw_columns(schema: FeatureSchema, part: str, columns: Columns) -> tuple[list[Column], int]:
    """Return the columns of all features of a part, and the number of rows; raise DataError if one is missing."""
    raw = []
    for name in schema.part(part):
        try:
            raw.append(column_of(columns, name))
        except KeyError:
            found = ", ".join(sorted(columns)) or "none"
            message = f"no {part} feature named {name!r} in the data, but in the schema. Found: {found}."
            raise DataError(message) from None
    counts = {len(column) for column in raw} or {len(column) for column in columns.values()} or {0}
    if len(counts) > 1:
        raise DataError(f"the columns of features have {sorted(counts)} rows; expected the same number in each")
    return raw, counts.pop()
