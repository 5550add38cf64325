"""Encode all numbers of JSON records at once.

n records, k numbers. Encoding one feature after the other takes some 20 µs each, so a context of 30 numbers would take
longer than the rest of its ranking. The arithmetic is that of FittedNumber, so both give the same bits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Array
from recpolicy.data.features.columns import LARGEST
from recpolicy.data.features.fitted import MAX_STANDARD, Dense, Entries, FittedFeature, FittedNumber
from recpolicy.data.features.hashing import Indices, Values
from recpolicy.data.features.schema import ACTION_ID, raw_names

_NUMBERS = {int, float, bool, type(None)}


class OtherFeature(NamedTuple):
    """A feature that is encoded by itself."""

    name: str
    order: int
    """Place among the features of the schema."""
    columns: slice
    """Places among the dense columns."""
    fitted: FittedFeature[Any]


@dataclass(frozen=True)
class NumberBlock:
    """The numbers [k] of a part, apart from those in bins and those within objects; and the other features."""

    width: int
    """Dense columns of all features."""
    others: tuple[OtherFeature, ...]
    other_keys: tuple[str, ...]
    """Keys of records that the others read."""
    names: tuple[str, ...]
    order: NDArray[np.int64]  # [k] places among the features of the schema
    column: NDArray[np.int64]  # [k] places among the dense columns; a column for missing values follows
    flagged: NDArray[np.bool_]  # [k] True if there is a column for missing values
    mean: Array  # [k]
    std: Array  # [k]
    limit: Array  # [k] largest standardized number
    clip: Array | None  # [2, k] smallest and largest raw number; None: no number has bounds
    index: Indices  # [2, k] hashes of the number and of its absence
    sign: Values  # [2, k]

    @classmethod
    def of(cls, features: Mapping[str, FittedFeature[Any]]) -> "NumberBlock":
        """Return the block of a part's features, which are in the order of the schema."""
        names, order, column = [], [], []
        items: list[FittedNumber] = []
        others: list[OtherFeature] = []
        width = 0
        for place, (name, item) in enumerate(features.items()):
            if (
                isinstance(item, FittedNumber)
                and item.feature.scale != "bins"
                and "." not in name
                and name != ACTION_ID
            ):
                names.append(name)
                order.append(place)
                column.append(width)
                items.append(item)
            else:
                others.append(OtherFeature(name, place, slice(width, width + len(item.dense_names())), item))
            width += len(item.dense_names())
        standard = np.array([item.feature.scale == "standard" for item in items], bool)
        clip = np.array([item.feature.clip or (-np.inf, np.inf) for item in items]).reshape(-1, 2).T
        return cls(
            width=width,
            others=tuple(others),
            other_keys=raw_names(other.name for other in others),
            names=tuple(names),
            order=np.array(order, np.int64),
            column=np.array(column, np.int64),
            flagged=np.array([item.fitted.missing for item in items], bool),
            mean=np.where(standard, [item.fitted.mean for item in items], 0.0),
            std=np.where(standard, [item.fitted.std for item in items], 1.0),
            limit=np.where(standard, MAX_STANDARD, np.inf),
            clip=clip if np.isfinite(clip).any() else None,
            index=np.array([item.hashes[0] for item in items], np.uint32).reshape(-1, 2).T,
            sign=np.array([item.hashes[1] for item in items], np.float32).reshape(-1, 2).T,
        )

    def read(self, records: Sequence[Mapping[str, Any]]) -> Array | None:
        """Return the numbers [n, k] of records as models read them; NaN is missing.

        None: one value is no number from -1e15 to 1e15. FittedNumber says which, or reads it.
        """
        values = [list(map(record.get, self.names)) for record in records]
        if not {kind for row in values for kind in set(map(type, row))} <= _NUMBERS:
            return None
        try:
            numbers = np.array(values, np.float64).reshape(len(records), -1)
        except OverflowError:
            return None
        if (np.abs(numbers) > LARGEST).any():
            return None
        if self.clip is not None:
            numbers = np.clip(numbers, *self.clip)
        limited: Array = np.minimum(np.maximum((numbers - self.mean) / self.std, -self.limit), self.limit)
        return limited

    def fill(self, dense: Dense, numbers: Array) -> None:
        """Write numbers [n, k] into their dense columns [n, C]."""
        missing = np.isnan(numbers)
        dense[:, self.column] = np.where(missing, 0.0, numbers)
        dense[:, self.column[self.flagged] + 1] = missing[:, self.flagged]

    def entries(self, numbers: Array) -> tuple[Entries, NDArray[np.int64]]:
        """Return the hashed features [F] of numbers [n, k], and the place of the feature of each."""
        missing = np.isnan(numbers)
        row, place = np.nonzero(~missing | self.flagged)
        form = missing[row, place].astype(np.int64)
        value = np.where(missing, 1.0, numbers)[row, place]
        entries = Entries(row, self.index[form, place], (self.sign[form, place] * value).astype(np.float32))
        return entries, self.order[place]
