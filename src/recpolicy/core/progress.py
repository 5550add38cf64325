"""Show progress with an ETA on stderr; without a terminal it is silent unless requested."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


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


@contextmanager
def progress(
    title: str, total: float, *, unit: str = "", done: float = 0, show: bool | None = None
) -> Iterator[Progress]:
    """Yield a Progress over `total` units; `show=None` draws it only on a terminal. `unit` may be "bytes"."""
    if show is None:
        show = sys.stderr.isatty()
    if not show:
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
