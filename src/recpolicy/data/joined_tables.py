"""Read the tables of users and items that accompany ratings: ids, titles, genres, years and attributes of users.

Each table has column names and a separator that may differ from those of the ratings. U users, I items.
"""

import ast
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.data.column_names import ITEM_COLUMNS, USER_COLUMNS, find_columns, possible_names
from recpolicy.data.csv_reader import SEPARATORS, Source, TableFile, header_names, is_parquet, open_table, text_source
from recpolicy.data.ratings import GENRE_SEPARATOR
from recpolicy.data.table_columns import identifiers, numbers, texts

Table = Path | str | pd.DataFrame
_YEAR = r"\((\d{4})(?:[-–]\d{0,4})?\)"


def read_users(table: Table, columns: Mapping[str, str], separator: str | None = None) -> pd.DataFrame:
    """Return the user table: `user_id` first, every other column unchanged.

    Args:
        table: A file or a data frame.
        columns: The name of the column of ids, if it is none of the usual ones: {"user": "uid"}.
        separator: Separator of the ratings, which this file may share.

    Raises:
        DataError: An id is missing or occurs twice, or the file cannot be read.
    """
    file = open_joined(table, "users", "user", columns.get("user"), separator)
    column = find_columns(file.names, USER_COLUMNS, file.source, columns, table="user_columns")["user"]
    users = file.read(file.names)
    ids = identifiers(users[column], "user", file.source)
    check_unique(ids, "user", file.source)
    attributes: pd.DataFrame = users.drop_columns([column]).to_pandas()
    attributes.insert(0, "user_id", ids)
    return attributes


def read_items(
    table: Table, columns: Mapping[str, str], genre_separator: str, separator: str | None = None
) -> pd.DataFrame:
    """Return the item table; titles and genres may be missing, years are taken from the titles unless they are a
    column.

    Args:
        table: A file or a data frame.
        columns: Names of columns that are none of the usual ones: {"item": "ISBN", "title": "name"}.
        genre_separator: Text between two genres. Lists in JSON, of names or of objects with a `name`, need none.
        separator: Separator of the ratings, which this file may share.

    Raises:
        DataError: An id is missing or occurs twice, a year is no number, or the file cannot be read.
    """
    file = open_joined(table, "items", "item", columns.get("item"), separator)
    source = file.source
    names = find_columns(file.names, ITEM_COLUMNS, source, columns, optional=ITEM_COLUMNS[1:], table="item_columns")
    found = file.read([*dict.fromkeys(names.values())])
    ids = identifiers(found[names["item"]], "item", source)
    check_unique(ids, "item", source)
    items = bare_items(ids)
    if "title" in names:
        items["title"] = pd.Series(texts(found[names["title"]]), dtype="str")
        items["year"] = title_years(items["title"])
    if "genres" in names:
        items["genres"] = pd.Series(_genres(found[names["genres"]], genre_separator, source), dtype="str")
    if "year" in names:
        items["year"] = _years(found[names["year"]], source)
    return items


def open_joined(table: Table, name: str, meaning: str, wanted: str | None, separator: str | None) -> TableFile:
    """Open a table; of a text file, take the separator that gives a column of ids."""
    if isinstance(table, pd.DataFrame):
        return frame_table(table, name)
    path = Path(table)
    if path.is_dir() or is_parquet(path):
        return open_table(path)
    headers = {
        candidate: header_names(text_source(path, candidate)) for candidate in dict.fromkeys((separator, *SEPARATORS))
    }
    usual = {*possible_names(meaning, wanted)}
    best = max(headers, key=lambda candidate: (not usual.isdisjoint(headers[candidate]), len(headers[candidate])))
    return open_table(path, best)


def frame_table(frame: pd.DataFrame, name: str) -> TableFile:
    """Return the table of a data frame; raises DataError for a column of several types."""
    try:
        table = pa.Table.from_pandas(frame, preserve_index=False)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise DataError(f"{name}: a column holds values of several types: {error}") from None
    return TableFile(table.column_names, Source(name), table.select)


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


def title_years(titles: Any) -> Any:
    """Return the year in the last parentheses of each title that hold one, as Int64, missing where there is none."""
    year = pd.Series(titles, dtype="str").str.extract(rf".*{_YEAR}", expand=False)
    return pd.to_numeric(year).astype("Int64").array


def _years(column: Any, source: Source) -> Any:
    """Return years as Int64; missing ones stay missing, all others are checked."""
    text = pd.Series(texts(column), dtype="object").str.strip()
    present = text != ""
    years = numbers(pa.array(text.where(present, "0"), pa.string()), "year", source)
    return pd.Series(years.astype("int64"), dtype="Int64").where(present, pd.NA).array


def _genres(column: Any, separator: str, source: Source) -> list[str]:
    """Return the genres of each item [I], separated by GENRE_SEPARATOR."""
    if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
        values = [_names(value or []) for value in column.to_pylist()]
    else:
        values = [_split(text, separator) for text in texts(column)]
    for row, genres in enumerate(values):
        if genres is None:
            raise DataError(
                f"{source.at(row)}: genres {column[row].as_py()!r}: expected names between {separator!r}, or a JSON"
                ' list such as ["Drama"] or [{"name": "Drama"}]'
            )
    return [GENRE_SEPARATOR.join(filter(None, genres or [])) for genres in values]


def _split(text: str, separator: str) -> list[str] | None:
    """Return the genres in a text; None for a list that cannot be read."""
    text = text.strip()
    if not text.startswith("["):
        return [genre.strip() for genre in text.split(separator)]
    try:
        value = json.loads(text)
    except ValueError:
        try:  # Python writes its lists with single quotes
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return _names(value) if isinstance(value, list) else None


def _names(values: list[Any]) -> list[str] | None:
    names = [value.get("name") if isinstance(value, dict) else value for value in values]
    texts = [name for name in names if isinstance(name, str)]
    return texts if len(texts) == len(names) else None
