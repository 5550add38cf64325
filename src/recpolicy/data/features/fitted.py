"""Features with what the training part said about them: means, bins and vocabularies.

n rows, k columns of one feature. `dense` gives columns for linear models and networks; `sparse` gives hashed names and
values for the hashed linear model. A value that the training part did not have gives zeros. All numbers of a fitted
feature are JSON-able, and both forms need NumPy only.
"""

import abc
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recpolicy.core.config import config_dataclass
from recpolicy.core.types import Array
from recpolicy.data.features.columns import (
    Column,
    as_flags,
    as_local_hours,
    as_numbers,
)
from recpolicy.data.features.hashing import Indices, Values, hashed_names
from recpolicy.data.features.schema import (
    BooleanFeature,
    Feature,
    NumberFeature,
    RawNumber,
    TimestampFeature,
)

Dense = NDArray[np.float32]
MAX_STANDARD = 10.0
"""Largest standardized number."""
MISSING = "missing"
_PERIODS = {"hour": 24, "weekday": 7}
_MONDAY = 72.0
"""Hours from 1970-01-01, a Thursday, back to the Monday before it."""
FeatureT = TypeVar("FeatureT", bound=Feature)


@dataclass(frozen=True)
class Entries:
    """Hashed features of one column: row, index and value [F]."""

    row: NDArray[np.int64]
    index: Indices
    value: Values


@config_dataclass
class FittedNumbers:
    """Statistics of a number in the training part."""

    mean: RawNumber = 0.0
    std: Annotated[float, Field(gt=0, le=1e15)] = 1.0
    edges: tuple[RawNumber, ...] = ()
    missing: bool = False
    """True if the training part misses some values; a missing value then has a column."""


@config_dataclass
class FittedVocabulary:
    """Values of a category or tags of the training part, by falling frequency."""

    values: tuple[str, ...] = ()
    missing: bool = False


def feature_location(name: str, feature: Feature) -> str:
    """Return the text that names a feature in errors; `name` has its part, such as context.age."""
    part, plain = name.split(".", 1)
    return f"{part} feature {plain!r} ({feature.type})"


@dataclass(frozen=True)
class FittedFeature(abc.ABC, Generic[FeatureT]):
    """A feature of contexts or actions that is ready to encode columns."""

    name: str
    """Name with its part, such as context.age."""
    feature: FeatureT

    @cached_property
    def where(self) -> str:
        """Text that names the feature in errors."""
        return feature_location(self.name, self.feature)

    @property
    def embedding_dim(self) -> int:
        """Length of the vector that a network learns for each dense column; 0 if networks read the columns."""
        return 0

    @abc.abstractmethod
    def dense_names(self) -> list[str]:
        """Return the names [k] of the dense columns."""

    @abc.abstractmethod
    def dense(self, column: Column) -> Dense:
        """Return the dense columns [n, k]."""

    @abc.abstractmethod
    def sparse(self, column: Column) -> Entries:
        """Return the hashed features."""

    def fitted_values(self) -> Any:
        """Return the record of what was fitted, or None."""
        return None

    def _sparse_names(self) -> list[str]:
        """Return the names of hashed features that come from a fixed table."""
        return self.dense_names()

    @cached_property
    def hashes(self) -> tuple[Indices, Values]:
        """Index and sign of each hashed feature that comes from a fixed table."""
        return hashed_names(self._sparse_names())

    def _entries(self, rows: NDArray[np.int64], code: NDArray[np.int64], value: Any) -> Entries:
        """Return entries whose names are at the places `code` of the fixed table."""
        index, sign = self.hashes
        return Entries(rows, index[code], (sign[code] * value).astype(np.float32))


