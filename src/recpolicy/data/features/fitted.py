"""Features with what the training part said about them: means, bins and vocabularies.

n rows, k columns of one feature. `dense` gives columns for linear models and networks; `sparse` gives hashed names and
values for the hashed linear model. A value that the training part did not have gives zeros. All numbers of a fitted
feature are JSON-able, and both forms need NumPy only.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
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
    as_labels,
    as_local_hours,
    as_numbers,
    as_tags,
    flattened,
)
from recpolicy.data.features.hashing import Indices, Values, hashed_names
from recpolicy.data.features.schema import (
    BooleanFeature,
    CategoryFeature,
    Feature,
    JsonFeature,
    NumberFeature,
    RawNumber,
    TagsFeature,
    TimestampFeature,
)

Dense = NDArray[np.float32]
MAX_STANDARD = 10.0
"""Largest standardized number."""
_MISSING = "missing"
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


@dataclass(frozen=True)
class FittedFeature(Generic[FeatureT]):
    """A feature of contexts or actions that is ready to encode columns."""

    name: str
    """Name with its part, such as context.age."""
    feature: FeatureT

    @property
    def where(self) -> str:
        """Text that names the feature in errors."""
        part, name = self.name.split(".", 1)
        return f"{part} feature {name!r} ({self.feature.type})"

    def dense_names(self) -> list[str]:
        """Return the names [k] of the dense columns."""
        raise NotImplementedError

    def dense(self, column: Column) -> Dense:
        """Return the dense columns [n, k]."""
        raise NotImplementedError

    def sparse(self, column: Column) -> Entries:
        """Return the hashed features."""
        raise NotImplementedError

    def fitted_values(self) -> Any:
        """Return the record of what was fitted, or None."""
        return None

    @property
    def code_count(self) -> int:
        """Codes of an embedding: one for unseen and missing values, one per value; 0 for other features."""
        return 0

    def codes(self, column: Column) -> NDArray[np.int64]:
        """Return the code of each row: the place of its value in the vocabulary plus 1, or 0."""
        raise NotImplementedError

    def _sparse_names(self) -> list[str]:
        """Return the names of hashed features that come from a fixed table."""
        return self.dense_names()

    @cached_property
    def _hashes(self) -> tuple[Indices, Values]:
        return hashed_names(self._sparse_names())

    def _entries(self, rows: NDArray[np.int64], code: NDArray[np.int64], value: Any) -> Entries:
        """Return entries whose names are at the places `code` of the fixed table."""
        index, sign = self._hashes
        return Entries(rows, index[code], (sign[code] * value).astype(np.float32))


@dataclass(frozen=True)
class _Number(FittedFeature[NumberFeature]):
    """A number, standardized, raw or in bins."""

    fitted: FittedNumbers

    def fitted_values(self) -> FittedNumbers:
        return self.fitted

    def dense_names(self) -> list[str]:
        names = self._bin_names() if self.feature.scale == "bins" else [self.name]
        return [*names, f"{self.name}={_MISSING}"] if self.fitted.missing else names

    def dense(self, column: Column) -> Dense:
        numbers = self._clipped(column)
        missing = np.isnan(numbers)
        if self.feature.scale == "bins":
            columns = _one_hot(np.where(missing, -1, self._bin(numbers)), len(self.fitted.edges) + 1)
        else:
            columns = np.where(missing, 0.0, self._scaled(numbers)).astype(np.float32)[:, np.newaxis]
        return np.column_stack([columns, missing.astype(np.float32)]) if self.fitted.missing else columns

    def sparse(self, column: Column) -> Entries:
        numbers = self._clipped(column)
        missing = np.isnan(numbers)
        if self.feature.scale == "bins":
            code = np.where(missing, len(self.fitted.edges) + 1, self._bin(numbers))
            value = np.ones(len(numbers))
        else:
            code, value = missing.astype(np.int64), np.where(missing, 1.0, self._scaled(numbers))
        rows = np.flatnonzero(~missing) if not self.fitted.missing else np.arange(len(numbers))
        return self._entries(rows, code[rows], value[rows])

    def _sparse_names(self) -> list[str]:
        return [*(self._bin_names() if self.feature.scale == "bins" else [self.name]), f"{self.name}={_MISSING}"]

    def _clipped(self, column: Column) -> Array:
        numbers = as_numbers(column, self.where)
        return numbers if self.feature.clip is None else np.clip(numbers, *self.feature.clip)

    def _scaled(self, numbers: Array) -> Array:
        if self.feature.scale == "none":
            return numbers
        return np.clip((numbers - self.fitted.mean) / self.fitted.std, -MAX_STANDARD, MAX_STANDARD)

    def _bin(self, numbers: Array) -> NDArray[np.int64]:
        return np.searchsorted(np.array(self.fitted.edges), numbers, side="right")

    def _bin_names(self) -> list[str]:
        return [f"{self.name}=bin {number}" for number in range(len(self.fitted.edges) + 1)]


@dataclass(frozen=True)
class _Category(FittedFeature[CategoryFeature]):
    """A category: one-hot, hashed or an integer code."""

    fitted: FittedVocabulary
    places: Mapping[str | None, int]

    def fitted_values(self) -> FittedVocabulary:
        return self.fitted

    @property
    def code_count(self) -> int:
        return len(self.fitted.values) + 1 if self.feature.encoding == "embedding" else 0

    def codes(self, column: Column) -> NDArray[np.int64]:
        return _places(as_labels(column, self.where), self.places) + 1

    def dense_names(self) -> list[str]:
        if self.feature.encoding == "hashed":
            return _slot_names(self.name, self.feature.size)
        return _value_names(self.name, self.fitted)

    def dense(self, column: Column) -> Dense:
        labels = as_labels(column, self.where)
        if self.feature.encoding == "hashed":
            rows, texts = _present(labels)
            return _hashed_columns(rows, *_hashed_labels(self.name, texts), len(labels), self.feature.size)
        return _one_hot(_places(labels, self.places), len(self.fitted.values) + self.fitted.missing)

    def sparse(self, column: Column) -> Entries:
        labels = as_labels(column, self.where)
        if self.feature.encoding == "hashed":
            rows, texts = _present(labels)
            return Entries(rows, *_hashed_labels(self.name, texts))
        places = _places(labels, self.places)
        rows = np.flatnonzero(places >= 0)
        return self._entries(rows, places[rows], 1.0)


@dataclass(frozen=True)
class _Boolean(FittedFeature[BooleanFeature]):
    """True or false."""

    fitted: FittedVocabulary

    def fitted_values(self) -> FittedVocabulary:
        return self.fitted

    def dense_names(self) -> list[str]:
        return [self.name, f"{self.name}={_MISSING}"] if self.fitted.missing else [self.name]

    def dense(self, column: Column) -> Dense:
        flags = as_flags(column, self.where)
        missing = np.isnan(flags)
        columns = np.where(missing, 0.0, flags).astype(np.float32)[:, np.newaxis]
        return np.column_stack([columns, missing.astype(np.float32)]) if self.fitted.missing else columns

    def sparse(self, column: Column) -> Entries:
        flags = as_flags(column, self.where)
        missing = np.isnan(flags)
        rows = np.flatnonzero((flags == 1) | (missing & self.fitted.missing))
        return self._entries(rows, missing[rows].astype(np.int64), 1.0)

    def _sparse_names(self) -> list[str]:
        return [self.name, f"{self.name}={_MISSING}"]


@dataclass(frozen=True)
class _Timestamp(FittedFeature[TimestampFeature]):
    """The hour and the weekday of a time."""

    def dense_names(self) -> list[str]:
        if self.feature.encoding == "cyclic":
            return [f"{self.name}.{part}.{wave}" for part in self.feature.parts for wave in ("sin", "cos")]
        return [f"{self.name}.{part}={value}" for part in self.feature.parts for value in range(_PERIODS[part])]

    def dense(self, column: Column) -> Dense:
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
                columns.append(_one_hot(code.astype(np.int64), period))
        return np.column_stack(columns).astype(np.float32)

    def sparse(self, column: Column) -> Entries:
        columns = self.dense(column)
        rows, places = np.nonzero(columns)
        return self._entries(rows, places, columns[rows, places])


@dataclass(frozen=True)
class _Tags(FittedFeature[TagsFeature]):
    """A list of tags: a column each, or hashed."""

    fitted: FittedVocabulary
    places: Mapping[str | None, int]

    def fitted_values(self) -> FittedVocabulary:
        return self.fitted

    def dense_names(self) -> list[str]:
        if self.feature.encoding == "hashed":
            return _slot_names(self.name, self.feature.size)
        return _value_names(self.name, self.fitted)

    def dense(self, column: Column) -> Dense:
        rows, tags = as_tags(column, self.where)
        if self.feature.encoding == "hashed":
            return _hashed_columns(rows, *_hashed_labels(self.name, tags), len(column), self.feature.size)
        places = _places(tags, self.places)
        columns = np.zeros((len(column), len(self.fitted.values)), np.float32)
        columns[rows[places >= 0], places[places >= 0]] = 1.0
        return columns

    def sparse(self, column: Column) -> Entries:
        rows, tags = as_tags(column, self.where)
        if self.feature.encoding == "one_hot":
            places = _places(tags, self.places)
            known = places >= 0
            return self._entries(rows[known], places[known], 1.0)
        return Entries(rows, *_hashed_labels(self.name, tags))


@dataclass(frozen=True)
class _Json(FittedFeature[JsonFeature]):
    """A nested object whose leaves are hashed."""

    def dense_names(self) -> list[str]:
        return _slot_names(self.name, self.feature.size)

    def dense(self, column: Column) -> Dense:
        entries = self.sparse(column)
        return _hashed_columns(entries.row, entries.index, entries.value, len(column), self.feature.size)

    def sparse(self, column: Column) -> Entries:
        leaves = [flattened(value, self.name, f"{self.where}: row {row}") for row, value in enumerate(column)]
        rows = np.repeat(np.arange(len(leaves)), np.fromiter(map(len, leaves), np.int64, len(leaves)))
        index, sign = _hashed_texts([name for row in leaves for name, _ in row])
        value = np.array([number for row in leaves for _, number in row], np.float32)
        return Entries(rows, index, sign * value)


def fit_feature(name: str, feature: Feature, column: Column) -> FittedFeature[Any]:
    """Return the feature with the statistics of the column of the training part."""
    if isinstance(feature, NumberFeature):
        return _Number(name, feature, _fit_numbers(name, feature, column))
    if isinstance(feature, CategoryFeature):
        labels = as_labels(column, FittedFeature(name, feature).where)
        counts = Counter(labels)
        missing = counts.pop(None, 0) > 0 and feature.encoding == "one_hot"
        hashed = feature.encoding == "hashed"
        values = () if hashed else _frequent(counts, feature.max_values, feature.min_count)
        return _with_vocabulary(name, feature, FittedVocabulary(values=values, missing=missing))
    if isinstance(feature, TagsFeature):
        _, tags = as_tags(column, FittedFeature(name, feature).where)
        hashed = feature.encoding == "hashed"
        values = () if hashed else _frequent(Counter(tags), feature.max_values, feature.min_count)
        return _with_vocabulary(name, feature, FittedVocabulary(values=values))
    if isinstance(feature, BooleanFeature):
        flags = as_flags(column, FittedFeature(name, feature).where)
        return _Boolean(name, feature, FittedVocabulary(missing=bool(np.isnan(flags).any())))
    unfitted = _Timestamp(name, feature) if isinstance(feature, TimestampFeature) else _Json(name, feature)
    unfitted.sparse(column)  # checks the values
    return unfitted


def restore_feature(name: str, feature: Feature, values: Any) -> FittedFeature[Any]:
    """Return a fitted feature from the record that `fitted_values` gave."""
    if isinstance(feature, NumberFeature):
        return _Number(name, feature, values)
    if isinstance(feature, BooleanFeature):
        return _Boolean(name, feature, values)
    if isinstance(feature, CategoryFeature | TagsFeature):
        return _with_vocabulary(name, feature, values)
    return _Timestamp(name, feature) if isinstance(feature, TimestampFeature) else _Json(name, feature)


def fitted_type(feature: Feature) -> type[Any] | None:
    """Return the class of the record that fitting this type of feature gives; None if nothing is fitted."""
    if isinstance(feature, NumberFeature):
        return FittedNumbers
    return None if isinstance(feature, TimestampFeature | JsonFeature) else FittedVocabulary


def _with_vocabulary(name: str, feature: Any, fitted: FittedVocabulary) -> FittedFeature[Any]:
    places: dict[str | None, int] = {value: place for place, value in enumerate(fitted.values)}
    if fitted.missing:
        places[None] = len(fitted.values)
    return (_Tags if isinstance(feature, TagsFeature) else _Category)(name, feature, fitted, places)


def _fit_numbers(name: str, feature: NumberFeature, column: Column) -> FittedNumbers:
    numbers = as_numbers(column, FittedFeature(name, feature).where)
    missing = bool(np.isnan(numbers).any())
    numbers = numbers[~np.isnan(numbers)]
    if feature.clip is not None:
        numbers = np.clip(numbers, *feature.clip)
    if feature.scale == "bins":
        edges = feature.edges
        if not edges and len(numbers):
            steps = np.arange(1, feature.bins) / feature.bins
            edges = tuple(np.unique(np.quantile(numbers, steps)).tolist())
        return FittedNumbers(edges=edges, missing=missing)
    if feature.scale == "none" or not len(numbers):
        return FittedNumbers(missing=missing)
    std = float(numbers.std())
    floor = 1e-9 * max(1.0, float(np.abs(numbers).max()))  # a constant column has no scale
    return FittedNumbers(mean=float(numbers.mean()), std=std if std > floor else 1.0, missing=missing)


def _frequent(counts: Mapping[Any, int], max_values: int, min_count: int) -> tuple[str, ...]:
    """Return the most frequent values; ties in alphabetical order."""
    ordered = sorted((-count, value) for value, count in counts.items() if count >= min_count)
    return tuple(value for _, value in ordered[:max_values])


def _places(labels: Sequence[str | None], places: Mapping[str | None, int]) -> NDArray[np.int64]:
    """Return the place of each label; -1 if it has none."""
    get = places.get
    return np.fromiter((get(label, -1) for label in labels), np.int64, len(labels))


def _one_hot(code: NDArray[np.int64], size: int) -> Dense:
    """Return a 1 in the column of each code [n, size]; -1 gives zeros."""
    columns = np.zeros((len(code), size), np.float32)
    rows = np.flatnonzero(code >= 0)
    columns[rows, code[rows]] = 1.0
    return columns


def _present(labels: Sequence[str | None]) -> tuple[NDArray[np.int64], list[str]]:
    """Return the rows and the texts of labels that are not missing."""
    rows = np.flatnonzero(np.fromiter((label is not None for label in labels), bool, len(labels)))
    return rows, [label for label in labels if label is not None]


def _hashed_labels(name: str, labels: Sequence[str]) -> tuple[Indices, Values]:
    """Return the index and the sign of `name=label` for each label."""
    return _hashed_texts([f"{name}={label}" for label in labels])


def _hashed_texts(texts: Sequence[str]) -> tuple[Indices, Values]:
    """Return the index and the sign of each text, after hashing different ones once."""
    different = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    index, sign = hashed_names(list(different))
    place = np.fromiter(map(different.__getitem__, texts), np.int64, len(texts))
    return index[place], sign[place]


def _hashed_columns(rows: NDArray[np.int64], index: Indices, value: Values, count: int, size: int) -> Dense:
    """Return the sums [count, size] of the values in the column of their index."""
    flat = np.bincount(rows * size + index % np.uint32(size), value, count * size)
    return flat.reshape(count, size).astype(np.float32)


def _slot_names(name: str, size: int) -> list[str]:
    return [f"{name}#{slot}" for slot in range(size)]


def _value_names(name: str, fitted: FittedVocabulary) -> list[str]:
    names = [f"{name}={value}" for value in fitted.values]
    return [*names, f"{name}={_MISSING}"] if fitted.missing else names
