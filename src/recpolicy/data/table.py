"""Ratings of one's own: a CSV, TSV or Parquet file, or a data frame, with user, item, rating and maybe timestamp.

N ratings. Ids are integers or text; all other columns are ignored. Tables of items (id, title, genres, year) and users
(id and any attributes) may come beside it.
"""

import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from recpolicy.core.errors import ConfigError, DataError, unknown_name
from recpolicy.data.assemble import assemble, bare_items, check_unique
from recpolicy.data.columns import identifiers, numbers, texts
from recpolicy.data.csv_source import Source, read_parquet, read_text
from recpolicy.data.movielens import title_years
from recpolicy.data.ratings import Ratings

COLUMNS = ("user", "item", "rating", "timestamp")
"""What a column can mean; only timestamp may be missing."""
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
            raise unknown_name("rating column", meaning, COLUMNS)
    chosen = {
        meaning: found
        for meaning in COLUMNS
        if (found := _column(table, meaning, source, (columns or {}).get(meaning), needed=meaning != "timestamp"))
    }
    return assemble(
        {meaning: table[found] for meaning, found in chosen.items()},
        source,
        name=name,
        scale=scale,
        users=None if users is None else _users(users),
        items=None if items is None else _items(items),
    )


def _users(given: Path | str | pd.DataFrame) -> pd.DataFrame:
    """The user table: `user_id` first, every other column as it is."""
    table, source = _open_or_frame(given, "users")
    found = _column(table, "user", source, None, needed=True)
    ids = identifiers(table[found], "user", source)
    check_unique(ids, "user", source)
    attributes: pd.DataFrame = table.drop_columns([found]).to_pandas()
    attributes.insert(0, "user_id", ids)
    return attributes


def _items(given: Path | str | pd.DataFrame) -> pd.DataFrame:
    """The item table; titles and genres may be missing, years are taken from the titles unless they are a column."""
    table, source = _open_or_frame(given, "items")
    found = {meaning: _column(table, meaning, source, None, needed=meaning == "item") for meaning in _ITEM_COLUMNS}
    ids = identifiers(table[found["item"]], "item", source)
    check_unique(ids, "item", source)
    items = bare_items(ids)
    if found["title"]:
        items["title"] = pd.Series(texts(table[found["title"]]), dtype="str")
        items["year"] = title_years(items["title"])
    if found["genres"]:
        items["genres"] = pd.Series(texts(table[found["genres"]]), dtype="str")
    if found["year"]:
        items["year"] = _years(table[found["year"]], source)
    return items


_ITEM_COLUMNS = ("item", "title", "genres", "year")


def _years(column: Any, source: Source) -> Any:
    """Years as Int64; missing ones stay missing, all others are checked."""
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
    raise DataError(
        f"{start}: no column {candidates[0]!r} for the {meaning}.{hint} Found: {', '.join(names)}. The first line "
        f'names the columns; another name is given as columns={{"{meaning}": NAME}} (--{meaning} NAME)'
    )


def _open_or_frame(given: Path | str | pd.DataFrame, name: str) -> tuple[Any, Source]:
    if isinstance(given, pd.DataFrame):
        return _from_frame(given, name), Source(name)
    return _open(Path(given), None)


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
