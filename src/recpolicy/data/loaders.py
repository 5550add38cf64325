"""One door to ratings: the name of a data set, a MovieLens folder, a file of one's own, a folder of saved ratings."""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.datasets import DATASETS, data_folder
from recpolicy.data.movielens import read_movielens
from recpolicy.data.ratings import Ratings
from recpolicy.data.ratings_store import is_saved_ratings, load_saved_ratings
from recpolicy.data.table import read_table

NAMES = ("ml-100k", "ml-1m", "ml-25m", "ml-32m", "ml-latest", "ml-latest-small")
"""MovieLens folders that are found by their name alone, in RECPOLICY_DATA or the current directory."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """How a ratings file of one's own is read: the `[data]` table of a config file."""

    columns: dict[str, str] | None = None
    """What the columns are called where that is not user, item, rating, timestamp: {"user": "uid"}."""
    scale: tuple[float, float] | None = None
    """Lowest and highest rating possible; 1 to 5 when left out."""
    separator: str | None = None
    """Separator of a text file; a tab for .tsv, else a comma."""
    users: str | None = None
    """Table of user attributes to join."""
    items: str | None = None
    """Table of titles and genres to join."""


def load_ratings(
    name_or_path: str | Path,
    *,
    columns: Mapping[str, str] | None = None,
    scale: tuple[float, float] | None = None,
    separator: str | None = None,
    users: Path | str | None = None,
    items: Path | str | None = None,
) -> Ratings:
    """Load ratings by name ("ml-100k"), from a MovieLens folder, a CSV, TSV or Parquet file, or a folder of saved ones.

    The options are those of `read_table` and for such files only. Raises DataError naming file, line and value where
    the data is not what it should be, and saying what to do where it is not there; ArtifactError for a folder of saved
    ratings that is damaged.
    """
    given = {"columns": columns, "scale": scale, "separator": separator, "users": users, "items": items}
    options = {key: value for key, value in given.items() if value is not None}
    path = data_folder(str(name_or_path)) if str(name_or_path) in NAMES else Path(name_or_path)
    if path.is_dir() or str(name_or_path) in NAMES:
        if options:
            raise ConfigError(f"{path}: {', '.join(options)}: options of CSV and Parquet files, not of folders")
        return _read_folder(path, str(name_or_path))
    if not path.exists():
        raise _nothing_there(str(name_or_path))
    return read_table(path, columns=columns, scale=scale or (1.0, 5.0), separator=separator, users=users, items=items)


def _read_folder(path: Path, name: str) -> Ratings:
    if is_saved_ratings(path):
        return load_saved_ratings(path)
    if name in DATASETS and not (path / "u.data").is_file():
        raise DataError(f"{path}: {name} is not here; run: recpolicy data fetch")
    if not path.is_dir():
        raise DataError(f"{path}: no such folder; download {name} from GroupLens and unpack it there")
    return read_movielens(path)


def _nothing_there(name: str) -> DataError:
    close = difflib.get_close_matches(name, NAMES, n=1)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return DataError(f"{name}: no such file or folder.{hint} Known by name: {', '.join(NAMES)}")
