"""Export of ranked events as a feature log in parts (data/feature_log_files.py), as export.py exports lists.

A part has the rounds of at most EVENTS_IN_PART events and the actions that they offer. Its actions are written before
its rounds, whose rename completes it, and no part changes later. The metadata of the rounds hold the export's cursor,
so a killed run loses the part that it was writing only. Memory does not grow with the number of events.

An event is exported once its reward is final. The export stops at the first event whose window is not over, in order of
writing, activated or not; the next one goes on there. A deferred event is exported a minute after its activation: then
all activations up to that time are stored. If the export has passed it by then, it is found by the time of its
activation. An event that was active from the start waits for its window only. Rewards of earlier parts stay as they
were exported, so all parts need the same settings of rewards.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from sqlalchemy import ColumnElement, Connection, Engine, and_, func, or_, select

from recpolicy.core.errors import DataError
from recpolicy.core.files import content_digest
from recpolicy.core.progress import Progress, progress
from recpolicy.data.feature_log_builder import FeatureLogBuilder
from recpolicy.data.feature_log_files import log_part_sizes, write_feature_log_part
from recpolicy.data.log_columns import open_parquet
from recpolicy.data.log_parts import ACTIONS, ROUNDS, log_parts, part_number
from recpolicy.data.reward_signals import RewardConfig, within_range
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.export import Cursor, Numbers
from recpolicy.server.db.feature_export import INACTIVE, WAITING, Actions, add_round, rewards_of, signals_of
from recpolicy.server.db.schema import rank_events

EVENTS_IN_PART = 50_000
"""Events of a part: what a killed run has to do again at most."""
_SETTLE_MS = 60_000
"""Activations of the last minute may not be stored yet."""
_ROWS_AT_ONCE = 2_000
_ACTIVE_AT_ONCE = rank_events.c.activated_at == rank_events.c.time
_CURSOR, _SETTINGS = b"recpolicy export", b"recpolicy reward"
_END = 2**62


@dataclass(frozen=True)
class RanksExported:
    """The content of a feature log after an export."""

    new_rounds: int
    rounds: int
    actions: int
    """Rows of actions of all parts; an action counts once per part."""
    signals: int
    """Signals that count, of the new rounds."""
    left_out: Mapping[str, int]
    """Events left out: waiting (their window, or the minute after their activation, is not over), inactive (deferred,
    not activated) or damaged."""

    def as_dict(self) -> dict[str, Any]:
        """Return the counts as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class RankCursor:
    """The progress of an export through the ranked events."""

    rows: Cursor = field(default_factory=Cursor)
    """Events in order of writing."""
    activated: tuple[int, int] = (0, 0)
    """Time and number of the last activation that was looked at, of the events before the cursor."""

    @classmethod
    def from_json(cls, text: bytes) -> "RankCursor":
        """Return the cursor of a part's metadata."""
        body = json.loads(text)
        rows = body["rows"]
        gaps = tuple((first, last, at) for first, last, at in rows["gaps"])
        return cls(Cursor(rows["seq"], gaps, rows["left_out"]), tuple(body["activated"]))

    def late(self, until: int) -> ColumnElement[bool]:
        """Return the condition of events that the export has passed and that were activated since."""
        seq, at = rank_events.c.seq, rank_events.c.activated_at
        time, number = self.activated
        again = [~seq.between(first, last) for first, last, _ in self.rows.gaps]
        return and_(
            seq <= self.rows.seq, *again, ~_ACTIVE_AT_ONCE, at <= until, or_(at > time, and_(at == time, seq > number))
        )


def export_ranks(engine: Engine, reward: RewardConfig, out: Path, show_progress: bool | None = False) -> RanksExported:
    """Append the ranked events whose rewards have become final to the feature log in the folder `out`.

    Raises:
        DataError: There is no event to export, or the folder holds a log that no server exported, or one with other
            settings of rewards.
    """
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock", timeout=60):
        for scrap in (*out.glob(".rounds*.part"), *out.glob(".actions*.part")):  # of a killed run
            scrap.unlink(missing_ok=True)
        paths = log_parts(out, ROUNDS)
        settings = content_digest(json.dumps(asdict(reward), sort_keys=True))
        cursor = _read_cursor(paths, settings)
        number = 1 + (part_number(paths[-1], ROUNDS) or 0) if paths else 0
        for path in log_parts(out, ACTIONS):  # of a killed run, whose rounds are missing
            if (part_number(path, ACTIONS) or 0) >= number:
                path.unlink()
        return _Export(engine, reward, out, settings, number, cursor).run(show_progress)


