"""Check and escape text that somebody else wrote: names in files, cells of tables.

A control character can move the cursor of a terminal or hide a line, and a lone surrogate cannot be written as UTF-8.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any

_CONTROLS = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0 and C1 controls, marks that turn the direction of writing, separators of lines, lone surrogates."""
FORMULA = r"\A[=+\-@\t\r\n]"
"""A pattern of text that spreadsheets read as a formula (OWASP, CSV Injection)."""
_FORMULA = re.compile(FORMULA)


def is_word(value: Any, max_length: int) -> bool:
    """Return True for text of 1 to `max_length` printable characters: no controls, no surrogates."""
    return isinstance(value, str) and 0 < len(value) <= max_length and value.isprintable()


def join_words(words: Sequence[str]) -> str:
    """Return words as a list in a sentence: "a", "a and b", "a, b and c"."""
    return " and ".join([*([", ".join(words[:-1])] if len(words) > 1 else []), *words[-1:]])


def is_utf8(texts: Iterable[str]) -> bool:
    """Return True if every text can be written as UTF-8."""
    try:
        "".join(texts).encode()
    except UnicodeEncodeError:
        return False
    return True


def escape_controls(text: str, keep: str = "") -> str:
    r"""Return the text as a terminal can show it: `\x1b` in place of an escape character.

    Args:
        text: Any text.
        keep: Control characters that stay, such as newlines.
    """

    def escape(found: "re.Match[str]") -> str:
        control = found.group()
        return control if control in keep else control.encode("unicode_escape").decode("ascii")

    return _CONTROLS.sub(escape, text)


def escape_formula(cell: Any) -> Any:
    """Return a cell of a CSV file that no spreadsheet runs as a formula: an apostrophe precedes its first character.

    Only text changes; numbers stay as they are.
    """
    return f"'{cell}" if isinstance(cell, str) and _FORMULA.match(cell) else cell


def format_table(frame: Any, title: str | None = None) -> str:
    """Return a DataFrame as text, whole, however wide the terminal is.

    A named index is the first column; floats get three digits, numbers stand to the right. Control characters are
    escaped.

    Args:
        frame: The DataFrame.
        title: A line above it.
    """
    table = frame.reset_index() if frame.index.name else frame
    columns = []
    for name in table.columns:
        texts = (f"{value:.3f}" if isinstance(value, float) else escape_controls(str(value)) for value in table[name])
        header, *cells = escape_controls(str(name)), *texts
        width = max(map(len, (header, *cells)))
        align = str.rjust if table[name].dtype.kind in "fiu" else str.ljust
        columns.append([align(text, width) for text in (header, *cells)])
    rows = ["  ".join(row).rstrip() for row in zip(*columns, strict=True)]
    return "\n".join([*([escape_controls(title, keep="\n\t")] if title else []), *rows])
