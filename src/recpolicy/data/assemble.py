"""Checked columns become a Ratings table: ids become row numbers, every rating is within scale, no pair comes twice.

N ratings. The one place where rows of any file format meet the rules of the ratings table.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.data.columns import identifiers, numbers, seconds
from recpolicy.data.csv_source import Source
from recpolicy.data.ratings import Ratings


def assemble(
    columns: dict[str, Any],
    source: Source,
    *,
    name: str,
    scale: tuple[float, float],
    users: pd.DataFrame | None = None,
    items: pd.DataFrame | None = None,
) -> Ratings:
    """Return the Ratings of Arrow columns user, item, rating and, where there is one, timestamp (each [N]).

    Without a table of users (or items) the ids that occur make one, sorted; an item's title is then its id. Raises
    DataError that names file, line and value.
    """
    if len(columns["rating"]) == 0:
        raise DataError(f"{source.path}: the file is empty; expected rows of ratings")
    user_id = identifiers(columns["user"], "user", source)
    item_id = identifiers(columns["item"], "item", source)
    rating = _within(numbers(columns["rating"], "rating", source), scale, source)
    timestamp = seconds(columns["timestamp"], source) if "timestamp" in columns else None
    if users is None:
        users = pd.DataFrame({"user_id": _sorted_ids(user_id)})
    if items is None:
        items = bare_items(_sorted_ids(item_id))
    user = _rows(user_id, users["user_id"], "user", source)
    item = _rows(item_id, items["item_id"], "item", source)
    _refuse_duplicates(user, item, users, items, source)
    return Ratings(user, item, rating, timestamp, users, items, name=name, scale=scale)


def bare_items(ids: NDArray[Any]) -> pd.DataFrame:
    """Return the item table of which only the ids are known."""
    title = pd.Series([str(item_id) for item_id in ids], dtype="str")
    genres = pd.Series([""] * len(ids), dtype="str")
    year = pd.array([pd.NA] * len(ids), dtype="Int64")
    return pd.DataFrame({"item_id": ids, "title": title, "year": year, "genres": genres})


def check_unique(ids: "pd.Series[Any] | NDArray[Any]", what: str, source: Source) -> None:
    """Raise DataError that names both lines when an id comes twice in a table of users or items."""
    values = pd.Series(ids)
    again = values.duplicated().to_numpy()
    if again.any():
        row = int(again.argmax())
        first = int((values == values[row]).to_numpy().argmax())
        raise DataError(f"{source.at(row)}: {what} id {values[row]} is already at {source.at(first)}")


def _sorted_ids(ids: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.sort(pd.unique(ids)))


def _within(rating: NDArray[np.float64], scale: tuple[float, float], source: Source) -> NDArray[np.float32]:
    low, high = scale
    bad = (rating < low) | (rating > high)
    if bad.any():
        row = int(bad.argmax())
        raise DataError(
            f"{source.at(row)}: rating {rating[row]:g} is not in {low:g}..{high:g}; if the ratings have another scale, "
            f"give it (scale=({min(low, rating.min()):g}, {max(high, rating.max()):g}) would hold them all)"
        )
    return rating.astype(np.float32)


def _rows(ids: NDArray[Any], known: "pd.Series[Any]", what: str, source: Source) -> NDArray[np.int32]:
    rows = pd.Index(known).get_indexer(pd.Index(ids))
    if (rows < 0).any():
        row = int((rows < 0).argmax())
        raise DataError(f"{source.at(row)}: {what} id {ids[row]} is not in the table of {what}s")
    return np.asarray(rows, np.int32)


def _refuse_duplicates(
    user: NDArray[np.int32], item: NDArray[np.int32], users: pd.DataFrame, items: pd.DataFrame, source: Source
) -> None:
    pair = user.astype(np.int64) * len(items) + item  # [N]
    again = pd.Series(pair).duplicated().to_numpy()
    if again.any():
        row = int(again.argmax())
        first = int((pair == pair[row]).argmax())
        user_id, item_id = users["user_id"].iloc[user[row]], items["item_id"].iloc[item[row]]
        raise DataError(
            f"{source.at(row)}: user {user_id} rated item {item_id} before, at {source.at(first)}; "
            "keep one rating of each pair"
        )
