"""Load ratings by the name of a data set, from a MovieLens folder, a file, a data frame, or a folder of saved
ratings."""

import difflib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from recpolicy.core.config import Number, config_dataclass
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.datasets import DATASETS, data_folder
from recpolicy.data.movielens import read_movielens
from recpolicy.data.ratings import Ratings
from recpolicy.data.ratings_files import ratings_from_frame, read_table
from recpolicy.data.ratings_store import is_saved_ratings, load_saved_ratings
from recpolicy.data.read_options import reading_for

NAMES = ("ml-100k", "ml-1m", "ml-25m", "ml-32m", "ml-latest", "ml-latest-small")
"""MovieLens folders that are found by their name alone, in RECPOLICY_DATA or the current directory."""


@config_dataclass
class DataConfig:
    """Options for reading a ratings file: the `[data]` table of a config file."""

    columns: dict[str, str] | None = None
    """Names of columns that differ from user, item, rating and timestamp: {"user": "uid"}."""
    scale: tuple[Number, Number] | None = None
    """Lowest and highest rating possible; 1 to 5 when left out."""
    separator: str | None = None
    """Separator of a text file; a tab for .tsv, else a comma."""
    users: str | None = None
    """Table of user attributes to join."""
    items: str | None = None
    """Table of titles and genres to join."""


def load_ratings(
    source: "str | Path | pd.DataFrame",
    *,
    columns: Mapping[str, str] | None = None,
    scale: tuple[Number, Number] | None = None,
    separator: str | None = None,
    users: "Path | str | pd.DataFrame | None" = None,
    items: "Path | str | pd.DataFrame | None" = None,
) -> Ratings:
    """Load a ratings table, checked row by row.

    Args:
        source: A name ("ml-100k"), a MovieLens folder, a CSV, TSV or Parquet file, a data frame, or a folder that
            `save_ratings` wrote.
        columns: Names of columns that differ from user, item, rating and timestamp, such as {"user": "uid"}.
        scale: Lowest and highest possible rating; 1 to 5 if None.
        separator: Separator of a text file; a tab for .tsv and a comma for others if None.
        users: Table of user attributes to join: a file or a data frame.
        items: Table of titles, genres and years to join: a file or a data frame.

    Returns:
        The ratings; users and items are row numbers of its two tables.

    Raises:
        DataError: The data are missing or faulty; the message names file, line and value.
        ArtifactError: A folder of saved ratings is damaged.
        ConfigError: An option does not apply to this source.
    """
    arguments = {"columns": columns, "scale": scale, "separator": separator, "users": users, "items": items}
    options = {key: value for key, value in arguments.items() if value is not None}
    ratings = _load(source, options)
    frames = [part for part in (source, users, items) if isinstance(part, pd.DataFrame)]
    plain = {key: str(value) if isinstance(value, Path) else value for key, value in options.items()}
    return ratings if frames else replace(ratings, source={"source": str(source), **plain})


def _load(source: "str | Path | pd.DataFrame", options: Mapping[str, Any]) -> Ratings:
    table_options = {"scale": (1.0, 5.0), **options}
    if isinstance(source, pd.DataFrame):
        if "separator" in options:
            raise ConfigError("separator is an option of text files; a data frame has none")
        return ratings_from_frame(source, **table_options)
    path = data_folder(str(source)) if str(source) in NAMES else Path(source)
    if path.is_dir() or str(source) in NAMES:
        if options:
            raise ConfigError(f"{path}: {', '.join(options)}: options of CSV and Parquet files, not of folders")
        return _read_folder(path, str(source))
    if not path.exists():
        raise _nothing_there(str(source))
    return read_table(path, **table_options)


def check_source(source: str) -> None:
    """Raise DataError if there is no file or folder of this name, and it is no data set that can be downloaded."""
    if source not in DATASETS and not (data_folder(source) if source in NAMES else Path(source)).exists():
        raise _nothing_there(source)


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
    close = difflib.get_close_matches(name, NAMES, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return DataError(f"{name}: no such file or folder.{hint} Known by name: {', '.join(NAMES)}")
