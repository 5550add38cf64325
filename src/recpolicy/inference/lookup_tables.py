"""Tables of users and items of a policy (ids, titles, genres, years) as JSON, read without pandas and pyarrow.

U users, I items, G genres; row u or i here is row u or i of the policy's arrays.

    {"format": "recpolicy tables", "version": 2, "user_id": [U], "item_id": [I], "title": [I], "year": [I],
     "genre_names": [G], "genres": [I] lists of places in genre_names}
"""

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ArtifactError
from recpolicy.core.files import Migration, read_versioned_json, rename_keys
from recpolicy.core.memory import available_bytes
from recpolicy.inference.artifact_checks import check_tables, max_tables_bytes

if TYPE_CHECKING:
    import pandas as pd

TABLES = "tables.json"
_SHOWN_LETTERS = 300
"""Longer titles are cut for answers; items.parquet has them in full."""
_FORMAT, _FORMAT_VERSION = "recpolicy tables", 2
_MIGRATIONS: Mapping[int, Migration] = {1: lambda body: rename_keys(body, {"movie_id": "item_id"})}


@dataclass(frozen=True)
class LookupTables:
    """Users and items in row order."""

    user_ids: list[Hashable]  # [U] numbers or text
    item_ids: list[Hashable]  # [I]
    titles: list[str | None]  # [I] None where there is none
    years: NDArray[np.float64]  # [I] NaN where unknown
    genre_names: list[str]  # [G] sorted
    genres: NDArray[np.bool_]  # [I, G]


def lookup_tables(users: "pd.DataFrame", items: "pd.DataFrame") -> LookupTables:
    """Return the tables of a Ratings as plain lists and arrays."""
    from recpolicy.data.ratings import genre_matrix

    names, matrix = genre_matrix(items)
    return LookupTables(
        user_ids=users["user_id"].tolist(),
        item_ids=items["item_id"].tolist(),
        titles=[_cut(title) if isinstance(title, str) else None for title in items["title"].tolist()],
        years=items["year"].to_numpy(np.float64, na_value=np.nan),
        genre_names=names,
        genres=matrix.astype(bool),
    )


def write_tables(tables: LookupTables, folder: Path) -> None:
    """Write tables.json to a folder that is not yet in place (see artifact.write_arrays)."""
    body = {
        "format": _FORMAT,
        "version": _FORMAT_VERSION,
        "user_id": tables.user_ids,
        "item_id": tables.item_ids,
        "title": tables.titles,
        "year": [None if np.isnan(year) else int(year) for year in tables.years.tolist()],
        "genre_names": tables.genre_names,
        "genres": [np.flatnonzero(row).tolist() for row in tables.genres],
    }
    (folder / TABLES).write_text(json.dumps(body, allow_nan=False, separators=(",", ":")), encoding="utf-8")


def read_tables(folder: Path, users: int, items: int) -> LookupTables:
    """Read tables.json of U `users` and I `items`; raises ArtifactError where it is not what `write_tables` wrote."""
    path = folder / TABLES
    body = read_versioned_json(
        path, _FORMAT, _FORMAT_VERSION, _MIGRATIONS, advice="copy or train it again",
        max_bytes=max_tables_bytes(users, items),
    )  # fmt: skip
    columns = ("user_id", "item_id", "title", "year", "genre_names", "genres")
    lacking = [name for name in columns if name not in body]
    if lacking:
        raise ArtifactError(f"{path}: lacks {', '.join(lacking)}: copy the whole artifact or train it again")
    check_tables(*(body[name] for name in columns))
    free, genres = available_bytes(), len(body["genre_names"])
    if free is not None and len(body["genres"]) * genres > free:
        raise ArtifactError(f"{path}: {genres} genres of {len(body['genres']):,} items need more memory than is free")
    return LookupTables(
        user_ids=body["user_id"],
        item_ids=body["item_id"],
        titles=body["title"],
        years=np.array(body["year"], np.float64),  # null becomes NaN
        genre_names=body["genre_names"],
        genres=_matrix(body["genres"], genres),
    )


def check_lookup_tables(tables: LookupTables) -> None:
    """Check tables that come from other files (artifact_checks.py); raises ArtifactError."""
    genres: list[list[int]] = [[] for _ in tables.item_ids]  # places in a matrix are in range
    check_tables(
        tables.user_ids, tables.item_ids, tables.titles, tables.years.tolist(), tables.genre_names, genres
    )  # fmt: skip


def _cut(title: str) -> str:
    return title if len(title) <= _SHOWN_LETTERS else f"{title[: _SHOWN_LETTERS - 1]}\N{HORIZONTAL ELLIPSIS}"


def row_index(ids: Sequence[Hashable]) -> Mapping[Hashable, int]:
    """Return the row of each id."""
    return {identifier: row for row, identifier in enumerate(ids)}


def _matrix(places: list[list[int]], genres: int) -> NDArray[np.bool_]:
    """Return the 0/1 matrix [I, G] from the places of the ones in each row."""
    matrix: NDArray[Any] = np.zeros((len(places), genres), bool)
    rows = np.repeat(np.arange(len(places)), [len(row) for row in places])
    matrix[rows, np.array([place for row in places for place in row], np.intp)] = True
    return matrix
