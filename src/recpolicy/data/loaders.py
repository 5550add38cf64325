"""Load ratings by the name of a data set, from a MovieLens folder, a file, a data frame, or a folder of saved
ratings."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from recpolicy.core.config import Number, as_dict, build, config_dataclass
from recpolicy.core.errors import ConfigError, DataError, suggest_name
from recpolicy.data.csv_reader import find_parts
from recpolicy.data.datasets import DATASETS, data_folder
from recpolicy.data.movielens import FOLDER_KINDS, read_movielens
from recpolicy.data.ratings import Ratings
from recpolicy.data.ratings_files import check_columns, ratings_from_frame, read_table
from recpolicy.data.ratings_store import is_saved_ratings, load_saved_ratings
from recpolicy.data.read_options import reading_for

NAMES = ("ml-100k", "ml-1m", "ml-25m", "ml-32m", "ml-latest", "ml-latest-small")
"""MovieLens folders that are found by their name alone, in RECPOLICY_DATA or the current directory."""


@config_dataclass
class DataConfig:
    """Options for reading a ratings file: the `[data]` table of a config file."""

    columns: dict[str, str] | None = None
    """Names of columns that differ from user, item, rating and timestamp: {"user": "uid"}. In a file without a header,
    their places, from 1."""
    scale: tuple[Number, Number] | None = None
    """Lowest and highest rating possible; 1 to 5 when left out."""
    separator: str | None = None
    """Separator of a text file, of one or more characters; a tab for .tsv, else a comma."""
    header: bool | None = None
    """False for a text file whose first line has no names; its columns are user, item, rating and timestamp."""
    timestamps: bool | None = None
    """False leaves out the times."""
    repeated: str | None = None
    """Rule for several ratings of one user and item: last, first or mean keep one; refuse (the default) is an error."""
    users: str | None = None
    """Table of user attributes to join."""
    items: str | None = None
    """Table of titles and genres to join."""
    user_columns: dict[str, str] | None = None
    """Name of the column of ids in `users`: {"user": "uid"}."""
    item_columns: dict[str, str] | None = None
    """Names of columns of `items` that differ from item, title, genres and year: {"item": "ISBN"}."""
    signals: dict[str, str] | None = None
    """Columns of responses in place of ratings: {"clicked": "is_click", "watch_time": "seconds"}. Signals are clicked,
    completed, watch_time, duration, watch_fraction and context."""
    genre_separator: str | None = None
    """Text between two genres in `items`; | when left out. Lists in JSON need none."""


def data_options(settings: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the arguments of `load_ratings` that a table [data] holds; raises ConfigError for a wrong one."""
    options = as_dict(build(DataConfig, settings, where))
    return {name: value for name, value in options.items() if value is not None}


