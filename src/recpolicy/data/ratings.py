"""The ratings table: N ratings of U users on I items.

Users and items are rows of two tables; everywhere else in recpolicy they are row numbers, and ids appear only at the
edges. A table of test ratings shares the user and item tables with its train part, so row numbers mean the same in
both.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import DataError, UnknownIdError
from recpolicy.core.files import Repeated, content_digest

GENRE_SEPARATOR = "|"


@dataclass(frozen=True)
class Ratings:
    """N checked ratings in file order.

    users has the column `user_id` (unique, ids of any one type) and any attributes; items has `item_id` (unique),
    `title` (str), `year` (Int64, may be missing) and `genres` ("Action|Drama", "" when unknown).
    """

    user: NDArray[np.int32]  # [N], row of users
    item: NDArray[np.int32]  # [N], row of items
    rating: NDArray[np.float32]  # [N], within scale
    timestamp: NDArray[np.int64] | None  # [N], seconds since 1970
    users: pd.DataFrame  # U rows
    items: pd.DataFrame  # I rows
    name: str
    scale: tuple[float, float] = (1.0, 5.0)
    source: Mapping[str, Any] | None = field(default=None, compare=False)
    """Arguments of `load_ratings` that read this table, or the one that it is a part of; None if it has no file."""
    merged_rows: int = field(default=0, compare=False)
    """Rows of the file that repeated a pair and were merged when the file was read."""
    watch: NDArray[np.float32] | None = None  # [N]
    """Watch fractions of a click and watch log (response_signals.py), 0 to 1; None for ratings."""
    context: NDArray[Any] | None = None  # [N] text
    """Context of each response of such a log; None for ratings."""

    def __repr__(self) -> str:
        users, items = self.shape
        return f"Ratings({self.name}: {len(self):,} ratings of {users:,} users on {items:,} items)"

    def __post_init__(self) -> None:
        lengths = {len(self.user), len(self.item), len(self.rating)}
        lengths |= {len(part) for part in (self.timestamp, self.watch, self.context) if part is not None}
        if len(lengths) != 1:
            raise DataError(f"{self.name}: columns of different lengths: {sorted(lengths)}")
        if not {"item_id", "title", "year", "genres"} <= set(self.items.columns) or "user_id" not in self.users:
            raise DataError(f"{self.name}: users needs user_id; items needs item_id, title, year and genres")

    def __len__(self) -> int:
        return len(self.rating)

    @property
    def shape(self) -> tuple[int, int]:
        """(U, I)."""
        return len(self.users), len(self.items)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of ids, ratings and times in order: two tables with the same digest are the same table."""
        return content_digest(
            Repeated(self.users["user_id"].to_numpy().astype(str).astype(object), self.user),
            Repeated(self.items["item_id"].to_numpy().astype(str).astype(object), self.item),
            self.rating,
            self.timestamp if self.timestamp is not None else "no timestamps",
            *(part for part in (self.watch, self.context) if part is not None),
        )

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_], name: str | None = None) -> "Ratings":
        """Return the chosen rows (indices or mask) over the same users and items."""
        timestamp = None if self.timestamp is None else self.timestamp[rows]
        watch = None if self.watch is None else self.watch[rows]
        context = None if self.context is None else self.context[rows]
        return replace(
            self, user=self.user[rows], item=self.item[rows], rating=self.rating[rows], timestamp=timestamp,
            name=name or self.name, watch=watch, context=context,
        )  # fmt: skip

    def matrix(self) -> NDArray[np.float32]:
        """Return the ratings as [U, I] with NaN where there is none."""
        dense = np.full(self.shape, np.nan, np.float32)
        dense[self.user, self.item] = self.rating
        return dense

    def rated(self) -> NDArray[np.bool_]:
        """Return True [U, I] where the user has rated the item."""
        rated = np.zeros(self.shape, bool)
        rated[self.user, self.item] = True
        return rated

    def user_rows(self, ids: "list[object] | NDArray[np.generic]") -> NDArray[np.int32]:
        """Return row numbers of user ids; raises UnknownIdError that names up to five unknown ones."""
        return _rows(ids, self.users["user_id"], "user", self.name)

    def item_rows(self, ids: "list[object] | NDArray[np.generic]") -> NDArray[np.int32]:
        """Return row numbers of item ids; raises UnknownIdError that names up to five unknown ones."""
        return _rows(ids, self.items["item_id"], "item", self.name)


def _rows(
    ids: "list[object] | NDArray[np.generic]", known: "pd.Series[Any]", kind: str, where: str
) -> NDArray[np.int32]:
    rows = pd.Index(known).get_indexer(pd.Index(ids))
    if (rows < 0).any():
        unknown = [str(i) for i, row in zip(ids, rows, strict=True) if row < 0]
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise UnknownIdError(f"{where}: no {kind} with id {', '.join(unknown[:5])}{more}")
    return np.asarray(rows, np.int32)


def rating_steps(scale: tuple[float, float]) -> int:
    """Return the number of steps from the lowest to the highest rating: of 1 on whole-number scales, else of 0.5."""
    low, high = scale
    whole = float(low).is_integer() and float(high).is_integer()
    return max(1, round((high - low) * (1 if whole else 2)))


def genre_sets(items: pd.DataFrame) -> list[set[str]]:
    """Return the names of the genres of each item [I]."""
    return [set(filter(None, genres.split(GENRE_SEPARATOR))) for genres in items["genres"].tolist()]


def genre_matrix(items: pd.DataFrame) -> tuple[list[str], NDArray[np.float32]]:
    """Return the genre names, sorted, and a 0/1 matrix [I, G]."""
    sets = genre_sets(items)
    names = sorted(set().union(*sets))
    column = {name: index for index, name in enumerate(names)}
    matrix = np.zeros((len(sets), len(names)), np.float32)
    for row, genres in enumerate(sets):
        matrix[row, [column[genre] for genre in genres]] = 1.0
    return names, matrix


def genre_directions(items: pd.DataFrame) -> NDArray[np.float32]:
    """Return the rows of the genre matrix [I, G] with length 1, so that products are cosines; 0 without genres."""
    _, matrix = genre_matrix(items)
    length: NDArray[np.float32] = np.sqrt(np.square(matrix).sum(axis=1, keepdims=True))
    directions: NDArray[np.float32] = matrix / np.maximum(length, np.float32(1.0))
    return directions
