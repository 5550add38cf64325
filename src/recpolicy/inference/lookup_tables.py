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

if TYPE_CHECKING:
    import pandas as pd

TABLES = "tables.json"
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
        titles=[title if isinstance(title, str) else None for title in items["title"]],
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


def read_tables(folder: Path) -> LookupTables:
    """Read tables.json; raises ArtifactError where it is not what `write_tables` wrote."""
    path = folder / TABLES
    body = read_versioned_json(path, _FORMAT, _FORMAT_VERSION, _MIGRATIONS)
    try:
        return LookupTables(
            user_ids=body["user_id"],
            item_ids=body["item_id"],
            titles=body["title"],
            years=np.array(body["year"], np.float64),  # null becomes NaN
            genre_names=body["genre_names"],
            genres=_matrix(body["genres"], len(body["genre_names"])),
        )
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ArtifactError(f"{path}: not a table that this version of recpolicy reads: {error!r}") from None


def row_index(ids: Sequence[Hashable]) -> Mapping[Hashable, int]:
    """Return the row of each id."""
    return {identifier: row for row, identifier in enumerate(ids)}


def _matrix(places: list[list[int]], genres: int) -> NDArray[np.bool_]:
    """Return the 0/1 matrix [I, G] from the places of the ones in each row."""
    matrix: NDArray[Any] = np.zeros((len(places), genres), bool)
    rows = np.repeat(np.arange(len(places)), [len(row) for row in places])
    matrix[rows, np.array([place for row in places for place in row], np.intp)] = True
    return matrix
