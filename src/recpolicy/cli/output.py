"""How answers are printed: tables for people, JSON for programs."""

import json
from typing import Any

from rich.console import Console
from rich.table import Table


def print_json(value: Any) -> None:
    """Print one JSON document on stdout; NaN is an error, not output."""
    print(json.dumps(value, indent=2, allow_nan=False, default=str))


def print_frame(frame: Any, title: str | None = None) -> None:
    """Print a DataFrame; a named index is the first column; floats get three digits."""
    shown = frame.reset_index() if frame.index.name else frame
    table = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    for name in shown.columns:
        table.add_column(str(name), justify="left" if shown[name].dtype.kind not in "fiu" else "right", no_wrap=True)
    for row in shown.itertuples(index=False):
        table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row))
    # A pipe or a narrow log must not fold the columns; brackets and colons in titles are not markup.
    width = None if Console().is_terminal else 200
    Console(width=width, markup=False, emoji=False).print(table)
