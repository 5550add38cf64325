"""Bandit logs on disk: a folder with `events.parquet` (impressions) and `rewards.parquet` (rewards that arrive later).

    events   event_id, time, user_id, item_id, log_propensity (float64), policy, policy_version,
             candidates (list of item ids; null: the whole catalog), reward (null: unknown yet),
             context (list of float32; null: the row of the user in the context table; optional)
    rewards  event_id, time, reward

The metadata of the events file hold the catalog and the reward scale; the defaults are all items and the policy's
scale. Times are timestamps in milliseconds, UTC if they have no zone. Files are read in batches,
and every fault is named by file and row, counted from 1.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.files import atomic_path
from recpolicy.data import log_columns as read
from recpolicy.data.bandit_log import BanditLog, ColdStartUsers
from recpolicy.data.log_metadata import (
    VERSION,
    action_item_rows,
    check_format,
    encode_metadata,
    old_columns,
    read_metadata,
)
from recpolicy.data.ratings import Ratings

EVENTS, REWARDS = "events.parquet", "rewards.parquet"
FORMAT, FORMAT_VERSION = "recpolicy log", VERSION
ORIGIN_FIELDS = {
    "slate_digest": "the digest of a log of slates",
    "features": "the digest of a table of contexts",
    "exporter": "the name of what goes on adding to the log",
    "simulator": "the name of the simulated world that paid the rewards",
}
"""Fields of BanditLog that an events file may name in its metadata."""
_ROWS_AT_ONCE, _CANDIDATES_AT_ONCE = 1 << 17, 1 << 23
_COLUMNS = ("event_id", "time", "user_id", "item_id", "log_propensity", "policy", "policy_version")
_REWARD_COLUMNS = ("event_id", "time", "reward")


@dataclass(frozen=True)
class IdVocabulary:
    """The ids that a log may contain: tables of users and items, in row order, and the reward scale."""

    users: pd.DataFrame
    items: pd.DataFrame
    scale: tuple[float, float]

    @classmethod
    def from_ratings(cls, ratings: Ratings) -> "IdVocabulary":
        """Return the ids of a ratings table."""
        return cls(ratings.users, ratings.items, ratings.scale)

    @classmethod
    def from_policy(cls, policy: "PolicyWithTables") -> "IdVocabulary":
        """Return the ids that a loaded policy was trained on."""
        return cls(policy.artifact.users, policy.artifact.items, policy.artifact.scale)


class PolicyWithTables(Protocol):
    """A loaded policy (inference.predictor.Policy)."""

    @property
    def artifact(self) -> Any:
        """The artifact, with users, items and scale."""


@dataclass(frozen=True)
class Events:
    """N checked events in file order, ids turned into rows."""

    columns: dict[str, NDArray[Any]]
    """The columns [N] of BanditLog; reward is NaN where it is not known."""
    candidate_start: NDArray[np.int64] | None  # [N + 1]; None: every event had the whole catalog
    candidate: NDArray[np.int32] | None  # [C]
    context: NDArray[np.float32] | None  # [N, D], NaN: the user's own; None: so it is of all
    cold_start_users: ColdStartUsers | None
    """Users whom only vectors describe."""


def write_events(path: Path, rounds: BanditLog, tables: IdVocabulary, *, with_rewards: bool) -> None:
    """Write the rounds as an events file, atomically and in pieces; without rewards they are left to be joined."""
    item_id, user_id = tables.items["item_id"].to_numpy(), _user_ids(rounds, tables)
    metadata = {
        "format": FORMAT, "version": FORMAT_VERSION, "scale": list(rounds.scale),
        "action_items": item_id[rounds.action_items].tolist(),
        **{name: value for name in ORIGIN_FIELDS if (value := getattr(rounds, name)) is not None},
    }  # fmt: skip
    user, item, text = _id_type(user_id), _id_type(item_id), pa.dictionary(pa.int32(), pa.string())
    types = {
        "event_id": pa.string(), "time": read.TIME, "user_id": user, "item_id": item, "log_propensity": pa.float64(),
        "policy": text, "policy_version": text, "candidates": pa.list_(item), "reward": pa.float64(),
        **({} if rounds.context is None else {"context": pa.list_(pa.float32())}),
    }  # fmt: skip
    schema = pa.schema(types, encode_metadata(metadata))
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, compression="zstd") as out:
        for rows in _pieces(rounds):
            columns = _columns(rounds, rows, user_id, item_id)
            if not with_rewards:
                del columns["reward"]
            count = rows.stop - rows.start
            out.write_table(pa.table([columns.get(name, pa.nulls(count, types[name])) for name in types], schema))


def _pieces(rounds: BanditLog) -> Iterator[slice]:
    """Yield consecutive rounds in pieces whose candidates fit into memory."""
    start, first = rounds.candidate_start, 0
    while first < len(rounds):
        last = first + _ROWS_AT_ONCE
        if start is not None:
            last = min(last, int(np.searchsorted(start, start[first] + _CANDIDATES_AT_ONCE, side="right")) - 1)
        yield slice(first, min(max(last, first + 1), len(rounds)))
        first = max(last, first + 1)


def _columns(rounds: BanditLog, rows: slice, user_id: NDArray[Any], item_id: NDArray[Any]) -> dict[str, Any]:
    """Return the existing columns of some rounds, with ids."""
    columns = {
        "event_id": pa.array(rounds.event_id[rows], pa.string()),
        "time": pa.array(rounds.time[rows], pa.int64()).cast(read.TIME),
        "user_id": _ids(user_id[rounds.user[rows]]),
        "item_id": _ids(item_id[rounds.item[rows]]),
        "log_propensity": pa.array(rounds.log_propensity[rows], pa.float64()),
        "policy": pa.array(rounds.policy[rows], pa.string()).dictionary_encode(),
        "policy_version": pa.array(rounds.version[rows], pa.string()).dictionary_encode(),
        "reward": pa.array(rounds.reward[rows]),
    }
    if rounds.candidate is not None and rounds.candidate_start is not None:
        start = rounds.candidate_start[rows.start : rows.stop + 1]
        columns["candidates"] = _lists(start - start[0], _ids(item_id[rounds.candidate[start[0] : start[-1]]]))
    if rounds.context is not None:
        columns["context"] = _vectors(rounds.context[rows], rounds.with_context[rows])
    return columns


def write_rewards(
    path: Path, event_id: NDArray[np.object_], time: NDArray[np.int64], reward: NDArray[np.float64]
) -> None:
    """Write what came of the events (each [N], time in milliseconds), atomically."""
    columns = {
        "event_id": pa.array(event_id, pa.string()),
        "time": pa.array(time, pa.int64()).cast(read.TIME),
        "reward": pa.array(reward, pa.float64()),
    }
    _write(path, pa.table(columns))


def _write(path: Path, table: Any) -> None:
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read_action_items(path: Path, tables: IdVocabulary) -> NDArray[np.int32]:
    """Return the item rows [A] of the file's catalog, ascending; all items if the file has none.

    Raises DataError for a file of another format, version or rating scale, and for items that are not in the tables.
    """
    metadata = read_metadata(path)
    check_format(metadata, (FORMAT, FORMAT_VERSION), path)
    if "scale" in metadata and metadata["scale"] != list(tables.scale):
        raise DataError(f"{path}: rewards on the scale {metadata['scale']}; expected {list(tables.scale)}")
    rows = action_item_rows(metadata, tables.items, path)
    return np.arange(len(tables.items), dtype=np.int32) if rows is None else np.unique(rows)


def read_origin(path: Path) -> dict[str, Any]:
    """Return the origin of the rounds, by the names in ORIGIN_FIELDS; None for a name that the file lacks."""
    metadata = read_metadata(path)
    for name in ORIGIN_FIELDS:
        if not isinstance(metadata.get(name), str | None):
            raise DataError(f"{path}: its metadata names {name} {metadata[name]!r}; expected {ORIGIN_FIELDS[name]}")
    return {name: metadata.get(name) for name in ORIGIN_FIELDS}


def read_events(path: Path, tables: IdVocabulary, action_items: NDArray[np.int32]) -> Events:
    """Read the events of a file; raises DataError that names file, row and what is wrong, and where there are none."""
    users, items = pd.Index(tables.users["user_id"]), pd.Index(tables.items["item_id"])
    parts, lists, seen = [], [], _Seen(users)
    for piece in read.pieces(path, _COLUMNS, old_columns(path)):
        columns: dict[str, NDArray[Any]] = {
            "event_id": read.texts(piece, "event_id"),
            "time": read.times(piece),
            "user": seen.read_users(piece),
            "item": read.id_rows(piece, "item_id", items),
            "log_propensity": read.log_propensities(piece),
            "policy": read.texts(piece, "policy"),
            "version": read.texts(piece, "policy_version"),
            "reward": read.rewards(piece, tables.scale, missing=True),
        }
        start, candidate = read.candidates(piece, items)
        _check_shown(piece, columns["item"], start, candidate, action_items)
        parts.append(columns)
        lists.append((piece.first, start, candidate))
    if not parts:
        raise DataError(f"{path}: no events")
    together = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    _refuse_twins(together["event_id"], path)
    together["user"], cold_start_users = seen.numbered(together["user"])
    return Events(together, *_joined_candidates(path, lists), seen.together(), cold_start_users)


def read_rewards(path: Path, scale: tuple[float, float]) -> tuple[NDArray[Any], NDArray[np.int64], NDArray[np.float64]]:
    """Return event ids, times and rewards of a rewards file; raises DataError that names file and row."""
    parts = [
        (read.texts(piece, "event_id"), read.times(piece), read.rewards(piece, scale, missing=False))
        for piece in read.pieces(path, _REWARD_COLUMNS)
    ]
    if not parts:
        return np.array([], object), np.array([], np.int64), np.array([], np.float64)
    ids, times, rewards = (np.concatenate(column) for column in zip(*parts, strict=True))
    return ids, times, rewards


class _Seen:
    """The users of a file, piece by piece, with their context vectors."""

    def __init__(self, known: "pd.Index[Any]"):
        self.known = known
        self.width: int | None = None
        self.sizes: list[int] = []
        self.vectors: list[NDArray[np.float32] | None] = []
        self.ids: list[NDArray[np.object_]] = []

    def read_users(self, piece: read.Piece) -> NDArray[np.int32]:
        """Return rows [n] of the user table; -1 for cold-start users, who have a context."""
        vectors = read.contexts(piece, self.width)
        has_context = None if vectors is None else ~np.isnan(vectors[:, 0])
        rows = read.id_rows(piece, "user_id", self.known, has_context)
        if vectors is not None:
            self.width = vectors.shape[1]
            self.ids.append(read.strangers(piece, "user_id", rows, self.known)[rows < 0])
        self.sizes.append(len(piece))
        self.vectors.append(vectors)
        return rows

    def numbered(self, user: NDArray[np.int32]) -> tuple[NDArray[np.int32], ColdStartUsers | None]:
        """Return the rows of all pieces [N]; cold-start users get rows beyond the table, in order."""
        if not (user < 0).any():
            return user, None
        place, ids = pd.factorize(np.concatenate(self.ids))
        user[user < 0] = len(self.known) + place
        return user, ColdStartUsers(len(self.known), ids)

    def together(self) -> NDArray[np.float32] | None:
        """Return the vectors of all pieces [N, D]; None where there is none."""
        if self.width is None:
            return None
        parts = zip(self.vectors, self.sizes, strict=True)
        return np.concatenate(
            [np.full((size, self.width), np.nan, np.float32) if vectors is None else vectors for vectors, size in parts]
        )


def _check_shown(
    piece: read.Piece, item: NDArray[np.int32], start: NDArray[np.int64] | None, candidate: NDArray[np.int32] | None,
    action_items: NDArray[np.int32],
) -> None:  # fmt: skip
    """Check that logged items are candidates and candidates are in the catalog."""
    piece.refuse(~np.isin(item, action_items), lambda _: "the item shown is not in the catalog of this log")
    if start is None or candidate is None:
        return
    strange = read.any_in_list(~np.isin(candidate, action_items), start)
    piece.refuse(strange, lambda _: "a candidate is not in the catalog of this log")
    is_candidate = read.any_in_list(candidate == np.repeat(item, np.diff(start)), start)
    piece.refuse(~is_candidate, lambda _: "the item shown is not among its candidates")


def _refuse_twins(event_id: NDArray[np.object_], path: Path) -> None:
    twins = pd.Series(event_id).duplicated().to_numpy()
    if twins.any():
        row = int(twins.argmax())
        raise DataError(f"{path}: row {row + 1}: event_id {event_id[row]!r} occurs twice")


def _joined_candidates(
    path: Path, lists: list[tuple[int, NDArray[np.int64] | None, NDArray[np.int32] | None]]
) -> tuple[NDArray[np.int64] | None, NDArray[np.int32] | None]:
    """Return the candidates of all pieces (first row, starts, candidates); all pieces or none must have them."""
    counts = [np.diff(start) for _, start, _ in lists if start is not None]
    if not counts:
        return None, None
    if len(counts) != len(lists):
        first = next(first for first, start, _ in lists if start is None)
        raise DataError(f"{path}: row {first + 1}: candidates are missing, but other rows have them")
    start = np.concatenate([[0], np.cumsum(np.concatenate(counts))]).astype(np.int64)
    return start, np.concatenate([candidate for _, _, candidate in lists if candidate is not None])


def _user_ids(rounds: BanditLog, tables: IdVocabulary) -> NDArray[Any]:
    """Return ids by user row, cold-start users after the table; raises DataError for another table than the log's."""
    known = tables.users["user_id"].to_numpy()
    if rounds.cold_start_users is None:
        return known
    if rounds.cold_start_users.known != len(known):
        raise DataError(
            f"{rounds.name}: the log has a table of {rounds.cold_start_users.known} users, but {len(known)} are given"
        )
    return np.concatenate([known, rounds.cold_start_users.ids.astype(np.int64 if known.dtype.kind in "iu" else object)])


def _lists(start: NDArray[np.int64], values: Any) -> Any:
    """Return values [C] as lists that begin at `start` [N + 1]."""
    return pa.ListArray.from_arrays(pa.array(start, pa.int32()), values)


def _vectors(context: NDArray[np.float32], has_context: NDArray[np.bool_]) -> Any:
    """Return rows of context [N, D] as lists, null where there is none."""
    start = np.concatenate([[0], np.cumsum(has_context) * context.shape[1]])
    values = pa.array(context[has_context].ravel())
    return pa.ListArray.from_arrays(pa.array(start, pa.int32()), values, mask=pa.array(~has_context))


def _id_type(ids: NDArray[Any]) -> Any:
    return pa.int64() if ids.dtype.kind in "iu" else pa.string()


def _ids(ids: NDArray[Any]) -> Any:
    return pa.array(ids, _id_type(ids))