def load_ratings(
    source: "str | Path | pd.DataFrame",
    *,
    columns: Mapping[str, str] | None = None,
    scale: tuple[Number, Number] | None = None,
    separator: str | None = None,
    header: bool | None = None,
    timestamps: bool | None = None,
    repeated: str | None = None,
    users: "Path | str | pd.DataFrame | None" = None,
    items: "Path | str | pd.DataFrame | None" = None,
    user_columns: Mapping[str, str] | None = None,
    item_columns: Mapping[str, str] | None = None,
    genre_separator: str | None = None,
    signals: Mapping[str, str] | None = None,
) -> Ratings:
    """Load a ratings table, checked row by row.

    Args:
        source: A name ("ml-100k"), a MovieLens folder, a CSV, TSV or Parquet file, a folder with the parts of such a
            file, a data frame, or a folder that `save_ratings` wrote.
        columns: Names of columns that differ from user, item, rating and timestamp, such as {"user": "uid"}; in a file
            without a header their places, from 1.
        scale: Lowest and highest possible rating; 1 to 5 if None.
        separator: Separator of a text file, of one or more characters; a tab for .tsv and a comma for others if None.
        header: False for a text file whose first line has no names. Its columns are then user, item, rating and, if
            there is a fourth, timestamp, unless `columns` gives other places.
        timestamps: False leaves out the times, for example a column with gaps.
        repeated: Rule for several ratings of one user and item: "last", "first" (in time, or else in the file) or
            "mean" keep one; "refuse", the default, is an error. `Ratings.merged_rows` is the number of merged rows.
        users: Table of user attributes to join: a file or a data frame.
        items: Table of titles, genres and years to join: a file or a data frame.
        user_columns: Name of the column of ids in `users`, such as {"user": "uid"}.
        item_columns: Names of columns in `items` that differ from item, title, genres and year, such as
            {"item": "ISBN"}.
        genre_separator: Text between two genres; "|" if None. Lists in JSON need none.
        signals: Columns of responses in place of ratings, such as {"clicked": "is_click", "watch_time": "seconds"}: a
            click and watch log, a row for each item shown. Ratings are then levels of the response, on a scale of 1 to
            5, see data/response_signals.py.

    Returns:
        The ratings; users and items are row numbers of its two tables.

    Raises:
        DataError: The data are missing or faulty; the message names file, line and value.
        ArtifactError: A folder of saved ratings is damaged.
        ConfigError: An option is out of range, or does not apply to this source.
    """
    arguments: dict[str, Any] = {
        "columns": columns, "scale": scale, "separator": separator, "header": header, "timestamps": timestamps,
        "repeated": repeated, "users": users, "items": items, "user_columns": user_columns,
        "item_columns": item_columns, "genre_separator": genre_separator, "signals": signals,
    }  # fmt: skip
    options = {key: value for key, value in arguments.items() if value is not None}
    ratings = _load(source, options)
    frames = [part for part in (source, users, items) if isinstance(part, pd.DataFrame)]
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    return ratings if frames else replace(ratings, source={"source": str(source), **plain})


def _load(source: "str | Path | pd.DataFrame", options: Mapping[str, Any]) -> Ratings:
    if isinstance(source, pd.DataFrame):
        if {"separator", "header"} & {*options}:
            raise ConfigError("separator and header are options of text files; a data frame has none")
        return ratings_from_frame(source, **options)
    path = data_folder(str(source)) if str(source) in NAMES else Path(source)
    if path.is_dir() and not _is_known_folder(path) and str(source) not in NAMES and find_parts(path):
        return read_table(path, **options)
    if path.is_dir() or str(source) in NAMES:
        if options:
            raise ConfigError(f"{path}: {', '.join(options)}: options of CSV and Parquet files, not of folders")
        return _read_folder(path, str(source))
    if not path.exists():
        raise _nothing_there(str(source))
    return read_table(path, **options)


def check_source(source: str, options: Mapping[str, Any] | None = None) -> None:
    """Check what is quick to check of a table: that it exists, or can be downloaded, and has the columns.

    Args:
        source: A source of `load_ratings`.
        options: Its further arguments.

    Raises:
        DataError: There is no file or folder of this name, or a column is missing.
        ConfigError: An option is out of range.
    """
    path = data_folder(source) if source in NAMES else Path(source)
    if source not in DATASETS and not path.exists():
        raise _nothing_there(source)
    for name in ("users", "items"):
        table = (options or {}).get(name)
        if table is not None and not Path(table).exists():
            raise DataError(f"{table}: no such file; expected a table of {name}")
    if path.is_file():
        check_columns(path, **(options or {}))


def _is_known_folder(path: Path) -> bool:
    """Return True for a folder of saved ratings or of MovieLens, whose files need no options."""
    return is_saved_ratings(path) or any((path / file).is_file() for file in FOLDER_KINDS)


def _read_folder(path: Path, name: str) -> Ratings:
    if is_saved_ratings(path):
        return load_saved_ratings(path)
    if name in DATASETS and not (path / "u.data").is_file():
        raise DataError(f"{path}: {name} is not here; run: recpolicy data fetch")
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; download {name} from GroupLens and unpack it there")
    with reading_for("file"):
        return read_movielens(path)


def _nothing_there(name: str) -> DataError:
    return DataError(f"{name}: no such file or folder.{suggest_name(name, NAMES)} Known by name: {', '.join(NAMES)}")
