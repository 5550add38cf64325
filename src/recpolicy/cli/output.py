"""Print results: tables for people, JSON for programs.

Titles, agents and notes come from files that anybody may have written, so control characters are escaped: they would
reach the terminal and could clear it, or hide a line.
"""

import json
from typing import IO, Any

from recpolicy.core.text import escape_controls, format_table

_LAYOUT = "\n\t"


def print_json(value: Any) -> None:
    """Print one JSON document on stdout; NaN is an error, not output."""
    print(json.dumps(value, indent=2, allow_nan=False, default=str))


def print_text(text: object = "", *, file: IO[str] | None = None, flush: bool = False) -> None:
    """Print text with its control characters escaped, except for newlines and tabs."""
    print(escape_controls(str(text), keep=_LAYOUT), file=file, flush=flush)


def print_frame(frame: Any, title: str | None = None) -> None:
    """Print a DataFrame as `format_table` lays it out."""
    print(format_table(frame, title))
