"""Feature logs on disk: a folder of two Parquet files, or a file of JSON lines.

    rounds.parquet   event_id, time, context (struct of features), offered (list of int32: rows of actions.parquet),
                     chosen (int32, position in `offered`), log_propensity (float64), reward (null: unknown yet),
                     policy, policy_version; optional user_id (null: unknown) and weight (float64)
    actions.parquet  action_id, digest, features (struct): each distinct action once

Each may have further parts (log_parts.py); row numbers of actions run through the parts. Values that no Parquet type
fits are JSON text; their field has the metadata `recpolicy: json`. The metadata of the rounds name the range of the
reward. JSON lines have one round a line, in plain text or gzip:

    {"event_id": "e1", "time": "2026-01-05T12:00:00Z", "user": "u7", "context": {"hour": 8},
     "actions": [{"id": "news", "features": {"price": 2}}, {"id": "music"}], "chosen": "news", "propensity": 0.8,
     "reward": 1.0, "policy": "champion", "version": "3fa9"}
"""

import io
import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.files import atomic_path, content_digest
from recpolicy.core.memory import check_memory
from recpolicy.data import log_columns as read
from recpolicy.data.csv_reader import Source
from recpolicy.data.feature_columns import (
    EXACT,
    Columns,
    action_digests,
    canonical_texts,
    column_from_values,
    is_missing,
    join_columns,
    records_from_columns,
    take_rows,
)
from recpolicy.data.feature_log import FeatureLog, FeatureLogBuilder, check_identities, log_of_propensity
from recpolicy.data.log_metadata import VERSION, check_format, encode_metadata, get_scale, read_metadata
from recpolicy.data.log_parts import log_parts

FORMAT, FORMAT_VERSION = "recpolicy feature log", VERSION
ROUNDS, ACTIONS = "rounds.parquet", "actions.parquet"
JSON_LINES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
"""Names of files of JSON lines end so."""
_REQUIRED = ("event_id", "time", "offered", "chosen", "log_propensity")
_ROWS = 1 << 16
_ROUND_BYTES, _VALUE_BYTES, _OFFER_BYTES = 400, 24, 16
_JSON = {b"recpolicy": b"json"}
_MAX_LINE = 1 << 24
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def is_feature_log(path: Path) -> bool:
    """Return True for the folder of a feature log, and for a file of JSON lines whose first round offers actions."""
    if path.is_dir():
        return bool(log_parts(path, ROUNDS))
    if not path.is_file() or not path.name.endswith(JSON_LINES):
        return False
    try:
        record = next(_records(path))[1]
    except (DataError, StopIteration):
        return False
    return "actions" in record and "chosen" in record


