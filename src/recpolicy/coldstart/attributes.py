"""Attributes of items as a design matrix: numbers and labels of a table, encoded as in the fit of the prior.

I items, P columns: 1, standardized numbers, and one column of 0 and 1 for each label. A text may hold several labels,
separated by "|". A missing value is the mean, or no label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.coldstart.filter import Array
from recpolicy.core.errors import ArtifactError, DataError
from recpolicy.data.decision_table import NAMELESS, DecisionTable

ITEM = "item"
SEPARATOR = "|"
MAX_LABELS = 1_000
_SHOWN = 8


@dataclass(frozen=True)
class NumberAttribute:
    """A number with the mean and standard deviation of the fit."""

    name: str
    mean: float
    std: float


@dataclass(frozen=True)
class LabelAttribute:
    """Labels that occurred in the fit."""

    name: str
    labels: tuple[str, ...]


@dataclass(frozen=True)
class ItemTable:
    """A table of items: ids and columns of attributes."""

    path: Path
    ids: NDArray[np.object_]  # [I]
    columns: Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class AttributeEncoder:
    """The encoding of attributes; without any, every item has the same prior."""

    attributes: tuple[NumberAttribute | LabelAttribute, ...] = ()

    @classmethod
    def fit(cls, table: ItemTable, items: Sequence[Any]) -> "AttributeEncoder":
        """Return the encoder of a table, fitted on some of its items; raise DataError for items that it lacks."""
        rows = _rows(table, items)
        return cls(tuple(_fit_column(name, column[rows], table) for name, column in table.columns.items()))

    @property
    def width(self) -> int:
        """Return the number of columns P of the design matrix."""
        return 1 + sum(len(each.labels) if isinstance(each, LabelAttribute) else 1 for each in self.attributes)

    def design(self, items: Sequence[Any], table: ItemTable | None = None) -> Array:
        """Return the design matrix [I, P] of items.

        Args:
            items: Ids of the items.
            table: Their attributes; without attributes in the fit none are needed.

        Raises:
            DataError: The table is missing, lacks a column or an item, or has a label that the fit did not see.
        """
        if not self.attributes:
            return np.ones((len(items), 1))
        names = ", ".join(each.name for each in self.attributes)
        if table is None:
            raise DataError(f"the prior reads the attributes {names}; give a table of the items with them (--items)")
        rows, parts = _rows(table, items), [np.ones((len(items), 1))]
        for each in self.attributes:
            if each.name not in table.columns:
                found = ", ".join(table.columns) or "none"
                raise DataError(f"{table.path}: no attribute {each.name!r}, which the prior reads; found {found}")
            parts.append(_encode(each, table.columns[each.name][rows], table, items))
        return np.column_stack(parts)

    def as_list(self) -> list[dict[str, Any]]:
        """Return plain JSON-able values."""
        return [
            {"name": each.name, "labels": list(each.labels)} if isinstance(each, LabelAttribute) else vars(each)
            for each in self.attributes
        ]

    @classmethod
    def from_list(cls, values: Any) -> "AttributeEncoder":
        """Return the encoder of a file; raise ArtifactError for one that no fit wrote."""
        attributes: list[NumberAttribute | LabelAttribute] = []
        for value in values:
            if "labels" in value:
                attributes.append(LabelAttribute(str(value["name"]), tuple(map(str, value["labels"]))))
            else:
                attributes.append(NumberAttribute(str(value["name"]), float(value["mean"]), float(value["std"])))
            last = attributes[-1]
            if isinstance(last, NumberAttribute) and not (np.isfinite(last.mean) and 0 < last.std < np.inf):
                raise ArtifactError(f"attribute {last.name!r}: expected a finite mean and a std above 0")
        return cls(tuple(attributes))


def read_items(path: Path) -> ItemTable:
    """Read a table of items: CSV, Parquet or JSON lines with a column `item`; the others are attributes."""
    table = DecisionTable(path, ",")
    table.check_names([ITEM])
    ids = table.ids(ITEM)
    table.refuse(pd.Series(ids).duplicated().to_numpy(), lambda row: f"item {ids[row]!r} occurs twice")
    names = [name for name in table.names if name != ITEM and not name.startswith(NAMELESS)]
    return ItemTable(path, ids, {name: table.feature(name) for name in names})


def _rows(table: ItemTable, items: Sequence[Any]) -> NDArray[np.int64]:
    row_of = {str(item): row for row, item in enumerate(table.ids)}
    lacking = [item for item in items if str(item) not in row_of]
    if lacking:
        raise DataError(f"{table.path}: no item {lacking[0]!r}; expected a row for every item")
    return np.array([row_of[str(item)] for item in items], np.int64)


def _fit_column(name: str, column: NDArray[Any], table: ItemTable) -> NumberAttribute | LabelAttribute:
    if column.dtype.kind in "fiub":
        values = column.astype(np.float64)
        known = values[np.isfinite(values)]
        spread = float(known.std()) if len(known) else 0.0
        if not spread > 0:
            raise DataError(f"{table.path}: {name} has one value in all items of the fit; leave out the column")
        return NumberAttribute(name, float(known.mean()), spread)
    labels = sorted({label for value in column for label in _labels(value)})
    if not 1 <= len(labels) <= MAX_LABELS:
        raise DataError(f"{table.path}: {name} has {len(labels):,} labels; expected 1 to {MAX_LABELS:,}")
    return LabelAttribute(name, tuple(labels))


def _encode(
    attribute: NumberAttribute | LabelAttribute, column: NDArray[Any], table: ItemTable, items: Sequence[Any]
) -> Array:
    if isinstance(attribute, NumberAttribute):
        if column.dtype.kind not in "fiub":
            raise DataError(f"{table.path}: {attribute.name} holds text; the prior was fitted on numbers")
        values = (column.astype(np.float64) - attribute.mean) / attribute.std
        return np.where(np.isfinite(values), values, 0.0)[:, np.newaxis]
    place = {label: column for column, label in enumerate(attribute.labels)}
    encoded = np.zeros((len(column), len(attribute.labels)))
    for row, value in enumerate(column):
        for label in _labels(value):
            if label not in place:
                known = ", ".join(attribute.labels[:_SHOWN]) + (", ..." if len(attribute.labels) > _SHOWN else "")
                raise DataError(
                    f"{table.path}: {attribute.name} of item {items[row]!r} is {label!r}, which no item of the fit had;"
                    f" known: {known}"
                )
            encoded[row, place[label]] = 1.0
    return encoded


def _labels(value: Any) -> list[str]:
    """Return the labels of a cell."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return []
    return [label.strip() for label in str(value).split(SEPARATOR) if label.strip()]
