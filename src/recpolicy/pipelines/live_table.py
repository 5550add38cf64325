"""The steps of a run on stderr: a live table on a terminal, elsewhere a line when a step ends."""

import sys
import time
from types import TracebackType
from typing import Any

from recpolicy.core.progress import line_stream
from recpolicy.pipelines.runs import Step

_MARKS = {
    "running": "[cyan]running[/]", "done": "[green]done[/]", "cached": "[green]cached[/]", "failed": "[red]failed[/]",
    "skipped": "[dim]skipped[/]", "retrying": "[yellow]retrying[/]", "killed": "[red]killed[/]",
}  # fmt: skip


class LiveTable:
    """A context manager that shows the steps of a run on stderr.

    `show` is True for a table and False for nothing; None draws a table on a terminal and prints lines elsewhere.
    """

    def __init__(self, title: str, show: bool | None):
        self._title = title
        self._show = sys.stderr.isatty() if show is None else show
        self._lines = show is None and not self._show
        self._ended: set[str] = set()
        self._live: Any = None
        self._drawn = 0.0

    def __enter__(self) -> "LiveTable":
        if self._show:
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(stderr=True), auto_refresh=False)
            self._live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.refresh()
            self._live.__exit__(kind, error, trace)

    def update(self, steps: list[Step]) -> None:
        """Draw the steps, at most five times a second, or print a line for each that has ended."""
        if self._lines:
            for step in steps:
                if step.state not in ("running", "retrying") and step.name not in self._ended:
                    self._ended.add(step.name)
                    print(f"{step.name}: {step.state} in {step.seconds:.1f} s", file=line_stream(), flush=True)
            return
        if self._live is None or time.monotonic() - self._drawn < 0.2:
            return
        self._drawn = time.monotonic()
        self._live.update(_table(self._title, steps), refresh=True)


def _table(title: str, steps: list[Step]) -> Any:
    from rich.table import Table

    table = Table(title=f"pipeline {title}", title_justify="left", expand=False)
    for name in ("step", "state", "time", "artifacts"):
        table.add_column(name, justify="right" if name == "time" else "left")
    for step in steps:
        seconds = time.time() - step.started if step.state in ("running", "retrying") else step.seconds
        table.add_row(step.name, _MARKS[step.state], f"{seconds:.1f} s", ", ".join(step.artifacts))
    return table
