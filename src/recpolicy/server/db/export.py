"""Export of events and rewards as a log of rounds that `recpolicy log ingest` reads (data/bandit_log_files.py).

Each position of an event is a round, `EVENT:POSITION` (0 is the first). Its candidates are the items that the event
allowed, without those at earlier positions. Its propensity is conditional on those earlier items.

An export writes parts (data/log_parts.py) of at most EVENTS_IN_PART events, each by a rename, and never changes one. A
part holds the export's progress (a cursor) in its metadata, so a killed run loses only the part that it was writing,
and the next run goes on after the last part. Memory does not grow with the number of events.

PostgreSQL may commit a later row number before an earlier one. The cursor therefore remembers skipped numbers and looks
for them again for an hour: no transaction takes that long. It needs pyarrow, so a server runs it in a subprocess.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, func, or_, select

from recpolicy.core.errors import DataError
from recpolicy.core.files import atomic_path
from recpolicy.core.progress import Progress, progress
from recpolicy.data.bandit_log_files import parquet_writer
from recpolicy.data.log_columns import open_parquet
from recpolicy.data.log_metadata import old_columns, read_metadata
from recpolicy.data.log_parts import log_parts, part_number, part_path
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.export_policy import LogPolicy
from recpolicy.server.db.export_rows import EventRows, ExportOptions, RewardRows

__all__ = ["ExportOptions", "Exported", "LogPolicy", "export"]

EVENTS_IN_PART = 100_000
"""Events (or rewards) of a part: what a killed run has to do again at most."""
_ROWS_AT_ONCE = 4_000
_CURSOR = b"recpolicy export"
Numbers = NDArray[np.int64]
_GAP_MS = 3_600_000
_GAP_NUMBERS = 10_000  # an older gap belongs to no open transaction


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


def export(engine: Engine, policy: LogPolicy, options: ExportOptions, show_progress: bool | None = False) -> Exported:
    """Append new rows to the log in `options.out`; return the content of the log.

    Raises DataError if the folder holds a log with another catalog or other features, or a log that no server
    exported.
    """
    options.out.mkdir(parents=True, exist_ok=True)
    with FileLock(options.out / ".lock", timeout=60):
        events = _append(engine, EventRows(policy, options), show_progress)
        rewards = _append(engine, RewardRows(policy, options), show_progress)
    return Exported(events[0], rewards[0], events[1], rewards[1], events[2])


def _append(engine: Engine, source: EventRows | RewardRows, show: bool | None) -> tuple[int, int, dict[str, int]]:
    """Write the new rows as further parts; return new rows, all rows, and the counts of events left out so far."""
    folder, name, seq = source.options.out, source.name, source.table.c.seq
    for scrap in folder.glob(f".{name.partition('.')[0]}*.part"):  # of a killed run
        scrap.unlink(missing_ok=True)
    paths = log_parts(folder, name)
    cursor, rows = _read_cursor(paths, source)
    number = 1 + (part_number(paths[-1], name) or 0) if paths else 0
    with engine.connect() as connection:
        last = connection.scalar(select(func.max(seq))) or 0
    new = 0
    with progress(f"export {name}", max(last - cursor.seq, 0), unit="rows", show=show) as shown:
        while True:
            with engine.connect() as connection:
                numbers = _new_numbers(connection, seq, cursor, last)
                if not len(numbers) and number:  # the first part is written even if it is empty
                    break
                added, cursor = _write_part(connection, source, part_path(folder, name, number), cursor, numbers, shown)
            new, number = new + added, number + 1
    return new, rows + new, dict(cursor.left_out)


def _new_numbers(connection: Connection, seq: Any, cursor: Cursor, last: int) -> Numbers:
    """Return the numbers of the rows of the next part, ascending."""
    numbers = select(seq).where(cursor.fresh(seq), seq <= last).order_by(seq).limit(EVENTS_IN_PART)
    return np.fromiter(connection.scalars(numbers), np.int64)


def _write_part(
    connection: Connection, source: EventRows | RewardRows, path: Path, cursor: Cursor, numbers: Numbers,
    shown: Progress,
) -> tuple[int, Cursor]:  # fmt: skip
    """Write the rows of these numbers as a part; return the number of its rows and the cursor after it."""
    left_out, count, now = Counter(cursor.left_out), 0, now_ms()
    with atomic_path(path) as temporary, parquet_writer(temporary, source.schema) as writer:
        for rows in _rows(connection, source, cursor, numbers):
            batch = source.batch(rows, left_out)
            writer.write_batch(batch)
            count += batch.num_rows
            shown.advance(len(rows))
        cursor = cursor.after(numbers, dict(left_out), now)
        writer.add_key_value_metadata({_CURSOR: json.dumps(asdict(cursor))})
    return count, cursor


def _rows(
    connection: Connection, source: EventRows | RewardRows, cursor: Cursor, numbers: Numbers
) -> Iterator[list[Any]]:
    """Yield the rows of these numbers in batches. Rows that came since wait for the next run."""
    if not len(numbers):
        return
    seq = source.table.c.seq
    query = source.query().where(cursor.fresh(seq), seq <= int(numbers[-1])).order_by(seq)
    for part in connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(query).partitions():
        known = np.isin(np.array([row.seq for row in part]), numbers)
        yield [row for row, there in zip(part, known, strict=True) if there]


def _read_cursor(paths: list[Path], source: EventRows | RewardRows) -> tuple[Cursor, int]:
    """Return the cursor of the last part and the rows of all; raises DataError for files that no export continues."""
    rows, cursor = 0, Cursor()
    for path in paths:
        file = open_parquet(path, tuple(name for name in source.schema.names if name not in source.later),
                            old_columns(path))  # fmt: skip
        known = file.metadata.metadata or {}
        if _CURSOR not in known:
            raise DataError(f"{path}: the file is not an export of a server; choose another folder")
        if source.metadata is not None and read_metadata(path) != source.metadata:
            raise DataError(
                f"{path}: the log has another catalog or other features than the policy; export to another folder"
            )
        body = json.loads(known[_CURSOR])
        cursor = Cursor(body["seq"], tuple((a, b, at) for a, b, at in body["gaps"]), body["left_out"])
        rows += file.metadata.num_rows
    return cursor, rows


def _between(numbers: Numbers) -> list[tuple[int, int]]:
    """Return first and last of the missing numbers between neighbors."""
    jumps = np.flatnonzero(np.diff(numbers) > 1)
    return [(int(numbers[at]) + 1, int(numbers[at + 1]) - 1) for at in jumps]
