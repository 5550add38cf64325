"""Erasure of one user from an exported log (log_parts.py): rounds by user id, rewards by their event ids.

A log of lists has events and rewards, a feature log has rounds that contain their rewards. The actions of a feature log
stay: other rounds may refer to them.

A file is rewritten row group by row group, and only if it has rows of the user. Its metadata stay, also the cursor of
the export, so a later export continues and brings nothing back. Rewards are rewritten first: after a kill in between,
the next call still finds their event ids.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from filelock import FileLock

from recpolicy.core.errors import DataError
from recpolicy.core.files import atomic_path
from recpolicy.data.bandit_log_files import parquet_writer
from recpolicy.data.log_parts import EVENTS, REWARDS, ROUNDS, log_parts

_ARROW_SCHEMA = b"ARROW:schema"


@dataclass(frozen=True)
class ErasedLog:
    """The number of erased rows, and of rewritten files."""

    rounds: int
    rewards: int
    files: int


def erase_from_log(folder: Path, user: int | str) -> ErasedLog:
    """Erase a user from the log in a folder; raises DataError for a folder without one, or with a damaged file."""
    parts = log_parts(folder, EVENTS) or log_parts(folder, ROUNDS)
    if not parts:
        raise DataError(f"{folder}: no {EVENTS} and no {ROUNDS}; expected the folder of recpolicy log export")
    try:
        with FileLock(folder / ".lock", timeout=60):
            return _erase(folder, parts, user)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{folder}: a file cannot be rewritten: {error}") from None


def _erase(folder: Path, parts: list[Path], user: int | str) -> ErasedLog:
    ids = pa.chunked_array([_event_ids(path, user) for path in parts], pa.string())
    if not len(ids):
        return ErasedLog(0, 0, 0)
    rewards = [
        _rewrite(path, "event_id", lambda event_id: pc.is_in(event_id, ids)) for path in log_parts(folder, REWARDS)
    ]
    rounds = [_rewrite(path, "user_id", partial(_is_user, user=_stored_id(path, user))) for path in parts]
    return ErasedLog(sum(rounds), sum(rewards), sum(count > 0 for count in (*rounds, *rewards)))


def _event_ids(path: Path, user: int | str) -> Any:
    """Return the ids of the user's rows in a file."""
    found = [pa.array([], pa.string())]
    stored = _stored_id(path, user)
    with pq.ParquetFile(path) as file:
        if "user_id" not in file.schema_arrow.names:
            return found[0]
        for batch in file.iter_batches(columns=["event_id", "user_id"]):
            found.append(batch["event_id"].filter(_is_user(batch["user_id"], stored)).cast(pa.string()))
    return pa.concat_arrays(found)


def _stored_id(path: Path, user: int | str) -> int | str:
    """Return a user's id as a file has it: JSON text where a feature log has ids of both types."""
    schema = pq.read_schema(path)
    field = schema.field("user_id") if "user_id" in schema.names else None
    as_json = field is not None and (field.metadata or {}).get(b"recpolicy") == b"json"
    return json.dumps(user) if as_json else user


def _is_user(user_id: Any, user: int | str) -> Any:
    """Return the mask of a user's rows; ids of another type are other users."""
    same_type = pa.types.is_integer(user_id.type) == isinstance(user, int)
    return pc.equal(user_id, pa.scalar(user, user_id.type) if same_type else pa.scalar(None, user_id.type))


def _rewrite(path: Path, column: str, erased: Callable[[Any], Any]) -> int:
    """Write a file without the rows that a mask of a column names; return their number. A file without any stays."""
    with pq.ParquetFile(path) as file:
        if column not in file.schema_arrow.names:
            return 0
        groups = range(file.num_row_groups)
        count = sum(_count(erased(file.read_row_group(group, columns=[column])[column])) for group in groups)
        if not count:
            return 0
        known = file.schema_arrow.metadata or {}
        extra = {key: value for key, value in (file.metadata.metadata or {}).items()
                 if key != _ARROW_SCHEMA and key not in known}  # fmt: skip
        with atomic_path(path) as temporary, parquet_writer(temporary, file.schema_arrow) as writer:
            for group in groups:
                rows = file.read_row_group(group)
                writer.write_table(rows.filter(pc.invert(pc.fill_null(erased(rows[column]), False))))
            writer.add_key_value_metadata(extra)
    return count


def _count(mask: Any) -> int:
    return int(pc.sum(mask).as_py() or 0)
