"""Fitted features of texts: categories, tags and nested objects, as columns or hashes.

n rows, k columns of one feature; see fitted.py.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.data.features.columns import Column, as_labels, as_tags, flattened
from recpolicy.data.features.fitted import (
    MISSING,
    Dense,
    Entries,
    FittedFeature,
    FittedVocabulary,
    one_hot_columns,
)
from recpolicy.data.features.hashing import Indices, Values, hashed_names
from recpolicy.data.features.schema import CategoryFeature, JsonFeature, TagsFeature


@dataclass(frozen=True)
class FittedCategory(FittedFeature[CategoryFeature]):
    """A category: one-hot, hashed or with a vector per value."""

    fitted: FittedVocabulary
    places: Mapping[str | None, int]

    def fitted_values(self) -> FittedVocabulary:
        """Return what was fitted."""
        return self.fitted

    @property
    def embedding_dim(self) -> int:
        """Length of the vectors of the encoding `embedding`; 0 for other encodings."""
        return self.feature.dim if self.feature.encoding == "embedding" else 0

    def dense_names(self) -> list[str]:
        """Return the names [k] of the dense columns."""
        if self.feature.encoding == "hashed":
            return _slot_names(self.name, self.feature.size)
        return _value_names(self.name, self.fitted)

    def dense(self, column: Column) -> Dense:
        """Return the dense columns [n, k]."""
        labels = as_labels(column, self.where)
        if self.feature.encoding == "hashed":
            rows, texts = _present(labels)
            return _hashed_columns(rows, *_hashed_labels(self.name, texts), len(labels), self.feature.size)
        return one_hot_columns(_places(labels, self.places), len(self.fitted.values) + self.fitted.missing)

    def sparse(self, column: Column) -> Entries:
        """Return the hashed features."""
        labels = as_labels(column, self.where)
        if self.feature.encoding == "hashed":
            rows, texts = _present(labels)
            return Entries(rows, *_hashed_labels(self.name, texts))
        places = _places(labels, self.places)
        rows = np.flatnonzero(places >= 0)
        return self._entries(rows, places[rows], 1.0)


@dataclass(frozen=True)
class FittedTags(FittedFeature[TagsFeature]):
    """A list of tags: a column each, or hashed."""

    fitted: FittedVocabulary
    places: Mapping[str | None, int]

    def fitted_values(self) -> FittedVocabulary:
        """Return what was fitted."""
        return self.fitted

    def dense_names(self) -> list[str]:
        """Return the names [k] of the dense columns."""
        if self.feature.encoding == "hashed":
            return _slot_names(self.name, self.feature.size)
        return _value_names(self.name, self.fitted)

    def dense(self, column: Column) -> Dense:
        """Return the dense columns [n, k]."""
        rows, tags = as_tags(column, self.where)
        if self.feature.encoding == "hashed":
            return _hashed_columns(rows, *_hashed_labels(self.name, tags), len(column), self.feature.size)
        places = _places(tags, self.places)
        columns = np.zeros((len(column), len(self.fitted.values)), np.float32)
        columns[rows[places >= 0], places[places >= 0]] = 1.0
        return columns

    def sparse(self, column: Column) -> Entries:
        """Return the hashed features."""
        rows, tags = as_tags(column, self.where)
        if self.feature.encoding == "one_hot":
            places = _places(tags, self.places)
            known = places >= 0
            return self._entries(rows[known], places[known], 1.0)
        return Entries(rows, *_hashed_labels(self.name, tags))


@dataclass(frozen=True)
class FittedJson(FittedFeature[JsonFeature]):
    """A nested object whose leaves are hashed."""

    def dense_names(self) -> list[str]:
        """Return the names [k] of the dense columns."""
        return _slot_names(self.name, self.feature.size)

    def dense(self, column: Column) -> Dense:
        """Return the dense columns [n, k]."""
        entries = self.sparse(column)
        return _hashed_columns(entries.row, entries.index, entries.value, len(column), self.feature.size)

    def sparse(self, column: Column) -> Entries:
        """Return the hashed features."""
        leaves = [flattened(value, self.name, f"{self.where}: row {row}") for row, value in enumerate(column)]
        rows = np.repeat(np.arange(len(leaves)), np.fromiter(map(len, leaves), np.int64, len(leaves)))
        index, sign = _hashed_texts([name for row in leaves for name, _ in row])
        value = np.array([number for row in leaves for _, number in row], np.float32)
        return Entries(rows, index, sign * value)


def _places(labels: Sequence[str | None], places: Mapping[str | None, int]) -> NDArray[np.int64]:
    """Return the place of each label; -1 if it has none."""
    get = places.get
    return np.fromiter((get(label, -1) for label in labels), np.int64, len(labels))


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
    return [*names, f"{name}={MISSING}"] if fitted.missing else names
