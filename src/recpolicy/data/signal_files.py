"""Signals of logged events: `signals.parquet` with event_id, time, type and value (1 where it is missing).

S signals, n events of a piece. Signals are joined by event id and combined by the table `[reward]`
(reward_signals.py). Each log may have further parts (log_parts.py). Every fault is a DataError that names file and row.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.files import atomic_path
from recpolicy.core.hashes import Hashes, text_hashes
from recpolicy.core.memory import check_memory
from recpolicy.data import log_columns as read
from recpolicy.data.log_parts import log_parts
from recpolicy.data.reward_signals import RewardConfig, check_signal, combined_rewards, in_window, signal_parts

SIGNALS = "signals.parquet"
_COLUMNS = ("event_id", "time", "type")
_SIGNAL_BYTES = 160


@dataclass(frozen=True)
class SignalTable:
    """S signals in the order of their events' hashes; those of one event in order of time."""

    event_id: Any  # [S], an Arrow array
    hashes: Hashes  # [S]
    time: NDArray[np.int64]  # [S]
    part: NDArray[np.float64]  # [S], weight times value
    matched: NDArray[np.bool_]  # [S], True once the event was read
    config: RewardConfig

    def __len__(self) -> int:
        return len(self.time)

    def join(
        self, event_id: Any, hashes: Hashes, time: NDArray[np.int64], end: int
    ) -> tuple[NDArray[np.float64], int, int]:
        """Return the rewards [n] of events, the number of late signals, and that of signals that change nothing.

        A reward is NaN without a signal, and with `combine = "sum"` until the window of the event is closed.

        Args:
            event_id: [n], an Arrow array.
            hashes: [n], of the ids.
            time: [n], of the events.
            end: Time of the end of the log.
        """
        first, last = (np.searchsorted(self.hashes, hashes, side) for side in ("left", "right"))
        count = last - first
        event = np.repeat(np.arange(len(hashes)), count)
        row = np.arange(len(event)) - np.repeat(np.cumsum(count) - count - first, count)
        same = np.asarray(
            pc.equal(self.event_id.take(pa.array(row)), event_id.take(pa.array(event)).cast(pa.large_string()))
        )
        event, row = event[same], row[same]
        self.matched[row] = True
        counts = in_window(self.time[row] - time[event], self.config)
        late = int((~counts).sum())
        event, row = event[counts], row[counts]
        has_signal = np.bincount(event, minlength=len(time)) > 0
        rewards = combined_rewards(event, self.part[row], self.time[row], time, self.config)
        final = has_signal
        if self.config.combine == "sum":
            final = has_signal & (time + self.config.wait_ms <= end)
        unused = len(event) - int(has_signal.sum()) if self.config.combine == "first" else 0
        return np.where(final, rewards, np.nan), late, unused


def read_signals(folder: Path, config: RewardConfig) -> SignalTable:
    """Return the signals of the log in `folder`, each with its weight.

    Raises:
        DataError: There is no file of signals, or a signal is wrong or has no weight.
    """
    paths = log_parts(folder, SIGNALS)
    if not paths:
        raise DataError(f"{folder}: no {SIGNALS}; the table [reward] combines signals: event_id, time, type, value")
    rows = sum(read.open_parquet(path, _COLUMNS).metadata.num_rows for path in paths)
    check_memory(rows * _SIGNAL_BYTES, f"{folder}: {rows:,} signals", "split the log by time")
    ids, times, parts = [], [np.empty(0, np.int64)], [np.empty(0, np.float64)]
    for path in paths:
        for piece in read.pieces(path, _COLUMNS):
            column = read.text_column(piece, "event_id")
            column = column.dictionary_decode() if pa.types.is_dictionary(column.type) else column
            ids.append(column.cast(pa.large_string()))
            times.append(read.times(piece))
            parts.append(_parts(piece, config))
    event_id = pa.concat_arrays(ids) if ids else pa.array([], pa.large_string())
    time, hashes = np.concatenate(times), text_hashes(event_id)
    order = np.lexsort((time, hashes))
    return SignalTable(
        event_id.take(pa.array(order)), hashes[order], time[order], np.concatenate(parts)[order],
        np.zeros(len(order), bool), config,
    )  # fmt: skip


def _parts(piece: read.Piece, config: RewardConfig) -> NDArray[np.float64]:
    """Return weight times value [n] of the signals of a piece, checked."""
    types, values = read.shared_texts(piece, "type"), np.ones(len(piece))
    if piece.has("value"):
        column = piece.batch.column("value")
        numeric = pa.types.is_floating(column.type) or pa.types.is_integer(column.type)
        if not numeric and not pa.types.is_null(column.type):
            piece.refuse_type("value", "numbers")
        missing = np.asarray(pc.is_null(column))
        read_values = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
        values = np.where(missing, 1.0, np.asarray(read_values, np.float64))
    for name in set(types.tolist()):
        rows = np.flatnonzero(types == name)
        bounds = config.range_of(name)
        low, high = bounds if bounds is not None else (-np.inf, np.inf)
        ok = np.isfinite(values[rows]) & (values[rows] >= low) & (values[rows] <= high)
        row = int(rows[0] if name not in config.weights else rows[int(np.argmin(ok))])
        try:
            check_signal(name, float(values[row]), config)
        except DataError as error:
            raise DataError(f"{piece.path}: row {piece.first + row + 1}: {error}") from None
    return signal_parts(types, values, config)


def write_signals(
    path: Path, event_id: Sequence[str], time: Sequence[int], types: Sequence[str], values: Sequence[float]
) -> None:
    """Write signals (each [S], time in milliseconds since 1970), atomically."""
    columns = {
        "event_id": pa.array(event_id, pa.string()),
        "time": pa.array(time, pa.int64()).cast(read.TIME),
        "type": pa.array(types, pa.string()).dictionary_encode(),
        "value": pa.array(values, pa.float64()),
    }
    with atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")
