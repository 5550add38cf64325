"""Show progress with an ETA: a bar on a terminal, elsewhere lines on stderr, or on stdout every N units.

Lines on stdout are figures that somebody asked for; lines on stderr only show that the work goes on.
"""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


LINE_SECONDS = 10.0
"""Seconds between two lines without a terminal; shorter work prints nothing."""


class Progress(Protocol):
    """A counter of finished work."""

    def advance(self, amount: float, note: str = "") -> None:
        """Count `amount` more; `note` replaces the text at the end of the line."""


class _Silent:
    def advance(self, amount: float, note: str = "") -> None:
        """Count nothing."""


class _Bar:
    def __init__(self, bar: "RichProgress", task: "TaskID"):
        self._bar, self._task = bar, task

    def advance(self, amount: float, note: str = "") -> None:
        """Advance the bar."""
        self._bar.update(self._task, advance=amount, note=note)


def line_stream() -> TextIO:
    """Return the stream of lines of progress: stderr, or stdout in a notebook, which shows stderr as a fault."""
    in_notebook = type(sys.stderr).__module__.startswith("ipykernel")
    return sys.stdout if in_notebook else sys.stderr


class _Lines:
    def __init__(self, title: str, total: float, unit: str, done: float, every: float):
        self._title, self._total, self._unit, self._every = title, total, unit, every
        self._began = self._printed = time.monotonic()
        self._first = self._done = done

    def advance(self, amount: float, note: str = "") -> None:
        """Print a line if the last one is old enough, or if `every` more units are done."""
        before = self._done
        self._done += amount
        now = time.monotonic()
        due = self._done // self._every > before // self._every if self._every else now - self._printed >= LINE_SECONDS
        if not due or self._done <= self._first:
            return
        self._printed = now
        left = (self._total - self._done) * (now - self._began) / (self._done - self._first)
        counts = f"{self._done:,.0f} of {self._total:,.0f} {self._unit}".rstrip()
        stream = sys.stdout if self._every else line_stream()
        print(f"{self._title}: {counts}, eta {max(left, 0):.0f} s  {note}".rstrip(), file=stream, flush=True)


@contextmanager
def progress(
    title: str, total: float, *, unit: str = "", done: float = 0, show: bool | None = None, every: float = 0
) -> Iterator[Progress]:
    """Yield a Progress over `total` units.

    Args:
        title: Name of the work.
        total: Number of units.
        unit: Name of the unit; "bytes" are shown as sizes.
        done: Units that an earlier run has done.
        show: True draws a bar, False shows nothing; None draws a bar on a terminal and prints lines elsewhere.
        every: Units between two lines on stdout; 0 prints a line on stderr every ten seconds.
    """
    if show is None and not sys.stderr.isatty():
        yield _Lines(title, total, unit, done, every)
        return
    if show is False:
        yield _Silent()
        return
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    count: ProgressColumn = DownloadColumn() if unit == "bytes" else MofNCompleteColumn()
    columns = (
        TextColumn("{task.description}"), BarColumn(), count, TextColumn(unit if unit != "bytes" else ""),
        TimeElapsedColumn(), TextColumn("eta"), TimeRemainingColumn(), TextColumn("{task.fields[note]}"),
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(title, total=total, note="")
        bar.update(task, completed=done)
        yield _Bar(bar, task)
