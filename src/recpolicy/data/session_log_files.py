"""Session logs on disk: a folder with `sessions.parquet`, one row per step.

    event_id, time, user_id, session_id, step (0, 1, ...), item_id, log_propensity (float64; all rows or none),
    reward, liked, ended, policy, policy_version,
    candidates (candidate_columns.py; the items that the step could show, those aside that the session has shown; may be
    left out: the whole catalog),
    days_to_return, returned (session_returns.py; equal in all steps of a session; may be left out, both)

`ended`: the user left after this step; a session without such a step was cut. The metadata of the file have the
catalog and the scale of the rewards; without them, the catalog is all items and the rewards are in 0..1. Rows may
come in any order. Files are read in batches, and errors name the file and the row, counted from 1.
"""

from contextlib import suppress
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
from recpolicy.data.session_log import SessionLog, session_faults
from recpolicy.data.session_returns import DAYS, RETURNED, SessionReturns, describe_wrong_days, wrong_days

SESSIONS = "sessions.parquet"
FORMAT, FORMAT_VERSION = "recpolicy session log", VERSION
_COLUMNS = (
    "event_id", "time", "user_id", "session_id", "step", "item_id", "reward", "liked", "ended", "policy",
    "policy_version",
)  # fmt: skip
_SCALE = (0.0, 1.0)


