"""Read the events of a bandit log in pieces, check them, and collect the rounds that are needed.

N events, n of them in a piece, A actions. Only a piece exists at a time, except for a hash of 8 bytes per event (an id
may occur once) and what a caller collects. Every fault is a DataError that names file and row, counted from 1.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.hashes import Hashes, text_hashes
from recpolicy.core.memory import check_memory
from recpolicy.data import log_columns as read
from recpolicy.data.bandit_log import NO_GUARDRAILS, ColdStartUsers
from recpolicy.data.bandit_log_files import GUARDRAILS, IdVocabulary, read_catalog
from recpolicy.data.candidate_columns import CandidateReader, Catalog, join_candidates
from recpolicy.data.candidates import CandidateSets
from recpolicy.data.log_metadata import old_columns

_COLUMNS = ("event_id", "time", "user_id", "item_id", "log_propensity", "policy", "policy_version")
_REWARD_COLUMNS = ("event_id", "time", "reward")
_HASH_BYTES = 8
ROUND_BYTES = 320
"""Memory of a collected round at the peak, while columns are joined and sorted; candidates and contexts come on top."""


@dataclass(frozen=True)
class Events:
    """N checked events, ids turned into rows."""

    columns: dict[str, NDArray[Any]]
    """The columns [N] of BanditLog; reward is NaN where it is not known."""
    candidates: CandidateSets | None  # None: every event had the whole catalog
    context: NDArray[np.float32] | None  # [N, D], NaN: the user's own; None: so it is of all
    cold_start_users: ColdStartUsers | None
    """Users whom only vectors describe."""


@dataclass(frozen=True)
class EventPiece:
    """n consecutive events of a file."""

    event_id: Any  # [n], an Arrow array
    hashes: Hashes  # [n], of the ids
    columns: dict[str, NDArray[Any]]
    """The columns [n] of BanditLog but the id; `user` is -1 for cold-start users."""
    candidates: CandidateSets | None
    context: NDArray[np.float32] | None  # [n, D]
    new_user: NDArray[np.object_] | None  # [n], ids of cold-start users, None elsewhere

    def __len__(self) -> int:
        return len(self.hashes)

    @property
    def with_context(self) -> NDArray[np.bool_]:
        """Return a mask [n] of the events with a context vector."""
        return np.zeros(len(self), bool) if self.context is None else ~np.isnan(self.context[:, 0])


class EventReader:
    """The events of the files of a log, in order."""

    def __init__(self, paths: Sequence[Path], tables: IdVocabulary):
        self.paths, self.tables = paths, tables
        self.catalog: Catalog = read_catalog(paths, tables)
        self.rows = sum(read.open_parquet(path).metadata.num_rows for path in paths)
        self._users = pd.Index(tables.users["user_id"])
        self._candidates = CandidateReader(self.catalog)
        self._width: int | None = None
        """D, once a vector was read."""

    def known_rewards(self) -> int:
        """Return an upper bound of the events whose row has a reward, from the statistics of the files."""
        return sum(_not_null(read.open_parquet(path).metadata, "reward") for path in self.paths)

    def latest_time(self) -> int:
        """Return the time of the latest event; reads no other column."""
        latest = np.iinfo(np.int64).min
        for path in self.paths:
            for piece in read.pieces(path, _COLUMNS, old_columns(path), only=["time"]):
                latest = max(latest, int(read.times(piece).max(initial=latest)))
        return int(latest)

    def pieces(self) -> Iterator[EventPiece]:
        """Yield the events in pieces; raises DataError for the first fault, and at the end for ids that occur twice."""
        check_memory(
            self.rows * _HASH_BYTES, f"{self.paths[0]}: the ids of {self.rows:,} events", "split the log by time"
        )
        hashes, first = np.empty(self.rows, np.uint64), 0
        for path in self.paths:
            for piece in read.pieces(path, _COLUMNS, old_columns(path)):
                events = self._read(piece)
                hashes[first : first + len(piece)] = events.hashes
                first += len(piece)
                yield events
        if not first:
            raise DataError(f"{self.paths[0]}: no events")
        _refuse_twins(hashes, self.paths)

    def _read(self, piece: read.Piece) -> EventPiece:
        event_id = read.text_column(piece, "event_id")
        context = read.contexts(piece, self._width)
        has_context = None if context is None else ~np.isnan(context[:, 0])
        user = read.id_rows(piece, "user_id", self._users, has_context)
        new_user = None
        if context is not None:
            self._width = context.shape[1]
            new_user = read.strangers(piece, "user_id", user, self._users)
        item = read.id_rows(piece, "item_id", self.catalog.items)
        columns: dict[str, NDArray[Any]] = {
            "time": read.times(piece),
            "user": user,
            "item": item,
            "log_propensity": read.log_propensities(piece),
            "policy": read.shared_texts(piece, "policy"),
            "version": read.shared_texts(piece, "policy_version"),
            GUARDRAILS: read.optional_texts(piece, GUARDRAILS, NO_GUARDRAILS),
            "reward": read.rewards(piece, self.tables.scale, missing=True).copy(),  # rewards are joined into it
        }
        candidates, action = self._candidates.read_piece(piece), self.catalog.actions(item)
        piece.refuse(action < 0, lambda _: "the item shown is not in the catalog of this log")
        if candidates is not None:
            piece.refuse(~candidates.contain(action), lambda _: "the item shown is not among its candidates")
        return EventPiece(event_id, text_hashes(_plain(event_id)), columns, candidates, context, new_user)


@dataclass
class EventCollector:
    """Collects events of pieces, and joins them."""

    known_users: int
    actions: int
    _columns: list[dict[str, NDArray[Any]]] = field(default_factory=list)
    _candidates: list[tuple[int, CandidateSets | None]] = field(default_factory=list)
    _contexts: list[NDArray[np.float32] | None] = field(default_factory=list)
    _new_users: list[NDArray[np.object_]] = field(default_factory=list)

    def add(self, piece: EventPiece, rows: NDArray[np.intp]) -> None:
        """Collect the events `rows` of a piece."""
        ids = _plain(piece.event_id.take(pa.array(rows)))
        columns = {"event_id": np.asarray(ids.to_numpy(zero_copy_only=False), object)}
        columns |= {name: column[rows] for name, column in piece.columns.items()}
        self._columns.append(columns)
        candidates = piece.candidates
        self._candidates.append((len(rows), None if candidates is None else candidates.take(rows).compact()))
        self._contexts.append(None if piece.context is None else piece.context[rows])
        if piece.new_user is not None:
            self._new_users.append(piece.new_user[rows][columns["user"] < 0])

    def __len__(self) -> int:
        return sum(count for count, _ in self._candidates)

    def events(self) -> Events:
        """Return the collected events; nothing is left in the collector."""
        names = list(self._columns[0])
        columns = {name: np.concatenate([part.pop(name) for part in self._columns]) for name in names}
        columns["user"], cold_start_users = self._numbered(columns["user"])
        pa.default_memory_pool().release_unused()  # Arrow keeps the memory of its columns
        context = self._joined_contexts()
        candidates, self._candidates = join_candidates(self._candidates, self.actions), []
        return Events(columns, candidates, context, cold_start_users)

    def _numbered(self, user: NDArray[np.int32]) -> tuple[NDArray[np.int32], ColdStartUsers | None]:
        """Return the rows of users [N]; cold-start users get rows beyond the table, in order of occurrence."""
        if not (user < 0).any():
            return user, None
        place, ids = pd.factorize(np.concatenate(self._new_users))
        user[user < 0] = self.known_users + place
        return user, ColdStartUsers(self.known_users, ids)

    def _joined_contexts(self) -> NDArray[np.float32] | None:
        """Return the vectors of all events [N, D]; None if no event has one."""
        widths = {vectors.shape[1] for vectors in self._contexts if vectors is not None}
        if not widths:
            return None
        (width,) = widths
        parts, self._contexts = self._contexts, []
        return np.concatenate(
            [
                np.full((count, width), np.nan, np.float32) if vectors is None else vectors
                for vectors, (count, _) in zip(parts, self._candidates, strict=True)
            ]
        )


def read_events(paths: Sequence[Path], tables: IdVocabulary) -> tuple[Events, Catalog]:
    """Return all events of the files of a log, and its catalog; raises DataError, also where there are no events."""
    reader = EventReader(paths, tables)
    check_rounds(reader.rows, len(reader.catalog.action_items), str(paths[0]))
    collected = EventCollector(len(tables.users), len(reader.catalog.action_items))
    for piece in reader.pieces():
        collected.add(piece, np.arange(len(piece)))
    return collected.events(), reader.catalog


def check_rounds(rounds: int, actions: int, where: str) -> None:
    """Raise MemoryLimitError if so many rounds do not fit into memory."""
    check_memory(
        rounds * (ROUND_BYTES + actions // 8),
        f"{where}: {rounds:,} rounds of {actions:,} items",
        "ingest a shorter part of the log, or fewer positions of each event (log export --places)",
    )


@dataclass(frozen=True)
class LateRewards:
    """M rewards of a rewards file, in the order of their ids' hashes; equal hashes in order of arrival."""

    event_id: Any  # [M], an Arrow array
    hashes: Hashes  # [M]
    time: NDArray[np.int64]  # [M]
    reward: NDArray[np.float64]  # [M]
    matched: NDArray[np.bool_]  # [M], True once the event was read

    def __len__(self) -> int:
        return len(self.time)

    def join(self, piece: EventPiece, reward: NDArray[np.float64], wait: int) -> tuple[int, int]:
        """Put the first reward within `wait` milliseconds into reward [n], where it is NaN.

        Returns the numbers of late and of doubled rewards.
        """
        first, last = (np.searchsorted(self.hashes, piece.hashes, side) for side in ("left", "right"))
        count = last - first
        event = np.repeat(np.arange(len(piece)), count)
        row = np.arange(len(event)) - np.repeat(np.cumsum(count) - count - first, count)
        same = _equal(self.event_id.take(pa.array(row)), piece.event_id.take(pa.array(event)))
        event, row = event[same], row[same]
        self.matched[row] = True
        delay = self.time[row] - piece.columns["time"][event]
        late = (delay < 0) | (delay > wait)
        event, row = event[~late], row[~late]
        free = np.isnan(reward[event])
        events, place = np.unique(event[free], return_index=True)
        reward[events] = self.reward[row[free][place]]
        return int(late.sum()), len(event) - len(events)


