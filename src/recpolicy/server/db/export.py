"""Export of events and rewards as a log of rounds that `recpolicy log ingest` reads (data/bandit_log_files.py).

Each position of an event is a round, `EVENT:POSITION` (0 is the first). Its candidates are the items that the event
allowed, without those at earlier positions. Its propensity is conditional on those earlier items. A run appends new
rows. Each file holds the export's progress (a cursor) in its own metadata, so a killed run has either written a file
completely or not changed it. PostgreSQL may commit a later row number before an earlier one. The cursor therefore
remembers skipped numbers and looks for them again for an hour: no transaction takes that long.

If a version did not identify a user by a known id, each round has the context vector that the version used. The export
counts the events that it leaves out (export_policy.py). It needs pyarrow, so a server runs it in a subprocess.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, Select, func, or_, select

from recpolicy.core.errors import DataError
from recpolicy.core.files import atomic_path
from recpolicy.data.bandit_log_files import EVENTS, REWARDS
from recpolicy.data.log_columns import TIME, current_names, open_parquet
from recpolicy.data.log_metadata import old_columns, read_metadata
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.export_policy import LogPolicy, candidates_by_position, refusal
from recpolicy.server.db.schema import events, rewards

__all__ = ["Export", "Exported", "LogPolicy", "active_users", "export"]

_ROWS_AT_ONCE = 2_000
_COPIED_AT_ONCE = 1 << 16
_CURSOR, _METADATA = b"recpolicy export", b"recpolicy"
_PLAIN = ("event_id", "time", "user_id", "item_id", "log_propensity", "context")
_LATER = "context"
"""A column that older files lack: their rounds have no vectors."""
Numbers = NDArray[np.int64]
_GAP_MS = 3_600_000
_GAP_NUMBERS = 10_000  # an older gap belongs to no open transaction


@dataclass(frozen=True)
class Export:
    """The options of an export."""

    out: Path
    since: int = 0
    """Events before this time (milliseconds since 1970) are ignored."""
    least_rewards: int = 0
    """Users with fewer rewards in total are ignored."""
    places: int = 0
    """Number of first positions of an event that become rounds; 0: all."""


@dataclass(frozen=True)
class Exported:
    """The content of a log after a run."""

    new_rounds: int
    new_rewards: int
    rounds: int
    rewards: int
    left_out: Mapping[str, int]
    """Events left out so far, by reason: new_user, other_policy or no_propensity."""

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class Cursor:
    """The progress of an export through a table."""

    seq: int = 0
    gaps: tuple[tuple[int, int, int], ...] = ()
    """Skipped numbers: first, last, and the time when they were first missing."""
    left_out: Mapping[str, int] = field(default_factory=dict)

    def fresh(self, seq: Any) -> Any:
        """Return the condition that a row is new."""
        return or_(seq > self.seq, *(seq.between(first, last) for first, last, _ in self.gaps))

    def after(self, new_numbers: Numbers, left_out: Mapping[str, int], now: int) -> "Cursor":
        """Return the cursor after the rows of these numbers (ascending)."""
        gaps = []
        for first, last, at in self.gaps:
            if now - at < _GAP_MS:
                inside = new_numbers[(new_numbers >= first) & (new_numbers <= last)]
                gaps += [(*gap, at) for gap in _between(np.array([first - 1, *inside, last + 1]))]
        later = new_numbers[new_numbers > self.seq]
        gaps += [(*gap, now) for gap in _between(np.array([self.seq, *later]))]
        short = tuple((first, last, at) for first, last, at in gaps if last - first < _GAP_NUMBERS)
        return Cursor(int(later[-1]) if len(later) else self.seq, short, left_out)


def export(engine: Engine, policy: LogPolicy, wanted: Export) -> Exported:
    """Append new rows to the log in `wanted.out`; return the content of the log.

    Raises DataError if the folder holds a log with another catalog or other features, or a log that no server
    exported.
    """
    wanted.out.mkdir(parents=True, exist_ok=True)
    with FileLock(wanted.out / ".lock", timeout=60), engine.connect() as connection:
        shown = _append(connection, _Events(policy, wanted))
        came = _append(connection, _Rewards(policy, wanted))
    return Exported(shown[0], came[0], shown[1], came[1], shown[2])


class _Events:
    """The events file."""

    name, table = EVENTS, events

    def __init__(self, policy: LogPolicy, wanted: Export):
        self.policy, self.wanted, self.metadata = policy, wanted, policy.metadata
        user, item = policy.id_types
        text = pa.dictionary(pa.int32(), pa.string())
        self.schema: Any = pa.schema(
            [
                ("event_id", pa.string()), ("time", TIME), ("user_id", user), ("item_id", item),
                ("log_propensity", pa.float64()), ("policy", text), ("policy_version", text),
                ("candidates", pa.list_(item)), ("reward", pa.float64()), (_LATER, pa.list_(pa.float32())),
            ],
            {_METADATA: json.dumps(self.metadata).encode()},
        )  # fmt: skip

    def query(self) -> Select[Any]:
        """Return the query for the rows that may be exported."""
        return select(events).where(*_asked_for(self.wanted))

    def batch(self, rows: list[Mapping[str, Any]], left_out: Counter[str]) -> Any:
        """Return the rounds of these rows; counts the events that are left out."""
        columns: dict[str, list[Any]] = {name: [] for name in self.schema.names}
        for row in rows:
            reason = refusal(self.policy, row)
            if reason is None:
                self._add(columns, row)
            else:
                left_out[reason] += 1
        arrays = {name: pa.array(columns[name], self.schema.field(name).type) for name in _PLAIN}
        arrays |= {
            name: pa.array(columns[name], pa.string()).dictionary_encode() for name in ("policy", "policy_version")
        }
        arrays["reward"] = pa.nulls(len(columns["time"]), pa.float64())
        arrays["candidates"] = self._lists(columns["candidates"])
        return pa.record_batch([arrays[name] for name in self.schema.names], schema=self.schema)

    def _add(self, columns: dict[str, list[Any]], row: Mapping[str, Any]) -> None:
        places = self.wanted.places or None
        items = json.loads(row["item_ids"])[:places]
        propensity = np.minimum(json.loads(row["propensities"])[:places], 1.0)  # sums may round a little above 1
        count = len(items)
        columns["event_id"] += [f"{row['id']}:{place}" for place in range(count)]
        columns["item_id"] += items
        columns["log_propensity"] += np.log(propensity).tolist()
        columns["candidates"] += candidates_by_position(self.policy, row["allowed"], items)
        context = None if row["context"] is None else np.frombuffer(row["context"], np.float32)
        same = {
            "time": row["time"], "user_id": json.loads(row["user_key"]), "policy": row["agent"],
            "policy_version": row["policy_digest"], "context": context,
        }  # fmt: skip
        for name, value in same.items():
            columns[name] += [value] * count

    def _lists(self, candidates: list[NDArray[Any]]) -> Any:
        start = np.concatenate([[0], np.cumsum([len(ids) for ids in candidates])]).astype(np.int32)
        values = np.concatenate([np.array([], self.policy.item_id.dtype), *candidates])
        return pa.ListArray.from_arrays(pa.array(start), pa.array(values, self.policy.id_types[1]))


class _Rewards:
    """The rewards file."""

    name, table = REWARDS, rewards

    def __init__(self, policy: LogPolicy, wanted: Export):
        self.policy, self.wanted, self.metadata = policy, wanted, None
        self.schema: Any = pa.schema([("event_id", pa.string()), ("time", TIME), ("reward", pa.float64())])

    def query(self) -> Select[Any]:
        """Return the query for rewards; the checks of an event also apply to its rewards."""
        query = (
            select(rewards, events.c.context, events.c.propensities)
            .join(events, events.c.id == rewards.c.event_id)
            .where(*_asked_for(self.wanted))
        )
        return query.where(rewards.c.position < self.wanted.places) if self.wanted.places else query

    def batch(self, rows: list[Mapping[str, Any]], left_out: Counter[str]) -> Any:
        """Return the rewards of rounds that are in the log."""
        included = [row for row in rows if refusal(self.policy, row) is None]
        left_out["rewards"] += len(rows) - len(included)
        columns = [
            [f"{row['event_id']}:{row['position']}" for row in included],
            [row["time"] for row in included],
            [row["reward"] for row in included],
        ]
        arrays = [pa.array(column, kind) for column, kind in zip(columns, self.schema.types, strict=True)]
        return pa.record_batch(arrays, schema=self.schema)


def active_users(least: int) -> Select[Any]:
    """Return the query for keys of users with at least this many rewards in total."""
    return select(rewards.c.user_key).group_by(rewards.c.user_key).having(func.count() >= least)


def _asked_for(wanted: Export) -> list[Any]:
    """Return the conditions on events."""
    conditions: list[Any] = [events.c.time >= wanted.since]
    return (
        [*conditions, events.c.user_key.in_(active_users(wanted.least_rewards))] if wanted.least_rewards else conditions
    )


def _append(connection: Connection, part: "_Events | _Rewards") -> tuple[int, int, dict[str, int]]:
    """Rewrite the file with the new rows; return new rows, all rows, and the counts of events left out so far."""
    path, now = part.wanted.out / part.name, now_ms()
    old, cursor = _read(path, part)
    seq = part.table.c.seq
    new_numbers = np.array(connection.scalars(select(seq).where(cursor.fresh(seq)).order_by(seq)).all(), np.int64)
    rows_before = 0 if old is None else old.metadata.num_rows
    old_names = {} if old is None else old_columns(path)
    if old is not None and not len(new_numbers):
        return 0, rows_before, dict(cursor.left_out)
    left_out, new = Counter(cursor.left_out), 0
    with atomic_path(path) as temporary, pq.ParquetWriter(temporary, part.schema, compression="zstd") as writer:
        if old is not None:
            for batch in old.iter_batches(_COPIED_AT_ONCE):
                writer.write_batch(_as_now(batch, part.schema, old_names))
        for rows in _rows(connection, part.query(), seq, cursor, new_numbers):
            batch = part.batch(rows, left_out)
            writer.write_batch(batch)
            new += batch.num_rows
        writer.add_key_value_metadata({_CURSOR: json.dumps(asdict(cursor.after(new_numbers, dict(left_out), now)))})
    return new, rows_before + new, dict(left_out)


def _rows(
    connection: Connection, query: Select[Any], seq: Any, cursor: Cursor, new_numbers: Numbers
) -> Iterator[list[Mapping[str, Any]]]:
    """Yield the new rows in batches. Rows written after `found` was read wait for the next run."""
    if not len(new_numbers):
        return
    wanted = query.where(cursor.fresh(seq), seq <= int(new_numbers.max())).order_by(seq)
    result = connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(wanted).mappings()
    for part in result.partitions():
        known = np.isin([row["seq"] for row in part], new_numbers)
        yield [dict(row) for row, there in zip(part, known, strict=True) if there]


def _read(path: Path, part: "_Events | _Rewards") -> tuple[Any, Cursor]:
    """Return the file and its cursor; raises DataError for a file that this export cannot continue."""
    if not path.exists():
        return None, Cursor()
    file = open_parquet(path, tuple(name for name in part.schema.names if name != _LATER), old_columns(path))
    known = file.metadata.metadata or {}
    if _CURSOR not in known:
        raise DataError(f"{path}: the file is not an export of a server; choose another folder")
    if part.metadata is not None and read_metadata(path) != part.metadata:
        raise DataError(
            f"{path}: the log has another catalog or other features than the policy; export to another folder"
        )
    cursor = json.loads(known[_CURSOR])
    return file, Cursor(cursor["seq"], tuple((a, b, at) for a, b, at in cursor["gaps"]), cursor["left_out"])


def _as_now(batch: Any, schema: Any, old_names: Mapping[str, str]) -> Any:
    """Return a batch of the old file in the current schema."""
    batch = batch.rename_columns(current_names(batch.schema, old_names))
    if _LATER in schema.names and _LATER not in batch.schema.names:
        batch = batch.append_column(_LATER, pa.nulls(batch.num_rows, schema.field(_LATER).type))
    return batch.cast(schema)


def _between(numbers: Numbers) -> list[tuple[int, int]]:
    """Return first and last of the missing numbers between neighbors."""
    jumps = np.flatnonzero(np.diff(numbers) > 1)
    return [(int(numbers[at]) + 1, int(numbers[at + 1]) - 1) for at in jumps]
