"""Bandit logs on disk: a folder with `events.parquet` (impressions) and `rewards.parquet` (rewards that arrive later).

    events   event_id, time, user_id, item_id, log_propensity (float64), policy, policy_version,
             candidates and excluded (candidate_columns.py; null: the whole catalog), reward (null: unknown yet),
             context (list of float32; null: the row of the user in the context table; optional),
             guardrails (digest of those that the list kept; null: none; optional)
    rewards  event_id, time, reward

Each may have further parts (log_parts.py). The metadata of the events file hold the catalog and the reward scale; the
defaults are all items and the policy's scale. Times are timestamps in milliseconds, UTC if they have no zone. This
module writes the files; event_reader.py reads them.
"""

from collections.abc import Sequence
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
from recpolicy.data.bandit_log import NO_GUARDRAILS, BanditLog
from recpolicy.data.candidate_columns import CANDIDATES, EXCLUDED, PACKED, Catalog, candidate_arrays
from recpolicy.data.log_metadata import VERSION, action_item_rows, check_format, encode_metadata, read_metadata
from recpolicy.data.ratings import Ratings

FORMAT, FORMAT_VERSION = "recpolicy log", VERSION
GUARDRAILS = "guardrails"
ORIGIN_FIELDS = {
    "slate_digest": "the digest of a log of slates",
    "features": "the digest of a table of contexts",
    "exporter": "the name of what goes on adding to the log",
    "simulator": "the name of the simulated world that paid the rewards",
    "unit": "round or slate, if every round or slate is of another person",
}
"""Fields of BanditLog that an events file may name in its metadata."""
_ROWS_AT_ONCE = 1 << 16
_ENCODED = (
    "user_id",
    "item_id",
    "policy",
    "policy_version",
    CANDIDATES,
    f"{EXCLUDED}.list.element",
    "reward",
    GUARDRAILS,
)
"""Columns with few distinct values; the others would only pay for a dictionary."""
_DICTIONARY_BYTES = 1 << 26
"""A dictionary beyond it would give way to one set of candidates per row."""


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
        "policy": text, "policy_version": text, CANDIDATES: PACKED, "reward": pa.float64(),
        **({} if rounds.candidates is None else {EXCLUDED: pa.list_(item)}),
        **({} if rounds.context is None else {"context": pa.list_(pa.float32())}),
        **({} if rounds.guardrails is None else {GUARDRAILS: text}),
    }  # fmt: skip
    schema = pa.schema(types, encode_metadata(metadata))
    with atomic_path(path) as temporary, parquet_writer(temporary, schema) as out:
        for first in range(0, len(rounds), _ROWS_AT_ONCE):
            rows = slice(first, min(first + _ROWS_AT_ONCE, len(rounds)))
            columns = _columns(rounds, rows, user_id, item_id)
            if not with_rewards:
                del columns["reward"]
            count = rows.stop - rows.start
            out.write_table(pa.table([columns.get(name, pa.nulls(count, types[name])) for name in types], schema))


def parquet_writer(path: Path, schema: Any) -> Any:
    """Return the writer of an events file; each table that it writes becomes a row group."""
    return pq.ParquetWriter(
        path, schema, compression="zstd", use_dictionary=list(_ENCODED), dictionary_pagesize_limit=_DICTIONARY_BYTES
    )


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
    if rounds.candidates is not None:
        catalog = item_id[rounds.action_items]
        columns |= candidate_arrays(rounds.candidates.take(rows), catalog, _id_type(item_id))
    if rounds.context is not None:
        columns["context"] = _vectors(rounds.context[rows], rounds.with_context[rows])
    if rounds.guardrails is not None:
        digests = rounds.guardrails[rows]
        columns[GUARDRAILS] = pa.array(digests, pa.string(), mask=digests == NO_GUARDRAILS).dictionary_encode()
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


def read_catalog(paths: Sequence[Path], tables: IdVocabulary) -> Catalog:
    """Return the catalog of the files of a log, which all must have; all items if the files name none.

    Raises DataError for a file of another format, version or rating scale, and for items that are not in the tables.
    """
    catalogs = [_read_catalog(path, tables) for path in paths]
    for path, catalog in zip(paths, catalogs, strict=True):
        if not np.array_equal(catalog.action_items, catalogs[0].action_items):
            raise DataError(f"{path}: has another catalog than {paths[0].name}; export to another folder")
    return catalogs[0]


def _read_catalog(path: Path, tables: IdVocabulary) -> Catalog:
    metadata = read_metadata(path)
    check_format(metadata, (FORMAT, FORMAT_VERSION), path)
    if "scale" in metadata and metadata["scale"] != list(tables.scale):
        raise DataError(f"{path}: rewards on the scale {metadata['scale']}; expected {list(tables.scale)}")
    rows, items = action_item_rows(metadata, tables.items, path), pd.Index(tables.items["item_id"])
    if rows is None:
        return Catalog(items, np.arange(len(items), dtype=np.int32), None)
    action_items = np.unique(rows)
    return Catalog(items, action_items, None if np.array_equal(rows, action_items) else rows)


def read_origin(path: Path) -> dict[str, Any]:
    """Return the origin of the rounds, by the names in ORIGIN_FIELDS; None for a name that the file lacks."""
    metadata = read_metadata(path)
    for name in ORIGIN_FIELDS:
        if not isinstance(metadata.get(name), str | None):
            raise DataError(f"{path}: its metadata names {name} {metadata[name]!r}; expected {ORIGIN_FIELDS[name]}")
    return {name: metadata.get(name) for name in ORIGIN_FIELDS}


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


def _vectors(context: NDArray[np.float32], has_context: NDArray[np.bool_]) -> Any:
    """Return rows of context [N, D] as lists, null where there is none."""
    start = np.concatenate([[0], np.cumsum(has_context) * context.shape[1]])
    values = pa.array(context[has_context].ravel())
    return pa.ListArray.from_arrays(pa.array(start, pa.int32()), values, mask=pa.array(~has_context))


def _id_type(ids: NDArray[Any]) -> Any:
    return pa.int64() if ids.dtype.kind in "iu" else pa.string()


def _ids(ids: NDArray[Any]) -> Any:
    return pa.array(ids, _id_type(ids))
