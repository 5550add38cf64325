"""Write metrics through one protocol, `write(step, {"regret/per_round": 0.31})`.

A test passes a InMemoryWriter, training a CSV file and TensorBoard. The step is the number of interactions so far.
"""

import csv
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from recpolicy.core.errors import DataError
from recpolicy.core.files import atomic_path


class MetricWriter(Protocol):
    """An object that writes named scalars of a step."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Record `values` at `step`; names say what is measured, over what."""

    def flush(self) -> None:
        """Make everything written so far durable."""


@dataclass
class InMemoryWriter:
    """A writer that keeps rows in memory."""

    rows: list[dict[str, float]] = field(default_factory=list)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row."""
        self.rows.append({"step": step, **values})

    def flush(self) -> None:
        """Do nothing."""


class CsvWriter:
    """A writer of a CSV file; the first row defines the columns, and a missing value in a later row is nan."""

    def __init__(self, path: Path, keep_until: int | None = None):
        """Open `path`; rows after step `keep_until` are dropped (resume), all rows when it is None."""
        lines_kept = [] if keep_until is None or not path.exists() else _rows_until(path, keep_until)
        with atomic_path(path) as temporary:
            temporary.write_text("".join(lines_kept), encoding="utf-8", newline="")
        self._stream = path.open("a", newline="", encoding="utf-8")
        self._rows: csv.DictWriter[str] | None = None
        if lines_kept:
            self._rows = self._writer(next(csv.reader(lines_kept)))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one row; raises ValueError for a name that the first row did not have."""
        if self._rows is None:
            self._rows = self._writer(["step", *values])
            self._rows.writeheader()
        self._rows.writerow({"step": step, **{name: repr(float(value)) for name, value in values.items()}})

    def _writer(self, columns: list[str]) -> "csv.DictWriter[str]":
        return csv.DictWriter(self._stream, columns, restval="nan", lineterminator="\n")

    def flush(self) -> None:
        """Return hand the rows to the operating system."""
        self._stream.flush()

    def close(self) -> None:
        """Flush and close the file."""
        self._stream.close()


class TensorBoardWriter:
    """A writer of TensorBoard event files; its constructor imports TensorFlow."""

    def __init__(self, folder: Path):
        import tensorflow as tf

        self._tf: Any = tf
        self._writer = tf.summary.create_file_writer(str(folder))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write one scalar summary per value."""
        with self._writer.as_default():
            for name, value in values.items():
                self._tf.summary.scalar(name, value, step=step)

    def flush(self) -> None:
        """Write the events to disk."""
        self._writer.flush()


@dataclass(frozen=True)
class TeeWriter:
    """A writer that forwards to several writers."""

    writers: tuple[MetricWriter, ...]

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Write to each."""
        for writer in self.writers:
            writer.write(step, values)

    def flush(self) -> None:
        """Flush all writers."""
        for writer in self.writers:
            writer.flush()


def _rows_until(path: Path, step: int) -> list[str]:
    """Return the header and the rows up to `step` as they stand; a last line that a crash cut short is dropped."""
    with path.open(newline="", encoding="utf-8") as stream:
        lines = [line for line in stream if line.endswith("\n")]
    lines_kept = lines[:1]
    for number, line in enumerate(lines[1:], start=2):
        try:
            if float(line.split(",", 1)[0]) <= step:
                lines_kept.append(line)
        except ValueError:
            raise DataError(f"{path}:{number}: not a row of numbers: {line.strip()!r}") from None
    return lines_kept


def read_csv(path: Path) -> list[dict[str, float]]:
    """Read a metrics file back as rows of floats; raises DataError that names file and line."""
    with path.open(newline="", encoding="utf-8") as stream:
        reader = csv.DictReader(stream)
        rows = []
        for row in reader:
            try:
                rows.append({name: float(value) for name, value in row.items()})
            except (TypeError, ValueError):
                raise DataError(f"{path}:{reader.line_num}: not a row of numbers: {row}") from None
    return rows
