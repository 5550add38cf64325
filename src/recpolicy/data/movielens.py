"""Read MovieLens folders as ratings tables: ml-100k, ml-1m, ml-10m and the CSV kind (ml-25m, ml-32m, ml-latest).

Titles stay as they are in the file, "Toy Story (1995)"; the year is also a separate column. The genres "unknown" and
"(no genres listed)" mean none. Older files are Latin-1 and their mirrors often UTF-8, so a file that is valid UTF-8 is
read as such. Source of the formats: the README of each folder.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.compute as pc
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.text import join_words
from recpolicy.data.csv_reader import Source, read_text
from recpolicy.data.datasets import ITEM_GENRES
from recpolicy.data.joined_tables import check_unique, title_years
from recpolicy.data.ratings import GENRE_SEPARATOR, Ratings
from recpolicy.data.ratings_files import assemble
from recpolicy.data.table_columns import identifiers, numbers, texts

_RATING_COLUMNS = ("user", "item", "rating", "timestamp")
_ITEM_COLUMNS = ("movie_id", "title", "release_date", "video_release_date", "url", *ITEM_GENRES)
_NO_GENRES = {"unknown", "(no genres listed)"}


def read_movielens(folder: Path, name: str | None = None) -> Ratings:
    """Read a MovieLens folder; its files show its kind. Raises DataError for another folder."""
    for witness, (_, read) in FOLDER_KINDS.items():
        if (folder / witness).is_file():
            return read(folder, name or folder.resolve().name)
    kinds = "; ".join(f"{witness} ({kind})" for witness, (kind, _) in FOLDER_KINDS.items())
    raise DataError(f"{folder}: not a MovieLens folder; expected one of the files {kinds}")


def read_ml_100k(folder: Path, name: str = "ml-100k") -> Ratings:
    """Read u.data, u.item and u.user: stars 1..5; users have age, gender, occupation and zip_code."""
    users_at = _plain_file(folder / "u.user", "|")
    users = _users(users_at, ("user_id", "age", "gender", "occupation", "zip_code"))
    items_at = _plain_file(folder / "u.item", "|")
    items = read_text(items_at, _ITEM_COLUMNS)
    flags = np.column_stack(
        [numbers(items[genre], f"genre flag {genre}", items_at) for genre in ITEM_GENRES]
    )  # [I, 19]
    genres = [GENRE_SEPARATOR.join(np.compress(row, ITEM_GENRES)) for row in flags.astype(bool)]  # flags [I, 19]
    movies = _movies(identifiers(items["movie_id"], "movie", items_at), texts(items["title"]), genres, items_at)
    source = Source(folder / "u.data", "\t", header=False, quoted=False)
    return _ratings(source, read_text(source, _RATING_COLUMNS), users, movies, name, (1.0, 5.0))


def read_ml_dat(folder: Path, name: str = "ml-1m") -> Ratings:
    """Read ratings.dat and movies.dat (separated by ::), and users.dat if it exists.

    With users (ml-1m) the stars are 1..5 and users have the columns of ml-100k; without (ml-10m) they are half stars
    .5..5. Half stars make the scale .5..5 in both.
    """
    users_file = folder / "users.dat"
    columns = ("user_id", "gender", "age", "occupation", "zip_code")
    users = _users(_plain_file(users_file, "::"), columns) if users_file.is_file() else None
    movies = _movie_table(_plain_file(folder / "movies.dat", "::"), ("movie_id", "title", "genres"))
    source = Source(folder / "ratings.dat", "::", header=False, quoted=False)
    table = read_text(source, _RATING_COLUMNS)
    half_stars = users is None or bool(pc.any(pc.match_substring(table["rating"], ".5")).as_py())
    return _ratings(source, table, users, movies, name, (0.5, 5.0) if half_stars else (1.0, 5.0))


def read_ml_csv(folder: Path, name: str = "ml-latest") -> Ratings:
    """Read ratings.csv and movies.csv (ml-25m, ml-32m, ml-latest): half stars .5..5; nothing is known of users."""
    movies = _movie_table(Source(folder / "movies.csv", ","), None)
    table = read_text(source := Source(folder / "ratings.csv", ","))
    columns = dict(
        zip(_RATING_COLUMNS, _named(table, ("userId", "movieId", "rating", "timestamp"), source), strict=True)
    )
    return assemble(columns, source, name=name, scale=(0.5, 5.0), items=movies)


FOLDER_KINDS: Mapping[str, tuple[str, Callable[[Path, str], Ratings]]] = {
    "u.data": ("ml-100k", read_ml_100k),
    "ratings.dat": ("ml-1m, ml-10m", read_ml_dat),
    "ratings.csv": ("ml-25m, ml-32m, ml-latest", read_ml_csv),
}
"""The file that tells a kind of folder: what it is called and who reads it."""


def _ratings(
    source: Source, table: Any, users: pd.DataFrame | None, movies: pd.DataFrame, name: str, scale: tuple[float, float]
) -> Ratings:
    columns = {column: table[column] for column in _RATING_COLUMNS}
    return assemble(columns, source, name=name, scale=scale, users=users, items=movies)


def _plain_file(path: Path, separator: str) -> Source:
    """Return a file without a header and quotes: as UTF-8 if it is valid UTF-8, else as Latin-1."""
    source = Source(path, separator, header=False, quoted=False)
    with source.open() as stream:
        try:
            stream.read().decode()
        except UnicodeDecodeError:
            return replace(source, encoding="latin-1")
    return source


def _users(source: Source, columns: Sequence[str]) -> pd.DataFrame:
    """Return the user table with the columns of ml-100k, in their order."""
    table = read_text(source, columns)
    ids = identifiers(table["user_id"], "user", source)
    check_unique(ids, "user", source)
    text = {name: pd.Series(texts(table[name]), dtype="str") for name in ("gender", "occupation", "zip_code")}
    age = numbers(table["age"], "age", source).astype(np.int64)
    return pd.DataFrame({"user_id": ids, "age": age, **text})


def _movie_table(source: Source, names: Sequence[str] | None) -> pd.DataFrame:
    """Return the movie table of a file with id, title and genres separated by |."""
    table = read_text(source, names)
    movie_id, title, genres = _named(table, names or ("movieId", "title", "genres"), source)
    return _movies(identifiers(movie_id, "movie", source), texts(title), list(texts(genres)), source)


def _movies(ids: NDArray[Any], titles: NDArray[Any], genres: Sequence[str], source: Source) -> pd.DataFrame:
    check_unique(ids, "movie", source)
    known = ["" if value in _NO_GENRES else value for value in genres]
    return pd.DataFrame(
        {
            "item_id": ids,
            "title": pd.Series(titles, dtype="str"),
            "year": title_years(titles),
            "genres": pd.Series(known, dtype="str"),
        }
    )


def _named(table: Any, names: Sequence[str], source: Source) -> list[Any]:
    lacking = [repr(name) for name in names if name not in table.column_names]
    if lacking:
        what = f"column{'s' * (len(lacking) > 1)} {join_words(lacking)}"
        raise DataError(f"{source.path}:1: no {what}; found {', '.join(table.column_names)}")
    return [table[name] for name in names]