def read_late_rewards(paths: Sequence[Path], scale: tuple[float, float]) -> LateRewards:
    """Return the rewards of the rewards files of a log; raises DataError that names file and row."""
    ids, times, rewards = [], [np.empty(0, np.int64)], [np.empty(0, np.float64)]
    for path in paths:
        for piece in read.pieces(path, _REWARD_COLUMNS):
            ids.append(_plain(read.text_column(piece, "event_id")).cast(pa.large_string()))
            times.append(read.times(piece))
            rewards.append(read.rewards(piece, scale, missing=False))
    event_id = pa.concat_arrays(ids) if ids else pa.array([], pa.large_string())
    time, reward, hashes = np.concatenate(times), np.concatenate(rewards), text_hashes(event_id)
    order = np.lexsort((time, hashes))
    return LateRewards(
        event_id.take(pa.array(order)), hashes[order], time[order], reward[order], np.zeros(len(order), bool)
    )


def _not_null(metadata: Any, column: str) -> int:
    """Return how many values of a column may not be null; all of a row group without statistics."""
    count = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        for place in range(group.num_columns):
            chunk = group.column(place)
            if chunk.path_in_schema == column:
                known = chunk.is_stats_set and chunk.statistics.has_null_count
                count += group.num_rows - (chunk.statistics.null_count if known else 0)
    return count


def _plain(texts: Any) -> Any:
    """Return texts without a dictionary."""
    return texts.dictionary_decode() if pa.types.is_dictionary(texts.type) else texts


def _equal(texts: Any, others: Any) -> NDArray[np.bool_]:
    return np.asarray(pc.equal(_plain(texts), _plain(others).cast(texts.type)))


def _refuse_twins(hashes: Hashes, paths: Sequence[Path]) -> None:
    """Raise DataError for an id that occurs twice. Sorts the hashes [N] of all ids."""
    hashes.sort()
    twins = np.unique(hashes[1:][hashes[1:] == hashes[:-1]])
    if not len(twins):
        return
    seen: set[str] = set()
    for path in paths:  # two ids may have one hash, so the texts decide
        ids = pq.read_table(path, columns=["event_id"])["event_id"].combine_chunks()
        ids = _plain(ids)
        for row in np.flatnonzero(np.isin(text_hashes(ids), twins)):
            identifier = ids[int(row)].as_py()
            if identifier in seen:
                raise DataError(f"{path}: row {row + 1}: event_id {identifier!r} occurs twice")
            seen.add(identifier)
