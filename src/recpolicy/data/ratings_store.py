"""Save a ratings table and load it back equal: rows, order, ids, types and missing values.

    recpolicy.json     format, name, scale, digest, column types, the split and digests of the files below
    ratings.parquet    user row, item row, rating, timestamp, watch and context where there are; N rows in file order
    users.parquet      the user table        items.parquet   the item table

The folder appears complete or not at all; a truncated, changed or foreign one raises ArtifactError. A split is saved as
its name and seed; loading applies the rule again and compares digests.
"""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recpolicy.core.errors import ArtifactError, DataError, RecpolicyError
from recpolicy.core.files import (
    atomic_directory,
    content_digest,
    file_digest,
    read_versioned_json,
    rename_keys,
    write_json,
)
from recpolicy.data.ratings import Ratings
from recpolicy.data.splits import Split
from recpolicy.data.splits import split as split_ratings

FORMAT = "recpolicy ratings"
FORMAT_VERSION = 2
MANIFEST = "recpolicy.json"
RATINGS, USERS, ITEMS = "ratings.parquet", "users.parquet", "items.parquet"
_AGAIN = "save the ratings again"
_OLD_COLUMNS = {"movie": "item", "movie_id": "item_id"}
"""Columns of version 1 and their current names."""


def _from_version_1(body: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest with items in place of movies; `paths` and `columns` tell what the other files have."""
    types, files = body["types"], body["files"]
    return {
        **body,
        "types": {USERS: types[USERS], ITEMS: rename_keys(types["movies.parquet"], _OLD_COLUMNS)},
        "files": {RATINGS: files[RATINGS], USERS: files[USERS], ITEMS: files["movies.parquet"]},
        "paths": {ITEMS: "movies.parquet"},
        "columns": {RATINGS: _OLD_COLUMNS, ITEMS: _OLD_COLUMNS},
    }


_MIGRATIONS = {1: _from_version_1}


def save_ratings(ratings: Ratings, folder: Path, *, split: tuple[str, int] | None = None) -> None:
    """Write the table to `folder`, atomically; an older one there is replaced. split: name and seed, kept with it.

    Raises ConfigError for an unknown split, DataError where the split leaves a part empty or where a column of users or
    items would change when it is read again (mixed types); nothing is written then.
    """
    parts = None if split is None else split_ratings(ratings, *split)
    with atomic_directory(folder) as temporary:
        _write_tables(ratings, temporary)
        body = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "name": ratings.name,
            "scale": list(ratings.scale),
            "source": None if ratings.source is None else dict(ratings.source),
            "digest": ratings.digest,
            "types": {USERS: _types(ratings.users), ITEMS: _types(ratings.items)},
            "split": None if parts is None else {"name": parts.name, "seed": parts.seed, "digest": parts.digest},
            "files": {name: file_digest(temporary / name) for name in (RATINGS, USERS, ITEMS)},
        }
        write_json(temporary / MANIFEST, {**body, "manifest_digest": content_digest(body)})
        _check_same(ratings, _read(temporary, body))


def load_saved_ratings(folder: Path) -> Ratings:
    """Read a table back, equal to the saved one; raises ArtifactError for a damaged, changed or foreign folder."""
    return _read(folder, _read_manifest(folder))


def load_saved_split(folder: Path) -> Split:
    """Read the table and make the split that was saved with it; the parts are those of then, in the same order.

    Raises ArtifactError as `load_saved_ratings` does and where the split has changed, DataError without a split.
    """
    body = _read_manifest(folder)
    saved = body["split"]
    if saved is None:
        raise DataError(f"{folder}: these ratings were saved without a split; save them with one, such as u1")
    try:
        parts = split_ratings(_read(folder, body), saved["name"], saved["seed"])
    except ArtifactError:
        raise
    except (RecpolicyError, KeyError, TypeError) as error:
        raise ArtifactError(f"{folder}: its split {saved} cannot be computed by this recpolicy: {error}") from None
    if parts.digest != saved.get("digest"):
        raise ArtifactError(f"{folder}: split {parts.name!r} gives other parts than at the time of saving; {_AGAIN}")
    return parts


def saved_split_name(folder: Path) -> str | None:
    """Return the name of the split saved with the table, or None; raises ArtifactError for other folders."""
    saved = _read_manifest(folder).get("split")
    return None if saved is None else str(saved["name"])


def is_saved_ratings(folder: Path) -> bool:
    """Return True if the folder has the manifest of `save_ratings`; `load_saved_ratings` checks its content."""
    return (folder / MANIFEST).is_file()


def _write_tables(ratings: Ratings, folder: Path) -> None:
    columns = {
        "user": ratings.user, "item": ratings.item, "rating": ratings.rating, "timestamp": ratings.timestamp,
        "watch": ratings.watch, "context": ratings.context,
    }  # fmt: skip
    pq.write_table(pa.table({name: values for name, values in columns.items() if values is not None}), folder / RATINGS)
    for file, table in ((USERS, ratings.users), (ITEMS, ratings.items)):
        try:
            table.to_parquet(folder / file, engine="pyarrow")
        except (pa.ArrowException, TypeError, ValueError) as error:
            reason = " ".join(map(str, error.args))
            raise DataError(f"{ratings.name}: {file}: a column cannot be stored in Parquet: {reason}") from None


def _types(table: pd.DataFrame) -> dict[str, str]:
    return {str(name): str(dtype) for name, dtype in table.dtypes.items()}


def _read_manifest(folder: Path) -> dict[str, Any]:
    """Return the checked content of recpolicy.json, without its own digest."""
    path = folder / MANIFEST
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder; expected a {FORMAT} folder")
    return read_versioned_json(path, FORMAT, FORMAT_VERSION, _MIGRATIONS, digest_key="manifest_digest", advice=_AGAIN)


def _read(folder: Path, body: dict[str, Any]) -> Ratings:
    try:
        files = {name: _file(folder, name, body) for name in (RATINGS, USERS, ITEMS)}
        columns = {name: files[RATINGS][name].to_numpy().copy() for name in files[RATINGS].column_names}
        tables = {name: _table(files[name], body["types"][name]) for name in (USERS, ITEMS)}
        ratings = Ratings(
            columns["user"], columns["item"], columns["rating"], columns.get("timestamp"), tables[USERS],
            tables[ITEMS], name=body["name"], scale=tuple(body["scale"]), source=body.get("source"),
            watch=columns.get("watch"), context=columns.get("context"),
        )  # fmt: skip
        actual = ratings.digest
    except (KeyError, IndexError, TypeError, ValueError, OSError, pa.ArrowException) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{folder}: not a {FORMAT} folder that this recpolicy can read: {error}") from None
    if actual != body["digest"]:
        raise ArtifactError(f"{folder}: its ratings do not match the digest in its {MANIFEST}; {_AGAIN}")
    return ratings


def _file(folder: Path, name: str, body: dict[str, Any]) -> Any:
    """Return the Arrow table of a file, with the current names of its columns."""
    table = _checked(folder / body.get("paths", {}).get(name, name), body["files"].get(name))
    old_names = body.get("columns", {}).get(name, {})
    return table.rename_columns([old_names.get(column, column) for column in table.column_names])


def _checked(path: Path, digest: str | None) -> Any:
    """Return the Arrow table of a file that has not changed."""
    if not path.is_file():
        raise ArtifactError(f"{path}: missing; copy the folder whole or {_AGAIN}")
    if file_digest(path) != digest:
        raise ArtifactError(f"{path}: changed since it was written (its digest differs); copy it again or {_AGAIN}")
    with pq.ParquetFile(path) as file:
        return file.read()


def _table(stored: Any, types: dict[str, str]) -> pd.DataFrame:
    """Return the data frame with the column types it had; Arrow would read text columns of type object as str."""
    table: pd.DataFrame = stored.to_pandas()
    for name, dtype in types.items():
        if str(table[name].dtype) != dtype:
            values = stored[name].to_pylist() if dtype == "object" else table[name].array
            table[name] = pd.Series(values, index=table.index, dtype=dtype)
    return table


def _equal(before: "pd.Series[Any]", after: "pd.Series[Any]") -> bool:
    """Same type, same values and the same kind of missing value, which `equals` does not tell apart in objects."""
    if before.dtype != after.dtype or not before.equals(after):
        return False
    return before.dtype != object or list(map(str, before)) == list(map(str, after))


def _check_same(saved: Ratings, back: Ratings) -> None:
    """Raise DataError for a column of users or items that changed when it was saved and read."""
    for kind, before, after in (("users", saved.users, back.users), ("items", saved.items, back.items)):
        for name in before.columns:
            if not _equal(before[name], after[name]):
                raise DataError(
                    f"{saved.name}: column {name!r} of {kind} (type {before[name].dtype}) changes when it is saved and "
                    "read; give it one type, with None for missing values"
                )