@dataclass
class _Export:
    """One run of an export."""

    engine: Engine
    reward: RewardConfig
    out: Path
    settings: str
    """Digest of the settings of rewards."""
    number: int
    """Number of the next part."""
    cursor: RankCursor
    rounds: int = 0
    signals: int = 0

    def run(self, show: bool | None) -> RanksExported:
        """Write the new events as further parts; return the content of the log."""
        now = now_ms()
        until = max(now - _SETTLE_MS, self.cursor.activated[0])  # a clock that steps back exports no event twice
        last, left_out = _span(self.engine, now - self.reward.wait_ms, until)
        with progress("export ranks", max(last - self.cursor.rows.seq, 0), unit="events", show=show) as shown:
            while self._write_late(until):
                pass
            while self._write_next(last, until, shown):
                pass
        total = Counter(self.cursor.rows.left_out) + left_out
        rounds, actions = log_part_sizes(self.out)
        if not rounds:
            counts = ", ".join(f"{count:,} {reason}" for reason, count in sorted(total.items())) or "none"
            raise DataError(f"no ranked event has a final reward yet; left out: {counts}")
        return RanksExported(self.rounds, rounds, actions, self.signals, dict(total))

    def _write_late(self, until: int) -> bool:
        """Write a part of the events that were activated late; return False after the last one."""
        columns = rank_events.c
        late = and_(self.cursor.late(until), columns.task.is_(None))
        query = select(columns.seq, columns.activated_at).where(late).order_by(columns.activated_at, columns.seq)
        with self._connection() as connection:
            found = connection.execute(query.limit(EVENTS_IN_PART)).all()
            rows = replace(self.cursor, activated=(until, _END))
            if len(found) == EVENTS_IN_PART:
                rows = replace(self.cursor, activated=(found[-1].activated_at, found[-1].seq))
            if found:
                numbers = np.sort(np.array([row.seq for row in found], np.int64))
                self._write(connection, late, numbers, rows)
        self.cursor = replace(rows, rows=self.cursor.rows)
        return len(found) == EVENTS_IN_PART

    def _write_next(self, last: int, until: int, shown: Progress) -> bool:
        """Write a part of the events that the export has not passed; return False after the last one."""
        columns = rank_events.c
        fresh = and_(self.cursor.rows.fresh(columns.seq), columns.seq <= last)
        with self._connection() as connection:
            numbers = select(columns.seq).where(fresh).order_by(columns.seq).limit(EVENTS_IN_PART)
            found = np.fromiter(connection.scalars(numbers), np.int64)
            if not len(found):
                return False
            cursor = replace(self.cursor, rows=self.cursor.rows.after(found, self.cursor.rows.left_out, now_ms()))
            active = or_(_ACTIVE_AT_ONCE, columns.activated_at <= until)
            ready = and_(fresh, columns.seq <= int(found[-1]), columns.task.is_(None), active)
            self._write(connection, ready, found, cursor)
        shown.advance(len(found))
        return True

    def _write(
        self, connection: Connection, condition: ColumnElement[bool], numbers: Numbers, cursor: RankCursor
    ) -> None:
        """Write the events of a condition with these numbers (ascending) as a part, and move on to a cursor.

        Without a round there is no part; the next one has the cursor.
        """
        builder = FeatureLogBuilder(str(self.out), self.reward.reward_range)
        keys, times, left_out = dict[tuple[str, int], int](), list[int](), Counter(cursor.rows.left_out)
        actions = Actions(connection)
        query = select(rank_events).where(condition).order_by(rank_events.c.seq)
        with self._connection() as reading:
            for part in reading.execution_options(yield_per=_ROWS_AT_ONCE).execute(query).partitions():
                known = np.isin(np.array([row.seq for row in part]), numbers)
                rows = [row for row, there in zip(part, known.tolist(), strict=True) if there]
                actions.load(rows)
                for row in rows:
                    reason = add_round(builder, row, actions)
                    if reason is None:
                        keys[row.id, row.slot] = len(times)
                        times.append(row.time)
                    else:
                        left_out[reason] += 1
        self.cursor = replace(cursor, rows=replace(cursor.rows, left_out=dict(left_out)))
        if not times:
            return
        given = signals_of(connection, list(keys))
        rewards, signals = rewards_of(given, keys, np.array(times, np.int64), within_range(self.reward))
        metadata = {_CURSOR: json.dumps(asdict(self.cursor)), _SETTINGS: self.settings}
        write_feature_log_part(replace(builder.build(), reward=rewards), self.out, self.number, metadata)
        self.rounds, self.signals, self.number = self.rounds + len(times), self.signals + signals, self.number + 1

    @contextmanager
    def _connection(self) -> Iterator[Connection]:
        with self.engine.connect() as connection:
            if self.engine.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            yield connection


def _span(engine: Engine, final: int, until: int) -> tuple[int, Counter[str]]:
    """Return the last number before the first event whose window is open, and the counts of events that are left out.

    Deferred events that were activated after `until` wait, too.
    """
    columns = rank_events.c
    active = (columns.task.is_(None), columns.activated_at.is_not(None))
    with engine.connect() as connection:
        # Deferred events count, too: the export must not pass one that may be activated within its window.
        first = connection.scalar(select(func.min(columns.seq)).where(columns.task.is_(None), columns.time > final))
        last = (connection.scalar(select(func.max(columns.seq))) or 0) if first is None else first - 1
        count = select(func.count()).select_from(rank_events)
        settling = and_(~_ACTIVE_AT_ONCE, columns.activated_at > until)
        waiting = connection.scalar(count.where(*active, or_(columns.seq > last, settling))) or 0
        inactive = connection.scalar(count.where(columns.task.is_(None), columns.activated_at.is_(None))) or 0
    return last, Counter({name: many for name, many in ((WAITING, waiting), (INACTIVE, inactive)) if many})


def _read_cursor(paths: list[Path], settings: str) -> RankCursor:
    """Return the cursor of the last part; raises DataError for files that no export continues."""
    cursor = RankCursor()
    for path in paths:
        known = open_parquet(path).metadata.metadata or {}
        if _CURSOR not in known:
            raise DataError(f"{path}: the file is not an export of a server in parts; export to another folder")
        if known[_SETTINGS].decode() != settings:
            raise DataError(
                f"{path}: its rewards have other settings (weights, window or default of [reward]); export to another"
                " folder"
            )
        cursor = RankCursor.from_json(known[_CURSOR])
    return cursor