@dataclass(frozen=True)
class FittedNumber(FittedFeature[NumberFeature]):
    """A number, standardized, raw or in bins."""

    fitted: FittedNumbers

    def fitted_values(self) -> FittedNumbers:
        """Return what was fitted."""
        return self.fitted

    def dense_names(self) -> list[str]:
        """Return the names [k] of the dense columns."""
        names = self._bin_names() if self.feature.scale == "bins" else [self.name]
        return [*names, f"{self.name}={MISSING}"] if self.fitted.missing else names

    def dense(self, column: Column) -> Dense:
        """Return the dense columns [n, k]."""
        numbers = self._clipped(column)
        if not self.fitted.missing and self.feature.scale != "bins":
            scaled = self._scaled(numbers)
            return np.where(np.isnan(scaled), 0.0, scaled).astype(np.float32)[:, np.newaxis]
        missing = np.isnan(numbers)
        if self.feature.scale == "bins":
            columns = one_hot_columns(np.where(missing, -1, self._bin(numbers)), len(self.fitted.edges) + 1)
        else:
            columns = np.where(missing, 0.0, self._scaled(numbers)).astype(np.float32)[:, np.newaxis]
        return np.column_stack([columns, missing.astype(np.float32)]) if self.fitted.missing else columns

    def sparse(self, column: Column) -> Entries:
        """Return the hashed features."""
        numbers = self._clipped(column)
        missing = np.isnan(numbers)
        if self.feature.scale != "bins" and not missing.any():  # most columns; requests take this path often
            index, sign = self.hashes
            value = (sign[0] * self._scaled(numbers)).astype(np.float32)
            return Entries(np.arange(len(numbers)), np.full(len(numbers), index[0]), value)
        if self.feature.scale == "bins":
            code = np.where(missing, len(self.fitted.edges) + 1, self._bin(numbers))
            value = np.ones(len(numbers))
        else:
            code, value = missing.astype(np.int64), np.where(missing, 1.0, self._scaled(numbers))
        rows = np.flatnonzero(~missing) if not self.fitted.missing else np.arange(len(numbers))
        return self._entries(rows, code[rows], value[rows])

    def _sparse_names(self) -> list[str]:
        return [*(self._bin_names() if self.feature.scale == "bins" else [self.name]), f"{self.name}={MISSING}"]

    def _clipped(self, column: Column) -> Array:
        numbers = as_numbers(column, self.where)
        return numbers if self.feature.clip is None else np.clip(numbers, *self.feature.clip)

    def _scaled(self, numbers: Array) -> Array:
        if self.feature.scale == "none":
            return numbers
        standard = (numbers - self.fitted.mean) / self.fitted.std
        limited: Array = np.minimum(np.maximum(standard, -MAX_STANDARD), MAX_STANDARD)  # np.clip is slow for few rows
        return limited

    def _bin(self, numbers: Array) -> NDArray[np.int64]:
        return np.searchsorted(np.array(self.fitted.edges), numbers, side="right")

    def _bin_names(self) -> list[str]:
        return [f"{self.name}=bin {number}" for number in range(len(self.fitted.edges) + 1)]


@dataclass(frozen=True)
class FittedBoolean(FittedFeature[BooleanFeature]):
    """True or false."""

    fitted: FittedVocabulary

    def fitted_values(self) -> FittedVocabulary:
        """Return what was fitted."""
        return self.fitted

    def dense_names(self) -> list[str]:
        """Return the names [k] of the dense columns."""
        return [self.name, f"{self.name}={MISSING}"] if self.fitted.missing else [self.name]

    def dense(self, column: Column) -> Dense:
        """Return the dense columns [n, k]."""
        flags = as_flags(column, self.where)
        missing = np.isnan(flags)
        columns = np.where(missing, 0.0, flags).astype(np.float32)[:, np.newaxis]
        return np.column_stack([columns, missing.astype(np.float32)]) if self.fitted.missing else columns

    def sparse(self, column: Column) -> Entries:
        """Return the hashed features."""
        flags = as_flags(column, self.where)
        missing = np.isnan(flags)
        rows = np.flatnonzero((flags == 1) | (missing & self.fitted.missing))
        return self._entries(rows, missing[rows].astype(np.int64), 1.0)

    def _sparse_names(self) -> list[str]:
        return [self.name, f"{self.name}={MISSING}"]


@dataclass(frozen=True)
class FittedTimestamp(FittedFeature[TimestampFeature]):
    """The hour and the weekday of a time."""

    def dense_names(self) -> list[str]:
        """Return the names [k] of the dense columns."""
        if self.feature.encoding == "cyclic":
            return [f"{self.name}.{part}.{wave}" for part in self.feature.parts for wave in ("sin", "cos")]
        return [f"{self.name}.{part}={value}" for part in self.feature.parts for value in range(_PERIODS[part])]

    def dense(self, column: Column) -> Dense:
        """Return the dense columns [n, k]."""
        hours = as_local_hours(column, self.feature.unit, self.feature.utc_offset_hours, self.where)
        missing = np.isnan(hours)[:, np.newaxis]
        columns = []
        for part in self.feature.parts:
            period = _PERIODS[part]
            time = np.mod(hours, 24.0) if part == "hour" else np.mod((hours + _MONDAY) / 24.0, 7.0)
            if self.feature.encoding == "cyclic":
                angle = 2.0 * np.pi * time / period
                columns.append(np.where(missing, 0.0, np.column_stack([np.sin(angle), np.cos(angle)])))
            else:
                code = np.where(missing[:, 0], -1.0, np.minimum(np.floor(time), period - 1))
                columns.append(one_hot_columns(code.astype(np.int64), period))
        return np.column_stack(columns).astype(np.float32)

    def sparse(self, column: Column) -> Entries:
        """Return the hashed features."""
        columns = self.dense(column)
        rows, places = np.nonzero(columns)
        return self._entries(rows, places, columns[rows, places])


def one_hot_columns(code: NDArray[np.int64], size: int) -> Dense:
    """Return a 1 in the column of each code [n, size]; -1 gives zeros."""
    columns = np.zeros((len(code), size), np.float32)
    rows = np.flatnonzero(code >= 0)
    columns[rows, code[rows]] = 1.0
    return columns
