"""Feature logs on disk: a folder of two Parquet files, or a file of JSON lines.

    rounds.parquet   event_id, time, context (struct of features), offered (list of int32: rows of actions.parquet),
                     chosen (int32, position in `offered`), log_propensity (float64), reward (null: unknown yet),
                     policy, policy_version; optional user_id (null: unknown) and weight (float64)
    actions.parquet  action_id, digest, features (struct): each distinct action once

Each may have further parts (log_parts.py); row numbers of actions run through the parts, and an action may occur in
several of them. Values that no Parquet type fits are JSON text; their field has the metadata `recpolicy: json`. The
metadata of the rounds name the range of the reward. feature_log_json.py reads and writes JSON lines.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.files import atomic_path, content_digest
from recpolicy.core.memory import check_memory
from recpolicy.data import log_columns as read
from recpolicy.data.feature_columns import (
    Columns,
    action_digests,
    join_columns,
    take_rows,
)
from recpolicy.data.feature_log import FeatureLog, check_identities
from recpolicy.data.feature_log_arrow import FeatureStruct, arrow_field, arrow_kind, column_from_arrow, id_array
from recpolicy.data.feature_log_json import JSON_LINES, json_records, read_json_lines
from recpolicy.data.log_metadata import VERSION, check_format, encode_metadata, get_scale, read_metadata
from recpolicy.data.log_parts import ACTIONS, ROUNDS, log_parts, part_number, part_path

FORMAT, FORMAT_VERSION = "recpolicy feature log", VERSION
TRAINING, EVALUATION = "training", "evaluation"
"""Folders of an ingested feature log: the rounds to learn from, and the later rounds for evaluation."""
_REQUIRED = ("event_id", "time", "offered", "chosen", "log_propensity")
_ROWS = 1 << 16
_ROUND_BYTES, _VALUE_BYTES = 400, 24


def is_feature_log(path: Path) -> bool:
    """Return True for the folder of a feature log, also an ingested one, and for a file of JSON lines of one."""
    if path.is_dir():
        return bool(log_parts(path, ROUNDS) or log_parts(path / TRAINING, ROUNDS))
    if not path.is_file() or not path.name.endswith(JSON_LINES):
        return False
    try:
        record = next(json_records(path))[1]
    except (DataError, StopIteration):
        return False
    return "actions" in record and "chosen" in record


def read_feature_log(
    path: str | Path, name: str | None = None, reward_range: tuple[float, float] | None = None
) -> FeatureLog:
    """Read a feature log.

    Args:
        path: Folder of Parquet files, or file of JSON lines.
        name: Name of the log; None takes the path.
        reward_range: Lowest and highest reward; None takes those of the files.

    Raises:
        DataError: The files are damaged or wrong; names file and row.
        MemoryLimitError: The log does not fit into memory.
    """
    path = Path(path)
    name = name or str(path)
    if path.is_dir():
        return _read_parquet(path, name, reward_range)
    if not path.exists():
        raise DataError(f"{path}: no such file; expected the folder or the file of a feature log")
    return read_json_lines(path, name, reward_range)


def feature_log_part(path: Path, part: str) -> Path:
    """Return the folder of a part of an ingested feature log, TRAINING or EVALUATION; `path` itself if it has no parts.

    Raises:
        DataError: The log was ingested, but has no such part.
    """
    if not (path / TRAINING).is_dir():
        return path
    if not (path / part).is_dir():
        raise DataError(f"{path}: no rounds for {part}; ingest the log again with --evaluation-share 0.2")
    return path / part


def read_training_log(path: Path) -> FeatureLog:
    """Return the rounds to learn from: those of an ingested log, or all rounds of another feature log.

    Raises:
        DataError: There is no feature log.
    """
    return read_feature_log(feature_log_part(path, TRAINING), str(path))


def write_feature_log(log: FeatureLog, folder: Path) -> None:
    """Write the log as two Parquet files in `folder`, each atomically; raises DataError if there are further parts."""
    further = [path for name in (ROUNDS, ACTIONS) for path in log_parts(folder, name) if path.name != name]
    if further:
        raise DataError(f"{further[0]}: a part of another feature log; write to a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_feature_log_part(log, folder, 0)


def write_feature_log_part(
    log: FeatureLog, folder: Path, number: int, added: Mapping[bytes, str] | None = None
) -> None:
    """Write a log as a part: its actions, then its rounds, each atomically.

    Args:
        log: The rounds of the part.
        folder: The folder, with the parts before this one.
        number: Number of the part; 0 is the first.
        added: Further metadata of the rounds.
    """
    with atomic_path(part_path(folder, ACTIONS, number)) as temporary:
        pq.write_table(actions_table(log), temporary, compression="zstd")
    metadata: dict[str, Any] = {"format": FORMAT, "version": VERSION, "actions": _table_digest(log.action_digest)}
    if log.reward_range is not None:
        metadata["scale"] = list(log.reward_range)
    before = sum(pq.read_metadata(part_path(folder, ACTIONS, earlier)).num_rows for earlier in range(number))
    context = FeatureStruct.from_columns(log.context)
    schema = _rounds_schema(log, context).with_metadata(encode_metadata(metadata) | dict(added or {}))
    with (
        atomic_path(part_path(folder, ROUNDS, number)) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as out,
    ):
        for first in range(0, len(log), _ROWS):
            rows = slice(first, min(first + _ROWS, len(log)))
            out.write_table(_rounds_table(log, rows, context, schema, before))


def log_part_sizes(folder: Path) -> tuple[int, int]:
    """Return the rounds and the rows of actions of all parts."""
    rounds, actions = (
        sum(pq.read_metadata(path).num_rows for path in log_parts(folder, name)) for name in (ROUNDS, ACTIONS)
    )
    return rounds, actions


def actions_table(log: FeatureLog) -> Any:
    """Return the Arrow table of actions.parquet."""
    features = FeatureStruct.from_columns(log.actions)
    columns = {
        "action_id": id_array(log.action_id),
        "digest": pa.array(log.action_digest, pa.string()),
    }
    fields = [arrow_field("action_id", *arrow_kind(log.action_id)), pa.field("digest", pa.string())]
    if features.fields:
        columns["features"] = features.array(log.actions)
        fields.append(pa.field("features", columns["features"].type))
    metadata = encode_metadata({"format": f"{FORMAT} actions", "version": VERSION})
    return pa.table(list(columns.values()), schema=pa.schema(fields, metadata))


def _table_digest(digests: NDArray[np.object_]) -> str:
    return content_digest(digests)


def _rounds_schema(log: FeatureLog, context: FeatureStruct) -> Any:
    text = pa.dictionary(pa.int32(), pa.string())
    fields = [pa.field("event_id", pa.string()), pa.field("time", read.TIME)]
    if log.user is not None:
        fields.append(arrow_field("user_id", *arrow_kind(log.user)))
    if context.fields:
        fields.append(pa.field("context", pa.struct(context.fields)))
    fields += [
        pa.field("offered", pa.list_(pa.int32())), pa.field("chosen", pa.int32()),
        pa.field("log_propensity", pa.float64()), pa.field("reward", pa.float64()),
        pa.field("policy", text), pa.field("policy_version", text),
    ]  # fmt: skip
    if log.weight is not None:
        fields.append(pa.field("weight", pa.float64()))
    return pa.schema(fields)


def _rounds_table(log: FeatureLog, rows: slice, context: FeatureStruct, schema: Any, before: int) -> Any:
    """Return rounds as an Arrow table; row numbers of actions begin at `before`."""
    start = log.start[rows.start : rows.stop + 1]
    offered = log.offered[start[0] : start[-1]] + np.int32(before)
    columns = {
        "event_id": pa.array(log.event_id[rows], pa.string()),
        "time": pa.array(log.time[rows], pa.int64()).cast(read.TIME),
        "offered": pa.ListArray.from_arrays(pa.array(start - start[0], pa.int32()), pa.array(offered, pa.int32())),
        "chosen": pa.array(log.chosen[rows], pa.int32()),
        "log_propensity": pa.array(log.log_propensity[rows], pa.float64()),
        "reward": pa.array(log.reward[rows], pa.float64(), from_pandas=True),
        "policy": pa.array(log.policy[rows], pa.string()).dictionary_encode(),
        "policy_version": pa.array(log.version[rows], pa.string()).dictionary_encode(),
    }
    if log.user is not None:
        columns["user_id"] = id_array(log.user[rows], *arrow_kind(log.user))
    if context.fields:
        columns["context"] = context.array(take_rows(log.context, rows))
    if log.weight is not None:
        columns["weight"] = pa.array(log.weight[rows], pa.float64())
    return pa.table([columns[name] for name in schema.names], schema=schema)


def _read_parquet(folder: Path, name: str, reward_range: tuple[float, float] | None) -> FeatureLog:
    files, tables = log_parts(folder, ROUNDS), log_parts(folder, ACTIONS)
    if not files:
        raise DataError(f"{folder}: no {ROUNDS}; expected the folder of a feature log")
    metadata = [read_metadata(path) for path in files]
    for path, description in zip(files, metadata, strict=True):
        check_format(description, (FORMAT, VERSION), path)
    _check_memory([*files, *tables], name)
    action_id, digest, actions, sizes = _read_actions(tables or [folder / ACTIONS])
    _check_actions(files, metadata, tables or [folder / ACTIONS], np.split(digest, np.cumsum(sizes)[:-1]))
    if reward_range is None and "scale" in metadata[0]:
        reward_range = get_scale(metadata[0], (0.0, 1.0), files[0])
    pieces = [_read_rounds(piece, len(action_id)) for path in files for piece in read.pieces(path, _REQUIRED)]
    pieces = [piece for piece in pieces if len(piece["event_id"])]
    if not pieces:
        raise DataError(f"{files[0]}: no rounds")
    rows = [len(piece["event_id"]) for piece in pieces]
    context = join_columns([(piece.pop("context"), count) for piece, count in zip(pieces, rows, strict=True)])
    optional = join_columns([(piece.pop("optional"), count) for piece, count in zip(pieces, rows, strict=True)])
    columns = {key: np.concatenate([piece[key] for piece in pieces]) for key in pieces[0]}
    count = columns.pop("count")
    if len(tables) > 1:  # each part has the actions that it offers
        row, digest = pd.factorize(digest)
        first = np.unique(row, return_index=True)[1]
        action_id, actions = action_id[first], take_rows(actions, first)
        columns["offered"] = row[columns["offered"]].astype(np.int32)
    log = FeatureLog(
        **columns, context=context, action_id=action_id, actions=actions, action_digest=digest,
        start=np.concatenate([[0], np.cumsum(count)]).astype(np.int64), name=name, reward_range=reward_range,
        user=optional.get("user"), weight=_known_weight(optional.get("weight")),
    )  # fmt: skip
    check_identities(log)
    return log


def _known_weight(weight: NDArray[Any] | None) -> NDArray[np.float64] | None:
    return None if weight is None else np.where(np.isnan(weight), 1.0, weight)


def _check_memory(files: Sequence[Path], name: str) -> None:
    rows = values = 0
    for path in files:
        metadata = read.open_parquet(path).metadata
        groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
        rows += metadata.num_rows
        values += sum(group.column(number).num_values for group in groups for number in range(group.num_columns))
    check_memory(
        rows * _ROUND_BYTES + values * _VALUE_BYTES, f"{name}: {rows:,} rows with {values:,} values",
        "read a shorter part of the log",
    )  # fmt: skip


def _check_actions(
    files: Sequence[Path], metadata: Sequence[Mapping[str, Any]], tables: Sequence[Path],
    digests: Sequence[NDArray[np.object_]],
) -> None:  # fmt: skip
    """Raise DataError if the actions of a part are not those that its rounds name."""
    by_number = {part_number(path, ACTIONS): part for path, part in zip(tables, digests, strict=True)}
    for path, description in zip(files, metadata, strict=True):
        part, expected = by_number.get(part_number(path, ROUNDS)), description.get("actions")
        if isinstance(expected, str) and part is not None and expected != _table_digest(part):
            raise DataError(
                f"{part_path(path.parent, ACTIONS, part_number(path, ROUNDS) or 0)}: its actions are not those that"
                f" {path.name} refers to; copy both files of the log"
            )


def _read_actions(
    paths: Sequence[Path],
) -> tuple[NDArray[np.object_], NDArray[np.object_], Columns, list[int]]:
    """Return ids [M], digests [M] and columns of the actions, and the rows of each file.

    Digests are computed again and must agree.
    """
    parts, ids, stored, sizes = [], [], [], []
    for path in paths:
        sizes.append(0)
        for piece in read.pieces(path, ("action_id",)):
            identifier = _ids(piece, "action_id", missing=False)
            columns = _struct_columns(piece, "features")
            ids.append(identifier)
            sizes[-1] += len(piece)
            parts.append((columns, len(piece)))
            digest = action_digests(identifier, columns)
            if piece.has("digest"):
                named = read.texts(piece, "digest")
                piece.refuse(named != digest, lambda _: "the digest is not that of the action")
            stored.append(digest)
    if not ids:
        raise DataError(f"{paths[0]}: no actions")
    return np.concatenate(ids), np.concatenate(stored), join_columns(parts), sizes


def _ids(piece: read.Piece, name: str, *, missing: bool) -> NDArray[np.object_]:
    """Return ids [n], integers or texts; None where they are missing, if that is allowed."""
    column = column_from_arrow(piece.batch.column(name), piece.batch.schema.field(name), integers=True)
    values = column if column.dtype == object else column.astype(object)
    wrong = np.array([type(value) not in (int, str) and not (missing and value is None) for value in values], bool)
    piece.refuse(wrong, lambda row: f"{name} is {values[row]!r}; expected a whole number or text")
    return values


def _read_rounds(piece: read.Piece, actions: int) -> dict[str, Any]:
    offers = read.lists(piece, "offered", "lists of row numbers of actions")
    if offers is None or offers.missing.any():
        missing = np.ones(len(piece), bool) if offers is None else offers.missing
        piece.refuse(missing, lambda _: "offered is missing")
        raise DataError(f"{piece.path}: no rounds")
    offered = _whole_numbers(piece, "offered", offers.values)
    piece.refuse(
        read.any_in_list((offered < 0) | (offered >= actions), offers.start),
        lambda _: f"offered names an action that is none of the {actions:,} in {ACTIONS}",
    )
    count = np.diff(offers.start)
    piece.refuse(count == 0, lambda _: "offered has no action")
    chosen = _whole_numbers(piece, "chosen", piece.batch.column("chosen"))
    piece.refuse(
        (chosen < 0) | (chosen >= count),
        lambda row: f"chosen is {chosen[row]}; expected a position among its {count[row]} actions, from 0",
    )
    optional: dict[str, NDArray[Any]] = {}
    if piece.has("user_id"):
        optional["user"] = _ids(piece, "user_id", missing=True)
    if piece.has("weight"):
        weight = _numbers(piece, "weight")
        piece.refuse(~(np.isnan(weight) | ((weight > 0) & np.isfinite(weight))), lambda row: (
            f"weight is {weight[row]}; expected a positive number"
        ))  # fmt: skip
        optional["weight"] = weight
    reward = _numbers(piece, "reward") if piece.has("reward") else np.full(len(piece), np.nan)
    piece.refuse(np.isinf(reward), lambda row: f"reward is {reward[row]}; expected a finite number")
    unknown = np.full(len(piece), "unknown", object)
    return {
        "event_id": read.texts(piece, "event_id"), "time": read.times(piece), "count": count,
        "offered": offered.astype(np.int32), "chosen": chosen.astype(np.int32),
        "log_propensity": read.log_propensities(piece), "reward": reward,
        "policy": read.shared_texts(piece, "policy") if piece.has("policy") else unknown,
        "version": read.shared_texts(piece, "policy_version") if piece.has("policy_version") else unknown,
        "context": _struct_columns(piece, "context"), "optional": optional,
    }  # fmt: skip


def _whole_numbers(piece: read.Piece, name: str, column: Any) -> NDArray[np.int64]:
    if not pa.types.is_integer(column.type) or column.null_count:
        piece.refuse_type(name, "whole numbers, none missing")
    return np.asarray(column.cast(pa.int64(), safe=False))


def _numbers(piece: read.Piece, name: str) -> NDArray[np.float64]:
    """Return numbers [n], NaN where they are missing."""
    column, kind = piece.batch.column(name), pa.types
    if not (kind.is_floating(column.type) or kind.is_integer(column.type) or kind.is_null(column.type)):
        piece.refuse_type(name, "numbers")
    return np.array(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)


def _struct_columns(piece: read.Piece, name: str) -> Columns:
    """Return the columns of a struct of features; none if the file has no such column."""
    if not piece.has(name):
        return {}
    column = piece.batch.column(name)
    if pa.types.is_null(column.type):
        return {}
    if not pa.types.is_struct(column.type):
        piece.refuse_type(name, "a struct of features")
    try:
        arrays = column.flatten()
        return {field.name: column_from_arrow(array, field) for array, field in zip(arrays, column.type, strict=True)}
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, DataError) as error:
        raise DataError(f"{piece.path}: {name}: {str(error).splitlines()[0]}") from None
