"""Slate logs on disk: a folder with `slates.parquet`, one row per slate.

    event_id, time, user_id, slate (list of item ids, first slot first), log_propensity (list of float64, a slot each),
    reward, slot_reward (list of numbers; all rows or none; may be left out), policy, policy_version,
    candidates (candidate_columns.py; the items that the slots could show; may be left out: the whole catalog)

The metadata hold the scale of the rewards, the catalog, and `shelves`: for every item of the catalog the slot,
from 0, that it may stand in, or null where any item may stand in any slot, but once in a slate. Without them, the
catalog is all items, there are no shelves, and rewards are in 0..K. `slot_scale` is the lowest and highest reward of
a slot (0..1), and `unit` is slate if each slate is of another person. Files are read in batches, and errors name the
file and the row, counted from 1.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.files import atomic_path
from recpolicy.data import log_columns as read
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.candidate_columns import (
    CANDIDATES,
    EXCLUDED,
    CandidateReader,
    Catalog,
    candidate_arrays,
    join_candidates,
)
from recpolicy.data.log_metadata import (
    VERSION,
    action_item_rows,
    check_format,
    encode_metadata,
    get_scale,
    has_format,
    old_columns,
    read_metadata,
)
from recpolicy.data.slate_log import SlateLog, slate_faults, sum_fault

SLATES = "slates.parquet"
_MOST_SHELVED = 1 << 15
FORMAT, FORMAT_VERSION = "recpolicy slate log", VERSION
_COLUMNS = ("event_id", "time", "user_id", "slate", "log_propensity", "reward", "policy", "policy_version")


def write_slates(path: Path, log: SlateLog, tables: IdVocabulary) -> None:
    """Write the slates to a file, atomically."""
    item_id = tables.items["item_id"].to_numpy()
    slot_reward: Any = pa.nulls(len(log), pa.list_(pa.float64()))
    columns = {
        "event_id": pa.array(log.event_id, pa.string()),
        "time": pa.array(log.time, pa.int64()).cast(read.TIME),
        "user_id": pa.array(tables.users["user_id"].to_numpy()[log.user]),
        "slate": _lists(item_id[log.slate]),
        "log_propensity": _lists(log.log_propensity),
        "reward": pa.array(log.reward, pa.float64()),
        "slot_reward": slot_reward if log.slot_reward is None else _lists(log.slot_reward),
        "policy": pa.array(log.policy, pa.string()).dictionary_encode(),
        "policy_version": pa.array(log.version, pa.string()).dictionary_encode(),
    }
    metadata = {
        "format": FORMAT, "version": FORMAT_VERSION, "scale": list(log.scale),
        "action_items": item_id[log.action_items].tolist(),
        "shelves": None if log.shelves is None else log.shelves.tolist(), "slot_scale": list(log.slot_scale),
        **({} if log.unit is None else {"unit": log.unit}),
    }  # fmt: skip
    if log.candidates is not None:
        catalog = item_id[log.action_items]
        kind = pa.int64() if catalog.dtype.kind in "iu" else pa.string()
        columns[CANDIDATES] = candidate_arrays(log.candidates, catalog, kind)[CANDIDATES]
    table = pa.table(columns).replace_schema_metadata(encode_metadata(metadata))
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def is_slate_log(path: Path) -> bool:
    """Return True if this Parquet file is a slate log, by its description or else by its columns."""
    return has_format(path, FORMAT, {"slate"})


def read_slates(path: Path, tables: IdVocabulary) -> SlateLog:
    """Read the slates of a file; raises DataError that names file, row and what is wrong, and where there are none.

    Of `tables` the users and items are used.
    """
    metadata = read_metadata(path)
    check_format(metadata, (FORMAT, FORMAT_VERSION), path)
    action_items, shelves = _read_shelves(metadata, tables, path)
    items, users = pd.Index(tables.items["item_id"]), pd.Index(tables.users["user_id"])
    parts: list[dict[str, NDArray[Any]]] = []
    slots, scale = 0, (0.0, 0.0)
    reader, sets = CandidateReader(_catalog(metadata, tables, action_items)), []
    for piece in read.pieces(path, _COLUMNS, old_columns(path)):
        if piece.has(EXCLUDED):
            raise DataError(f"{path}: column {EXCLUDED}: slates have candidates only; leave it out")
        slate = _slate_rows(piece, items, slots)
        if not parts:
            slots = slate.shape[1]
            scale = get_scale(metadata, (0.0, float(slots)), path)
        columns: dict[str, NDArray[Any]] = {
            "event_id": read.texts(piece, "event_id"),
            "time": read.times(piece),
            "user": read.id_rows(piece, "user_id", users),
            "slate": slate,
            "log_propensity": _log_propensities(piece, slots),
            "reward": read.rewards(piece, scale, missing=False),
            "slot_reward": _slot_rewards(piece, slots),
            "policy": read.texts(piece, "policy"),
            "version": read.texts(piece, "policy_version"),
        }
        candidates = reader.read_piece(piece)
        for wrong, what in slate_faults(slate, action_items, shelves, candidates):
            piece.refuse(wrong, lambda _, what=what: what)  # type: ignore[misc]
        parts.append(columns)
        sets.append((len(piece), candidates))
    if not parts:
        raise DataError(f"{path}: no slates")
    together: dict[str, Any] = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    _refuse_twins(together["event_id"], path)
    together["slot_reward"] = _all_or_none(together["slot_reward"], together["reward"], path)
    slot_scale = get_scale({"scale": metadata.get("slot_scale", (0.0, 1.0))}, (0.0, 1.0), path)
    unit = metadata.get("unit")
    if unit not in (None, "slate"):
        raise DataError(f"{path}: its unit is {unit!r}; expected slate, or none if users are the independent parts")
    return SlateLog(
        action_items=action_items, shelves=shelves, scale=scale, name=str(path), slot_scale=slot_scale, unit=unit,
        candidates=join_candidates(sets, len(action_items)), **together,
    )  # fmt: skip


def _catalog(metadata: dict[str, Any], tables: IdVocabulary, action_items: NDArray[np.int32]) -> Catalog:
    """Return the catalog whose items the bits of packed candidates stand for."""
    named = metadata.get("action_items")
    items = pd.Index(tables.items["item_id"])
    order = None if named is None else items.get_indexer(pd.Index(named)).astype(np.int32)
    return Catalog(items, action_items, None if order is None or np.array_equal(order, action_items) else order)


def _read_shelves(
    metadata: dict[str, Any], tables: IdVocabulary, path: Path
) -> tuple[NDArray[np.int32], NDArray[np.int16] | None]:
    """Return the catalog [A], ascending, and the slot of each of its items; of all items if the file says nothing."""
    rows = action_item_rows(metadata, tables.items, path)
    if rows is None:
        rows = np.arange(len(tables.items), dtype=np.int32)
    shelves = metadata.get("shelves")
    if shelves is None:
        return np.unique(rows), None
    numbers = isinstance(shelves, list) and all(type(slot) is int and 0 <= slot < len(rows) for slot in shelves)
    if not numbers or len(shelves) != len(rows) or len(np.unique(rows)) != len(rows) or len(rows) > _MOST_SHELVED:
        raise DataError(f"{path}: its shelves must give each item of its catalog a slot 0, 1, 2, ...")
    order = np.argsort(rows)
    return rows[order], np.array(shelves, np.int16)[order]


def _lists(values: NDArray[Any]) -> Any:
    """Return rows [N, K] as a column of lists."""
    count, slots = values.shape
    return pa.ListArray.from_arrays(pa.array(np.arange(count + 1, dtype=np.int32) * slots), pa.array(values.ravel()))


def _slate_rows(piece: read.Piece, items: "pd.Index[Any]", slots: int) -> NDArray[np.int32]:
    """Return item rows [n, K]; K is that of the slates before, or (0) of the first one."""
    ids = _table(piece, "slate", "lists of item ids", slots)
    if pa.types.is_nested(piece.batch.column("slate").type.value_type):
        piece.refuse_type("slate", "lists of item ids")
    rows = items.get_indexer(pd.Index(ids.ravel())).reshape(ids.shape).astype(np.int32)

    def say(row: int) -> str:
        item = piece.batch.column("slate")[row].as_py()[int(np.argmin(rows[row]))]
        return f"item {item!r} of the slate is none of the {len(items)} of the policy or ratings"

    piece.refuse(np.any(rows < 0, axis=1), say)
    return rows


def _log_propensities(piece: read.Piece, slots: int) -> NDArray[np.float64]:
    """Return logarithms [n, K] of probabilities in (0, 1]."""
    values = _table(piece, "log_propensity", "lists of float64", slots)
    if piece.batch.column("log_propensity").type.value_type != pa.float64():
        piece.refuse_type("log_propensity", "lists of float64")
    piece.refuse(
        ~np.all(read.possible(values), axis=1),
        lambda row: f"log_propensity {values[row].tolist()}: expected logarithms of probabilities in (0, 1]",
    )
    return values


def _slot_rewards(piece: read.Piece, slots: int) -> NDArray[np.float64]:
    """Return numbers [n, K]; NaN where the piece has none."""
    if read.lists(piece, "slot_reward", "lists of numbers") is None:
        return np.full((len(piece), slots), np.nan)
    kind = piece.batch.column("slot_reward").type.value_type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        piece.refuse_type("slot_reward", "lists of numbers")
    values = np.asarray(_table(piece, "slot_reward", "lists of numbers", slots), np.float64)
    piece.refuse(
        ~np.all(np.isfinite(values), axis=1), lambda row: f"slot_reward {values[row].tolist()}: expected finite numbers"
    )
    return values


def _table(piece: read.Piece, name: str, expected: str, slots: int) -> NDArray[Any]:
    """Return a column of lists, all of K values, as [n, K]."""
    column_lists = read.lists(piece, name, expected)
    if column_lists is None:
        piece.refuse(np.ones(len(piece), bool), lambda _: f"{name} is missing")
        return np.empty((0, slots))
    piece.refuse(column_lists.missing, lambda _: f"{name} is missing")
    length = np.diff(column_lists.start)
    slots = slots or int(length[0])
    piece.refuse(
        (length != slots) | (slots == 0), lambda row: f"{name} has {length[row]} values; expected {slots or 'some'}"
    )
    null = np.asarray(pc.is_null(column_lists.values))
    piece.refuse(read.any_in_list(null, column_lists.start), lambda _: f"a value of {name} is missing")
    return np.asarray(column_lists.values.to_numpy(zero_copy_only=False)).reshape(len(piece), slots)


def _all_or_none(slot_reward: NDArray[Any], reward: NDArray[Any], path: Path) -> NDArray[np.float64] | None:
    missing = np.isnan(slot_reward).any(axis=1)
    if missing.all():
        return None
    if missing.any():
        raise DataError(f"{path}: row {int(missing.argmax()) + 1}: slot_reward is missing, but other rows have it")
    off = sum_fault(slot_reward, reward)
    if off.any():
        row = int(off.argmax())
        raise DataError(
            f"{path}: row {row + 1}: reward {reward[row]:g}, but its slots earned {slot_reward[row].sum():g} together"
        )
    return slot_reward


def _refuse_twins(event_id: NDArray[np.object_], path: Path) -> None:
    twins = pd.Series(event_id).duplicated().to_numpy()
    if twins.any():
        row = int(twins.argmax())
        raise DataError(f"{path}: row {row + 1}: event_id {event_id[row]!r} occurs twice")
