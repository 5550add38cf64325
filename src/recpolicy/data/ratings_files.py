"""Read ratings tables from CSV, TSV and Parquet files, from folders of such files, and from data frames.

A table has the columns user, item and rating and, if known, timestamp; other columns are ignored. Ids are integers or
text. Tables of items and users may accompany it (joined_tables.py). N ratings.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError, unknown_name_error
from recpolicy.data.column_names import ITEM_COLUMNS, RATING_COLUMNS, USER_COLUMNS, find_columns
from recpolicy.data.csv_reader import (
    Source,
    TableFile,
    check_separator,
    column_names,
    is_parquet,
    open_table,
    text_source,
)
from recpolicy.data.joined_tables import Table, bare_items, frame_table, read_items, read_users
from recpolicy.data.ratings import GENRE_SEPARATOR, Ratings
from recpolicy.data.read_options import plain_number, repeated_error, scale_error
from recpolicy.data.response_signals import Responses, check_signals, find_signals, read_responses
from recpolicy.data.table_columns import identifiers, numbers, seconds

REPEATED = ("refuse", "last", "first", "mean")
"""Rules for several ratings of one user and item."""
SCALE = (1.0, 5.0)
"""The default of the lowest and highest possible rating."""


@dataclass(frozen=True)
class TableOptions:
    """Options for reading ratings, checked; `load_ratings` explains them."""

    columns: Mapping[str, str] = field(default_factory=dict)
    scale: tuple[float, float] = SCALE
    separator: str | None = None
    header: bool = True
    timestamps: bool = True
    repeated: str = "refuse"
    users: Table | None = None
    items: Table | None = None
    user_columns: Mapping[str, str] = field(default_factory=dict)
    item_columns: Mapping[str, str] = field(default_factory=dict)
    genre_separator: str = GENRE_SEPARATOR
    signals: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.signals is not None:
            self._check_signals(self.signals)
        low, high = self.scale
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ConfigError(f"scale {self.scale}: expected two finite numbers, the lowest and the highest rating")
        if self.repeated not in REPEATED:
            raise unknown_name_error("rule for repeated ratings", self.repeated, REPEATED)
        check_separator(self.separator)
        if not self.genre_separator:
            raise ConfigError("genre_separator is empty; expected the text between two genres, such as ','")
        for columns, known in (
            (self.columns, RATING_COLUMNS),
            (self.user_columns, USER_COLUMNS),
            (self.item_columns, ITEM_COLUMNS),
        ):
            for meaning in columns:
                if meaning not in known:
                    raise unknown_name_error("rating column" if known is RATING_COLUMNS else "column", meaning, known)
        if not self.timestamps and "timestamp" in self.columns:
            raise ConfigError("timestamps = false leaves out the times, but a column of times is named")

    def _check_signals(self, signals: Mapping[str, str]) -> None:
        check_signals(signals)
        if self.scale != SCALE or "rating" in self.columns or not self.header:
            raise ConfigError("signals take the place of ratings, in named columns: leave out scale, rating and header")
        if self.repeated == "mean":
            raise ConfigError("repeated is 'mean', but a mean of two responses is none; expected last, first or refuse")


def read_table(path: Path | str, *, name: str | None = None, **options: Any) -> Ratings:
    """Read a ratings file, or a folder of its parts, checked row by row.

    Args:
        path: The file or folder.
        name: Name of the table; by default that of the file, without its ending.
        options: Fields of TableOptions.

    Raises:
        DataError: The file is faulty; names file, line and value.
        ConfigError: An option is out of range.
    """
    settings, path = TableOptions(**options), Path(path)
    file = open_table(path, settings.separator, header=settings.header)
    return _read(file, settings, name or path.name.partition(".")[0])


def check_columns(path: Path, **options: Any) -> None:
    """Raise DataError if a ratings file lacks a column; only its first line, or its schema, is read."""
    settings = TableOptions(**options)
    if is_parquet(path):
        file = open_table(path, settings.separator, header=settings.header)
        names, source = file.names, file.source
    else:
        source = text_source(path, settings.separator, header=settings.header)
        names = column_names(source)
    _find_columns(names, source, settings)
    if settings.signals is not None:
        find_signals(names, settings.signals, source)


def ratings_from_frame(frame: pd.DataFrame, *, name: str = "frame", **options: Any) -> Ratings:
    """Return the ratings of a data frame, checked as those of `read_table`; rows are counted from 1 in errors."""
    return _read(frame_table(frame, name), TableOptions(**options), name)


def assemble(
    columns: dict[str, Any],
    source: Source,
    *,
    name: str,
    scale: tuple[float, float],
    users: pd.DataFrame | None = None,
    items: pd.DataFrame | None = None,
    repeated: str = "refuse",
    responses: Responses | None = None,
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
    watch, context = (None, None) if responses is None else (responses.watch, responses.context)
    user = _rows(user_id, users["user_id"], "user", source)
    item = _rows(item_id, items["item_id"], "item", source)
    pair = user.astype(np.int64) * len(items) + item  # [N]
    merged = _count_repeated(pair)
    if merged and repeated == "refuse":
        raise _repeated_pair(pair, user_id, item_id, source)
    if merged:
        rows, rating = _merge_pairs(pair, rating, timestamp, repeated)
        user, item = user[rows], item[rows]
        timestamp = None if timestamp is None else timestamp[rows]
        watch = None if watch is None else watch[rows]
        context = None if context is None else context[rows]
    return Ratings(
        user, item, rating, timestamp, users, items, name=name, scale=scale, merged_rows=merged, watch=watch,
        context=context,
    )  # fmt: skip


def _read(file: TableFile, options: TableOptions, name: str) -> Ratings:
    columns = _find_columns(file.names, file.source, options)
    signals = {} if options.signals is None else find_signals(file.names, options.signals, file.source)
    table = file.read([*dict.fromkeys([*columns.values(), *signals.values()])])
    arrays = {meaning: table[column] for meaning, column in columns.items()}
    responses = None
    if signals:
        responses = read_responses({signal: table[column] for signal, column in signals.items()}, file.source)
        arrays["rating"] = pa.array(responses.rating)
    users = None if options.users is None else read_users(options.users, options.user_columns, options.separator)
    items = (
        None
        if options.items is None
        else read_items(options.items, options.item_columns, options.genre_separator, options.separator)
    )
    return assemble(
        arrays,
        file.source,
        name=name,
        scale=options.scale,
        users=users,
        items=items,
        repeated=options.repeated,
        responses=responses,
    )


def _find_columns(names: Sequence[str], source: Source, options: TableOptions) -> dict[str, str]:
    """Return the names of the columns by meaning; without timestamp if there is none, or none is wanted."""
    left_out = {"timestamp": not options.timestamps, "rating": options.signals is not None}
    meanings = [meaning for meaning in RATING_COLUMNS if not left_out.get(meaning, False)]
    wanted = {meaning: options.columns[meaning] for meaning in meanings if meaning in options.columns}
    return find_columns(names, meanings, source, wanted, optional=("timestamp",))


def _sorted_ids(ids: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.sort(pd.unique(ids)))


def _within(rating: NDArray[np.float64], scale: tuple[float, float], source: Source) -> NDArray[np.float32]:
    low, high = scale
    bad = (rating < low) | (rating > high)
    if bad.any():
        row = int(bad.argmax())
        fact = f"{source.at(row)}: rating {plain_number(rating[row])} is not in {low:g}..{high:g}"
        highest = float(rating.max())
        likes = rating.min() == 0 and highest <= 1
        raise scale_error(fact, min(low, float(rating.min())), 1.0 if likes else max(high, highest))
    return rating.astype(np.float32)


def _rows(ids: NDArray[Any], table_ids: "pd.Series[Any]", what: str, source: Source) -> NDArray[np.int32]:
    """Return the row of each id [N] in a table; numbers are compared with text by their spelling."""
    known = pd.Index(table_ids)
    if (ids.dtype == object) == (not pd.api.types.is_integer_dtype(known.dtype)):
        rows = known.get_indexer(pd.Index(ids))
    else:
        codes, distinct = pd.factorize(ids)
        rows = known.astype(str).get_indexer(pd.Index(distinct).astype(str))[codes]
    if (rows < 0).any():
        row = int((rows < 0).argmax())
        raise DataError(f"{source.at(row)}: {what} id {ids[row]} is not in the table of {what}s")
    return np.asarray(rows, np.int32)


def _count_repeated(pair: NDArray[np.int64]) -> int:
    """Return the number of rows whose pair has an earlier row; sorting takes a fifth of the time of hashing."""
    ordered = np.sort(pair)
    return int(np.count_nonzero(ordered[1:] == ordered[:-1]))


def _repeated_pair(pair: NDArray[np.int64], user_id: NDArray[Any], item_id: NDArray[Any], source: Source) -> DataError:
    again = pd.Series(pair).duplicated().to_numpy()
    row = int(again.argmax())
    first = int((pair == pair[row]).argmax())
    count = int(again.sum())
    more = f" ({count:,} rows repeat a pair)" if count > 1 else ""
    return repeated_error(
        f"{source.at(row)}: user {user_id[row]} rated item {item_id[row]} before, at {source.at(first)}{more}"
    )


def _merge_pairs(
    pair: NDArray[np.int64], rating: NDArray[np.float32], timestamp: NDArray[np.int64] | None, rule: str
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return one row of each pair, in file order, and its rating.

    The first and last row of a pair are those in time, or in the file if there are no times; for `mean` the row is the
    last one.
    """
    keys = (pair,) if timestamp is None else (timestamp, pair)
    order = np.lexsort(keys)  # stable: rows of one time are in file order
    start = np.flatnonzero(np.diff(pair[order], prepend=-1))  # of each pair
    chosen = order[start] if rule == "first" else order[np.append(start[1:], len(order)) - 1]
    if rule == "mean":
        total = np.add.reduceat(rating[order].astype(np.float64), start)
        rating = rating.copy()
        rating[chosen] = total / np.diff(np.append(start, len(order)))
    rows = np.sort(chosen)
    return rows, rating[rows]
