"""Print results: tables for people, JSON for programs.

Titles, agents and notes come from files that anybody may have written, so control characters are escaped: they would
reach the terminal and could clear it, or hide a line.
"""

import json
from typing import IO, Any

from recpolicy.core.text import escape_controls

_LAYOUT = "\n\t"


def print_json(value: Any) -> None:
    """Print one JSON document on stdout; NaN is an error, not output."""
    print(json.dumps(value, indent=2, allow_nan=False, default=str))


def print_text(text: object = "", *, file: IO[str] | None = None, flush: bool = False) -> None:
    """Print text with its control characters escaped, except for newlines and tabs."""
    print(escape_controls(str(text), keep=_LAYOUT), file=file, flush=flush)


def print_frame(frame: Any, title: str | None = None) -> None:
    """Print a DataFrame; a named index is the first column; floats get three digits, numbers stand to the right.

    The text is plain: laying out a rich table of 1,682 rows takes longer than the predictions.
    """
    table = frame.reset_index() if frame.index.name else frame
    columns = []
    for name in table.columns:
        texts = (f"{value:.3f}" if isinstance(value, float) else escape_controls(str(value)) for value in table[name])
        header, *cells = escape_controls(str(name)), *texts
        width = max(map(len, (header, *cells)))
        align = str.rjust if table[name].dtype.kind in "fiu" else str.ljust
        columns.append([align(text, width) for text in (header, *cells)])
    if title:
        print_text(title)
    print("\n".join("  ".join(row).rstrip() for row in zip(*columns, strict=True)))