def read_feature_log(
    path: Path, name: str | None = None, reward_range: tuple[float, float] | None = None
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
    name = name or str(path)
    if path.is_dir():
        return _read_parquet(path, name, reward_range)
    if not path.exists():
        raise DataError(f"{path}: no such file; expected the folder or the file of a feature log")
    return read_json_lines(path, name, reward_range)


# Parquet ------------------------------------------------------------------------------------------------------------


def write_feature_log(log: FeatureLog, folder: Path) -> None:
    """Write the log as two Parquet files in `folder`, each atomically; raises DataError if there are further parts."""
    further = [path for name in (ROUNDS, ACTIONS) for path in log_parts(folder, name) if path.name != name]
    if further:
        raise DataError(f"{further[0]}: a part of another feature log; write to a new folder")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_path(folder / ACTIONS) as temporary:
        pq.write_table(actions_table(log), temporary, compression="zstd")
    metadata: dict[str, Any] = {"format": FORMAT, "version": VERSION, "actions": _table_digest(log.action_digest)}
    if log.reward_range is not None:
        metadata["scale"] = list(log.reward_range)
    context = _Struct.from_columns(log.context)
    schema = _rounds_schema(log, context).with_metadata(encode_metadata(metadata))
    with (
        atomic_path(folder / ROUNDS) as temporary,
        pq.ParquetWriter(temporary, schema, compression="zstd") as out,
    ):
        for first in range(0, len(log), _ROWS):
            out.write_table(_rounds_table(log, slice(first, min(first + _ROWS, len(log))), context, schema))


def actions_table(log: FeatureLog) -> Any:
    """Return the Arrow table of actions.parquet."""
    features = _Struct.from_columns(log.actions)
    columns = {
        "action_id": _id_array(log.action_id),
        "digest": pa.array(log.action_digest, pa.string()),
    }
    fields = [_field("action_id", *_kind(log.action_id)), pa.field("digest", pa.string())]
    if features.fields:
        columns["features"] = features.array(log.actions)
        fields.append(pa.field("features", columns["features"].type))
    metadata = encode_metadata({"format": f"{FORMAT} actions", "version": VERSION})
    return pa.table(list(columns.values()), schema=pa.schema(fields, metadata))


def _table_digest(digests: NDArray[np.object_]) -> str:
    return content_digest(digests)


class _Struct:
    """The Arrow type of each column of features."""

    def __init__(self, kinds: dict[str, tuple[Any, bool]]):
        self.kinds = kinds
        self.fields = [_field(name, *kind) for name, kind in kinds.items()]

    @classmethod
    def from_columns(cls, columns: Columns) -> "_Struct":
        return cls({name: _kind(column) for name, column in columns.items()})

    def array(self, columns: Columns) -> Any:
        arrays = [_array(columns[name], *kind) for name, kind in self.kinds.items()]
        return pa.StructArray.from_arrays(arrays, fields=self.fields)


def _field(name: str, kind: Any, as_json: bool) -> Any:
    return pa.field(name, kind, metadata=_JSON if as_json else None)


def _kind(column: NDArray[Any]) -> tuple[Any, bool]:
    """Return the Arrow type of a column, and True for values that are written as JSON text."""
    if column.dtype.kind == "f":
        return pa.float64(), False
    if column.dtype.kind == "b":
        return pa.bool_(), False
    types = set(map(type, column.tolist())) - {type(None)}
    if types <= {str}:
        return pa.string(), False
    if types <= {int} and types:
        return pa.int64(), False
    if types == {list}:
        parts = {type(part) for value in column if value for part in value}
        if parts <= {str}:
            return pa.list_(pa.string()), False
        if parts == {float}:
            return pa.list_(pa.float64()), False
    return pa.string(), True


def _array(column: NDArray[Any], kind: Any, as_json: bool) -> Any:
    if as_json:
        missing = is_missing(column).tolist()
        texts = [None if absent else text for absent, text in zip(missing, canonical_texts(column), strict=True)]
        return pa.array(texts, pa.string())
    return pa.array(column, kind, from_pandas=column.dtype.kind == "f")


def _id_array(ids: NDArray[np.object_], kind: Any = None, as_json: bool = False) -> Any:
    """Return ids as an Arrow array; `kind` and `as_json` are those of all ids of the log, if there are more."""
    if kind is None:
        kind, as_json = _kind(ids)
    values = ids.tolist()
    return pa.array([None if value is None else json.dumps(value) for value in values] if as_json else values, kind)


def _rounds_schema(log: FeatureLog, context: _Struct) -> Any:
    text = pa.dictionary(pa.int32(), pa.string())
    fields = [pa.field("event_id", pa.string()), pa.field("time", read.TIME)]
    if log.user is not None:
        fields.append(_field("user_id", *_kind(log.user)))
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


def _rounds_table(log: FeatureLog, rows: slice, context: _Struct, schema: Any) -> Any:
    start = log.start[rows.start : rows.stop + 1]
    offered = log.offered[start[0] : start[-1]]
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
        columns["user_id"] = _id_array(log.user[rows], *_kind(log.user))
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
    action_id, digest, actions = _read_actions(tables or [folder / ACTIONS])
    expected = metadata[-1].get("actions")
    if isinstance(expected, str) and len(files) == 1 and expected != _table_digest(digest):
        raise DataError(
            f"{folder / ACTIONS}: its actions are not those that {ROUNDS} refers to; copy both files of the log"
        )
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


def _read_actions(paths: Sequence[Path]) -> tuple[NDArray[np.object_], NDArray[np.object_], Columns]:
    """Return ids [M], digests [M] and columns of the actions; digests are computed again and must agree."""
    parts, ids, stored = [], [], []
    for path in paths:
        for piece in read.pieces(path, ("action_id",)):
            identifier = _ids(piece, "action_id", missing=False)
            columns = _struct_columns(piece, "features")
            ids.append(identifier)
            parts.append((columns, len(piece)))
            digest = action_digests(identifier, columns)
            if piece.has("digest"):
                named = read.texts(piece, "digest")
                piece.refuse(named != digest, lambda _: "the digest is not that of the action")
            stored.append(digest)
    if not ids:
        raise DataError(f"{paths[0]}: no actions")
    return np.concatenate(ids), np.concatenate(stored), join_columns(parts)


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


def column_from_arrow(column: Any, field: Any, *, integers: bool = False) -> NDArray[Any]:
    """Return the column of an Arrow array; `integers` keeps whole numbers as they are, for ids."""
    kind, types = column.type, pa.types
    if types.is_dictionary(kind):
        column = column.dictionary_decode()
        kind = column.type
    if (field.metadata or {}).get(b"recpolicy") == b"json":
        return _values([_loads(text, field.name) for text in column.to_pylist()], field.name, integers)
    if types.is_boolean(kind) and not column.null_count:
        return np.asarray(column.to_numpy(zero_copy_only=False), bool)
    if types.is_integer(kind) and not integers:
        low_high = pc.min_max(column).as_py()
        if low_high["min"] is None or max(-low_high["min"], low_high["max"]) <= EXACT:
            return np.array(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
    if types.is_floating(kind) or types.is_decimal(kind):
        values = np.array(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False), np.float64)
        if np.isinf(values).any():
            raise DataError(f"{field.name} is infinite; expected finite numbers")
        return values
    if types.is_timestamp(kind) or types.is_date(kind):
        column = pc.strftime(column.cast(read.TIME, safe=False), "%Y-%m-%dT%H:%M:%SZ")
    return _values(column.to_pylist(), field.name, integers)


def _values(values: list[Any], name: str, integers: bool) -> NDArray[Any]:
    """Return values as a column of features, or as ids if `integers`."""
    if not integers:
        return column_from_values(values, name)
    return np.array([*values, None], object)[:-1]


def _loads(text: str | None, name: str) -> Any:
    try:
        return None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        raise DataError(f"{name} is not JSON: {text[:80]!r}") from None  # type: ignore[index]


# JSON lines ---------------------------------------------------------------------------------------------------------


def write_json_lines(log: FeatureLog, path: Path) -> None:
    """Write the log as JSON lines, atomically."""
    features = list(records_from_columns(log.actions, len(log.action_id)))
    actions = [
        {"id": identifier, **({"features": record} if record else {})}
        for identifier, record in zip(log.action_id.tolist(), features, strict=True)
    ]
    times = pd.to_datetime(pd.Series(log.time), unit="ms", utc=True).dt.strftime("%Y-%m-%dT%H:%M:%S.%f").str[:-3]
    contexts = records_from_columns(log.context, len(log))
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        for row, context in enumerate(contexts):
            offered = log.offered[log.start[row] : log.start[row + 1]].tolist()
            record = {
                "event_id": log.event_id[row], "time": f"{times.iloc[row]}Z",
                "user": None if log.user is None else log.user[row], "context": context,
                "actions": [actions[action] for action in offered], "chosen": actions[offered[log.chosen[row]]]["id"],
                "log_propensity": float(log.log_propensity[row]),
                "reward": None if np.isnan(log.reward[row]) else float(log.reward[row]),
                "weight": None if log.weight is None else float(log.weight[row]),
                "policy": log.policy[row], "version": log.version[row],
            }  # fmt: skip
            line = {key: value for key, value in record.items() if value is not None}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


_KEYS = (
    "event_id", "time", "user", "context", "actions", "chosen", "propensity", "log_propensity", "reward", "weight",
    "policy", "version",
)  # fmt: skip


def read_json_lines(path: Path, name: str | None = None, reward_range: tuple[float, float] | None = None) -> FeatureLog:
    """Read a feature log of JSON lines; raises DataError that names file and line."""
    builder = FeatureLogBuilder(name or str(path), reward_range)
    for line, record in _records(path):
        try:
            builder.add(**_round(record))
        except (ValueError, OverflowError, RecursionError) as error:
            raise DataError(f"{path}:{line}: {error}") from None
        if line % _ROWS == 0:
            check_memory(
                len(builder) * _ROUND_BYTES + builder.offers * _OFFER_BYTES, f"{path}: {len(builder):,} rounds so far",
                "read a shorter part of the log",
            )  # fmt: skip
    return builder.build()


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each line, from 1, and its JSON object; blank lines are left out."""
    try:
        with Source(path).open() as raw, io.TextIOWrapper(raw, "utf-8-sig") as stream:
            number = 0
            while text := stream.readline(_MAX_LINE):
                number += 1
                if len(text) >= _MAX_LINE:
                    raise DataError(f"{path}:{number}: a line of more than {_MAX_LINE:,} characters")
                if not text.strip():
                    continue
                try:
                    record = json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{path}:{number}: not JSON: {error}") from None
                if not isinstance(record, dict):
                    raise DataError(f"{path}:{number}: expected a JSON object with a round")
                yield number, record
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error}") from None
    except DataError:
        raise
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def _round(record: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of FeatureLogBuilder.add of a line; raises DataError that says what is wrong with it."""
    unknown = sorted(set(record) - set(_KEYS))
    if unknown:
        raise DataError(f"the key {unknown[0]!r} is unknown; expected {', '.join(_KEYS)}")
    event_id, context = record.get("event_id"), record.get("context", {})
    if not isinstance(event_id, str) or not event_id:
        raise DataError(f"event_id is {event_id!r}; expected a text")
    if not isinstance(context, dict):
        raise DataError(f"context is {context!r}; expected an object of features")
    actions = [_action(action) for action in _list(record.get("actions"), "actions")]
    ids = [identifier for identifier, _ in actions]
    chosen = record.get("chosen")
    if chosen not in ids or isinstance(chosen, bool):
        raise DataError(f"chosen is {chosen!r}; expected the id of one of its {len(ids)} actions")
    user = record.get("user")
    if user is not None and (isinstance(user, bool) or not isinstance(user, int | str)):
        raise DataError(f"user is {user!r}; expected a whole number or text")
    return {
        "event_id": event_id, "time": parse_time(record.get("time")), "context": context, "actions": actions,
        "chosen": ids.index(chosen), "log_propensity": _log_propensity(record), "reward": _number(record, "reward"),
        "user": user, "weight": 1.0 if record.get("weight") is None else _number(record, "weight"),
        **{key: _text(record, key) for key in ("policy", "version") if record.get(key) is not None},
    }  # fmt: skip


def _action(action: Any) -> tuple[int | str, dict[str, Any]]:
    features = action.get("features", {}) if isinstance(action, dict) else None
    if not isinstance(action, dict) or "id" not in action or not isinstance(features, dict):
        raise DataError(f"an action is {str(action)[:80]}; expected an object with an id and an object of features")
    return action["id"], features


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{name} is {str(value)[:80]}; expected a list with at least one")
    return value


def _log_propensity(record: dict[str, Any]) -> float:
    if ("propensity" in record) == ("log_propensity" in record):
        raise DataError("expected one of propensity and log_propensity")
    if "propensity" in record:
        return log_of_propensity(_number(record, "propensity"))
    return float(_number(record, "log_propensity"))


def _number(record: dict[str, Any], name: str) -> Any:
    value = record.get(name)
    if value is None and name == "reward":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise DataError(f"{name} is {value!r}; expected a finite number")
    return float(value)


def _text(record: dict[str, Any], name: str) -> str:
    if not isinstance(record[name], str):
        raise DataError(f"{name} is {record[name]!r}; expected a text")
    return str(record[name])


def parse_time(value: Any) -> int:
    """Return milliseconds since 1970 of an ISO 8601 text, or of a whole number of milliseconds."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**15:
        return value
    try:
        time = datetime.fromisoformat(value.strip()) if isinstance(value, str) else None
    except ValueError:
        time = None
    if time is None:
        raise DataError(f"time is {value!r}; expected such as 2026-01-05T12:00:00Z, or milliseconds since 1970")
    zoned = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return (zoned - _EPOCH) // timedelta(milliseconds=1)
