"""Print results: tables for people, JSON for programs."""

import json
from typing import Any


def print_json(value: Any) -> None:
    """Print one JSON document on stdout; NaN is an error, not output."""
    print(json.dumps(value, indent=2, allow_nan=False, default=str))


def print_frame(frame: Any, title: str | None = None) -> None:
    """Print a DataFrame; a named index is the first column; floats get three digits, numbers stand to the right.

    The text is plain: laying out a rich table of 1,682 rows takes longer than the predictions.
    """
    table = frame.reset_index() if frame.index.name else frame
    columns = []
    for name in table.columns:
        cells = [f"{value:.3f}" if isinstance(value, float) else str(value) for value in table[name]]
        width = max(map(len, (str(name), *cells)))
        align = str.rjust if table[name].dtype.kind in "fiu" else str.ljust
        columns.append([align(text, width) for text in (str(name), *cells)])
    if title:
        print(title)
    print("\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True)))
