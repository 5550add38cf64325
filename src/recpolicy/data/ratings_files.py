"""Read ratings tables from CSV, TSV and Parquet files and from data frames.

A table has the columns user, item and rating and, if known, timestamp; other columns are ignored. Ids are integers or
text. Tables of items (id, title, genres, year) and users (id and any attributes) may accompany it. N ratings.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError, unknown_name_error
from recpolicy.data.csv_reader import Source, identifiers, numbers, read_parquet, read_text, seconds, texts
from recpolicy.data.ratings import Ratings
from recpolicy.data.read_options import column_error, reading_for, scale_error


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
        fact = f"{source.at(row)}: rating {rating[row]:g} is not in {low:g}..{high:g}"
        raise scale_error(fact, min(low, rating.min()), max(high, rating.max()))
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


COLUMNS = ("user", "item", "rating", "timestamp")
"""Meanings of columns; only timestamp may be missing."""
_ALIASES: Mapping[str, tuple[str, ...]] = {
    "user": ("user", "user_id", "userId"),
    "item": ("item", "item_id", "itemId", "movie", "movie_id", "movieId"),
    "rating": ("rating",),
    "timestamp": ("timestamp",),
    "title": ("title",),
    "genres": ("genres",),
    "year": ("year",),
}
"""Names under which a column is found without being mapped."""


def read_table(
    path: Path | str,
    *,
    columns: Mapping[str, str] | None = None,
    scale: tuple[float, float] = (1.0, 5.0),
    separator: str | None = None,
    users: Path | str | pd.DataFrame | None = None,
    items: Path | str | pd.DataFrame | None = None,
    name: str | None = None,
) -> Ratings:
    """Read a ratings file, checked row by row.

    columns: what the columns are called in the file where that is not user, item, rating, timestamp, such as
    {"user": "uid"}. scale: lowest and highest rating possible. separator: of a text file; by default a tab for .tsv,
    else a comma. users, items: tables of the same kinds to join. Raises DataError that names file, line and value.
    """
    path = Path(path)
    table, source = _open(path, separator)
    return _assemble(table, source, columns, scale, users, items, name or path.name.partition(".")[0])


def ratings_from_frame(
    frame: pd.DataFrame,
    *,
    columns: Mapping[str, str] | None = None,
    scale: tuple[float, float] = (1.0, 5.0),
    users: Path | str | pd.DataFrame | None = None,
    items: Path | str | pd.DataFrame | None = None,
    name: str = "frame",
) -> Ratings:
    """Return the ratings of a data frame, checked as those of `read_table`; rows are counted from 1 in errors."""
    return _assemble(_from_frame(frame, name), Source(name), columns, scale, users, items, name)


def _assemble(
    table: Any,
    source: Source,
    columns: Mapping[str, str] | None,
    scale: tuple[float, float],
    users: Path | str | pd.DataFrame | None,
    items: Path | str | pd.DataFrame | None,
    name: str,
) -> Ratings:
    if not scale[0] < scale[1]:
        raise ConfigError(f"scale {scale}: the lowest rating must be below the highest")
    for meaning in columns or {}:
        if meaning not in COLUMNS:
            raise unknown_name_error("rating column", meaning, COLUMNS)
    chosen = {
        meaning: column
        for meaning in COLUMNS
        if (column := _column(table, meaning, source, (columns or {}).get(meaning), needed=meaning != "timestamp"))
    }
    return assemble(
        {meaning: table[column] for meaning, column in chosen.items()},
        source,
        name=name,
        scale=scale,
        users=None if users is None else _users(users),
        items=None if items is None else _items(items),
    )


@reading_for("file")  # options are for the ratings, not for the tables that accompany them
def _users(source_or_frame: Path | str | pd.DataFrame) -> pd.DataFrame:
    """Return the user table: `user_id` first, every other column as it is."""
    table, source = _open_or_frame(source_or_frame, "users")
    column = _column(table, "user", source, None, needed=True)
    ids = identifiers(table[column], "user", source)
    check_unique(ids, "user", source)
    attributes: pd.DataFrame = table.drop_columns([column]).to_pandas()
    attributes.insert(0, "user_id", ids)
    return attributes


@reading_for("file")
def _items(source_or_frame: Path | str | pd.DataFrame) -> pd.DataFrame:
    """Return the item table; titles and genres may be missing, years are taken from the titles unless they are a
    column."""
    table, source = _open_or_frame(source_or_frame, "items")
    columns = {meaning: _column(table, meaning, source, None, needed=meaning == "item") for meaning in _ITEM_COLUMNS}
    ids = identifiers(table[columns["item"]], "item", source)
    check_unique(ids, "item", source)
    items = bare_items(ids)
    if columns["title"]:
        items["title"] = pd.Series(texts(table[columns["title"]]), dtype="str")
        items["year"] = title_years(items["title"])
    if columns["genres"]:
        items["genres"] = pd.Series(texts(table[columns["genres"]]), dtype="str")
    if columns["year"]:
        items["year"] = _years(table[columns["year"]], source)
    return items


_ITEM_COLUMNS = ("item", "title", "genres", "year")


def _years(column: Any, source: Source) -> Any:
    """Return years as Int64; missing ones stay missing, all others are checked."""
    text = pd.Series(texts(column), dtype="object").str.strip()
    present = text != ""
    years = numbers(pa.array(text.where(present, "0"), pa.string()), "year", source)
    return pd.Series(years.astype("int64"), dtype="Int64").where(present, pd.NA).array


def _column(table: Any, meaning: str, source: Source, wanted: str | None, *, needed: bool) -> str | None:
    """Return the name in the table of the column with this meaning; None when it may be and is missing."""
    names: Sequence[str] = table.column_names
    candidates = _ALIASES[meaning] if wanted is None else (wanted,)
    for candidate in candidates:
        if list(names).count(candidate) > 1:
            raise DataError(f"{source.path}: two columns named {candidate!r}")
        if candidate in names:
            return candidate
    if not needed and wanted is None:
        return None
    close = difflib.get_close_matches(candidates[0], names, n=1, cutoff=0.5)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    start = f"{source.path}:1" if source.separator else str(source.path)
    fact = f"{start}: no column {candidates[0]!r} for the {meaning}.{hint} Found in the first line: {', '.join(names)}"
    raise column_error(fact, meaning)


def _open_or_frame(source_or_frame: Path | str | pd.DataFrame, name: str) -> tuple[Any, Source]:
    if isinstance(source_or_frame, pd.DataFrame):
        return _from_frame(source_or_frame, name), Source(name)
    return _open(Path(source_or_frame), None)


def _open(path: Path, separator: str | None) -> tuple[Any, Source]:
    """Read a file by what its name ends in."""
    if path.is_dir():
        raise DataError(f"{path}: a folder; expected a CSV, TSV or Parquet file")
    if ".parquet" in path.suffixes or ".pq" in path.suffixes:
        return read_parquet(path), Source(path)
    tabs = {".tsv", ".tab"} & set(path.suffixes)
    source = Source(path, separator or ("\t" if tabs else ","))
    return read_text(source), source


def _from_frame(frame: pd.DataFrame, name: str) -> Any:
    try:
        return pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"{name}: a column holds values of several types: {error}") from None


_YEAR = r"\((\d{4})(?:[-–]\d{0,4})?\)"


def title_years(titles: "Sequence[str] | NDArray[Any] | pd.Series[Any]") -> Any:
    """Return the year in the last parentheses of each title that hold one, as Int64, missing where there is none."""
    year = pd.Series(titles, dtype="str").str.extract(rf".*{_YEAR}", expand=False)
    return pd.to_numeric(year).astype("Int64").array
