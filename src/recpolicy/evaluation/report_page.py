"""The report: one HTML page that needs nothing but itself, to be read in light or dark, on a desk or a phone.

The template is templates/report.html.j2. Text is escaped; plots are inline SVG of our own making (plots.to_svg); a
content security policy in the page forbids it to load anything.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup, escape

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.files import write_text
from recpolicy.core.palette import SHADES
from recpolicy.evaluation.evaluation import MISSING

_FIGURE = r"[-+−]?[0-9.,]+(e[-+]?[0-9]+)?"
_NUMBER = re.compile(rf"{_FIGURE}( ?%)?( \[.*\]| ± {_FIGURE})?|\[{_FIGURE}, {_FIGURE}\]")
_MARKS = {"kept": ("kept", "✓"), "NOT KEPT": ("broken", "✗")}
"""Cells that a color and a mark tell apart: (CSS class, mark)."""
_LONG = 20
"""Characters from which a cell is broken into lines; shorter ones stand in one."""


@dataclass(frozen=True)
class ReportContent:
    """The content of a report, from top to bottom."""

    title: str
    answer: str = ""
    """The first sentence: what the page found."""
    own: str = ""
    """First cell of the rows that the page is about; they stand out in every table."""
    summary: Sequence[tuple[str, str]] = ()
    """(label, value): what was run, on what, with which versions and seeds."""
    tables: Sequence[tuple[str, pd.DataFrame]] = ()
    """(caption, table): floats are shown with three digits, a missing value as a dash; a named index is a column."""
    figures: Sequence[tuple[str, str]] = ()
    """(caption, `<svg>` element as plots.to_svg returns it)."""
    notes: Sequence[str] = ()
    """Paragraphs: how the numbers are made, what they do not say."""


@dataclass(frozen=True)
class _Column:
    name: str
    numeric: bool


def write_report(path: Path, content: ReportContent) -> None:
    """Write the page to `path`, atomically; raises DataError for a figure that is not an SVG element.

    Raises, too, what `refuse_page` raises.
    """
    refuse_page(path)
    write_text(path, render_report(content))


def refuse_page(path: Path) -> None:
    """Raise ConfigError where no page can be written: at a folder, and below a file."""
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; a page is a file, such as {path / 'report.html'}")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise ConfigError(f"{above}: is a file; {path.name} can only be written to a folder")


def render_report(content: ReportContent) -> str:
    """Return the page as HTML."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("recpolicy.evaluation"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return (
        environment.get_template("report.html.j2").render(
            title=content.title,
            answer=content.answer,
            own=content.own,
            marks=_MARKS,
            summary=content.summary,
            tables=[(caption, *_cells(table)) for caption, table in content.tables],
            figures=[(caption, _inline(caption, svg)) for caption, svg in content.figures],
            notes=content.notes,
            shades=SHADES,
            long=_LONG,
        )
        + "\n"
    )


def _cells(table: pd.DataFrame) -> tuple[list[_Column], list[list[str]]]:
    shown = table.reset_index() if table.index.name is not None else table
    cells = [[_cell(value) for value in shown.iloc[:, column]] for column in range(shown.shape[1])]
    columns = [
        _Column(str(name), all(cell == MISSING or _NUMBER.fullmatch(cell) for cell in column))
        for name, column in zip(shown.columns, cells, strict=True)
    ]
    return columns, [list(row) for row in zip(*cells, strict=True)]


def _cell(value: object) -> str:
    if value is None or value is pd.NA or value is pd.NaT or (isinstance(value, float) and np.isnan(value)):
        return MISSING
    return f"{value:.3f}" if isinstance(value, float | np.floating) else str(value)


def _inline(caption: str, svg: str) -> Markup:
    if not svg.startswith("<svg") or "<script" in svg.lower():
        raise DataError(f"report: figure {caption!r} is not an <svg> element; render it with plots.to_svg")
    return Markup(f'<svg role="img" aria-label="{escape(caption)}"{svg[4:]}')