def write_sessions(path: Path, log: SessionLog, tables: IdVocabulary) -> None:
    """Write the sessions to a file, atomically."""
    item_id = tables.items["item_id"].to_numpy()
    propensity: Any = pa.nulls(len(log), pa.float64())
    columns = {
        "event_id": pa.array(log.event_id, pa.string()),
        "time": pa.array(log.time, pa.int64()).cast(read.TIME),
        "user_id": pa.array(tables.users["user_id"].to_numpy()[log.user]),
        "session_id": pa.array(log.session, pa.string()).dictionary_encode(),
        "step": pa.array(log.step, pa.int32()),
        "item_id": pa.array(item_id[log.item]),
        "log_propensity": propensity if log.log_propensity is None else pa.array(log.log_propensity, pa.float64()),
        "reward": pa.array(log.reward, pa.float64()),
        "liked": pa.array(log.liked, pa.bool_()),
        "ended": pa.array(log.ended, pa.bool_()),
        "policy": pa.array(log.policy, pa.string()).dictionary_encode(),
        "policy_version": pa.array(log.version, pa.string()).dictionary_encode(),
    }
    metadata = {
        "format": FORMAT, "version": FORMAT_VERSION, "scale": list(log.scale),
        "action_items": item_id[log.action_items].tolist(),
    }  # fmt: skip
    if log.candidates is not None:
        catalog = item_id[log.action_items]
        kind = pa.int64() if catalog.dtype.kind in "iu" else pa.string()
        columns[CANDIDATES] = candidate_arrays(log.candidates, catalog, kind)[CANDIDATES]
    if log.returns is not None:
        columns[DAYS] = pa.array(np.repeat(log.returns.days, log.length), pa.float64())
        columns[RETURNED] = pa.array(np.repeat(log.returns.returned, log.length), pa.bool_())
    table = pa.table(columns).replace_schema_metadata(encode_metadata(metadata))
    with atomic_path(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def is_session_log(path: Path) -> bool:
    """Return True if this Parquet file is a session log, by its description or else by its columns."""
    return has_format(path, FORMAT, {"session_id", "step"})


def read_sessions(path: Path, tables: IdVocabulary) -> SessionLog:
    """Read the sessions of a file; raises DataError that names file, row and what is wrong, and where there are none.

    Of `tables` the users and items are used. Sessions come in the order in which they first appear.
    """
    metadata = read_metadata(path)
    check_format(metadata, (FORMAT, FORMAT_VERSION), path)
    scale = get_scale(metadata, _SCALE, path)
    rows = action_item_rows(metadata, tables.items, path)
    action_items = np.arange(len(tables.items), dtype=np.int32) if rows is None else np.unique(rows)
    users, items = pd.Index(tables.users["user_id"]), pd.Index(tables.items["item_id"])
    bit_order = None if rows is None or np.array_equal(rows, action_items) else rows
    reader, sets, parts = CandidateReader(Catalog(items, action_items, bit_order)), [], []
    for piece in read.pieces(path, _COLUMNS, old_columns(path)):
        if piece.has(EXCLUDED):
            raise DataError(f"{path}: column {EXCLUDED}: sessions have candidates only; leave it out")
        columns: dict[str, NDArray[Any]] = {
            "event_id": read.texts(piece, "event_id"),
            "time": read.times(piece),
            "user": read.id_rows(piece, "user_id", users),
            "session": read.texts(piece, "session_id"),
            "step": _steps(piece),
            "item": read.id_rows(piece, "item_id", items),
            "log_propensity": _log_propensities(piece),
            "reward": read.rewards(piece, scale, missing=False),
            "liked": _flags(piece, "liked"),
            "ended": _flags(piece, "ended"),
            "policy": read.texts(piece, "policy"),
            "version": read.texts(piece, "policy_version"),
            **_returns(piece),
        }
        strange = ~np.isin(columns["item"], action_items)
        piece.refuse(strange, lambda _: "the item shown is not in the catalog of this log")
        candidates = reader.read_piece(piece)
        if candidates is not None:
            shown = reader.catalog.actions(columns["item"])
            piece.refuse(~candidates.contain(shown), lambda _: "the item shown is not among the candidates of its step")
        sets.append((len(piece), candidates))
        parts.append(columns)
    if not parts:
        raise DataError(f"{path}: no sessions")
    together = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    _refuse_gaps(together["log_propensity"], path)
    order = _order(together, path)
    ordered: dict[str, Any] = {key: values[order] for key, values in together.items()}
    returns = _session_returns(ordered, order, path)
    joined = join_candidates(sets, len(action_items))
    ordered["candidates"] = None if joined is None else joined.take(order)
    if np.isnan(ordered["log_propensity"]).all():
        ordered["log_propensity"] = None
    return SessionLog(action_items=action_items, scale=scale, name=str(path), returns=returns, **ordered)


def own_vocabulary(path: Path) -> IdVocabulary:
    """Return the users and items that a log names, to read it without a policy; raises as `read_sessions` does."""
    catalog = read_metadata(path).get("action_items")
    names: dict[str, list[pa.Array]] = {"user_id": [], "item_id": []}
    for piece in read.pieces(path, _COLUMNS, old_columns(path)):
        for name, found in names.items():
            found.append(pc.unique(piece.batch.column(name).cast(_plain(piece.batch.column(name).type))).drop_null())
    if isinstance(catalog, list) and names["item_id"]:
        with suppress(pa.ArrowException):  # `read_sessions` says what is wrong with the catalog
            names["item_id"].append(pa.array(catalog, names["item_id"][0].type))
    tables = {
        name: pd.DataFrame({name: sorted(pc.unique(pa.chunked_array(found)).to_pylist()) if found else []})
        for name, found in names.items()
    }
    return IdVocabulary(tables["user_id"], tables["item_id"], _SCALE)


def _plain(kind: Any) -> Any:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _order(columns: dict[str, NDArray[Any]], path: Path) -> NDArray[np.intp]:
    """Return the rows [N] session after session; raises DataError with the row of a fault."""
    number = pd.factorize(columns["session"])[0]
    order: NDArray[np.intp] = np.lexsort((columns["step"], number))
    ordered = {key: values[order] for key, values in columns.items()}
    for wrong, what in session_faults(ordered):
        if wrong.any():
            place = int(wrong.argmax())
            session, step = ordered["session"][place], ordered["step"][place]
            raise DataError(f"{path}: row {order[place] + 1}: {what} (session {session!r}, step {step})")
    return order


def _returns(piece: read.Piece) -> dict[str, NDArray[Any]]:
    """Return the days and flags of each row [n]; empty for a file without them."""
    present = [name for name in (DAYS, RETURNED) if piece.has(name)]
    if len(present) == 1:
        other = RETURNED if present == [DAYS] else DAYS
        raise DataError(f"{piece.path}: column {present[0]} without {other}; expected both, or neither")
    if not present:
        return {}
    column = piece.batch.column(DAYS)
    if not (pa.types.is_floating(column.type) or pa.types.is_integer(column.type)):
        piece.refuse_type(DAYS, "numbers")
    _refuse_missing(piece, DAYS)
    days = np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    piece.refuse(wrong_days(days), lambda row: describe_wrong_days(float(days[row])))
    return {DAYS: days, RETURNED: _flags(piece, RETURNED)}


def _session_returns(ordered: dict[str, Any], order: NDArray[np.intp], path: Path) -> SessionReturns | None:
    """Take the second reward out of the columns of ordered steps; return that of each session."""
    if DAYS not in ordered:
        return None
    days, returned = ordered.pop(DAYS), ordered.pop(RETURNED)
    first = ordered["step"] == 0
    same = (np.diff(days, prepend=0) == 0) & ~np.diff(returned, prepend=False)
    if (wrong := ~first & ~same).any():
        place = int(wrong.argmax())
        raise DataError(
            f"{path}: row {order[place] + 1}: {DAYS} or {RETURNED} differs from the previous step"
            f" (session {ordered['session'][place]!r}); expected the same in all steps of a session"
        )
    return SessionReturns(days[first], returned[first])


def _log_propensities(piece: read.Piece) -> NDArray[np.float64]:
    """Return logarithms [n]; all NaN where the piece has none."""
    if not piece.has("log_propensity") or piece.batch.column("log_propensity").null_count == len(piece):
        return np.full(len(piece), np.nan)
    return read.log_propensities(piece)


def _refuse_gaps(log_propensity: NDArray[np.float64], path: Path) -> None:
    """Check that all rows have propensities, or none."""
    missing = np.isnan(log_propensity)
    if missing.any() and not missing.all():
        raise DataError(f"{path}: row {int(missing.argmax()) + 1}: log_propensity is missing, but other rows have it")


def _steps(piece: read.Piece) -> NDArray[np.int32]:
    column = piece.batch.column("step")
    if not pa.types.is_integer(column.type):
        piece.refuse_type("step", "whole numbers")
    _refuse_missing(piece, "step")
    values = np.asarray(column.cast(pa.int64()))
    piece.refuse((values < 0) | (values > 2**31 - 1), lambda row: f"step {values[row]}: expected 0, 1, 2, ...")
    return values.astype(np.int32)


def _flags(piece: read.Piece, name: str) -> NDArray[np.bool_]:
    column = piece.batch.column(name)
    if not pa.types.is_boolean(column.type):
        piece.refuse_type(name, "true or false")
    _refuse_missing(piece, name)
    return np.asarray(column.to_numpy(zero_copy_only=False), bool)


def _refuse_missing(piece: read.Piece, name: str) -> None:
    piece.refuse(np.asarray(pc.is_null(piece.batch.column(name))), lambda _: f"{name} is missing")
