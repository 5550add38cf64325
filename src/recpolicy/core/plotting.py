"""Figures in our style and their rendering to SVG and PNG: no pyplot, no global state, no display."""

import io
import re

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recpolicy.core.palette import GRID, INK, MUTED, PAPER, SHADES

_SVG_STYLE = {"svg.fonttype": "none", "svg.hashsalt": "recpolicy"}  # text stays text; same figure, same bytes


def new_figure(width: float = 5.4, height: float = 3.4) -> Figure:
    """Return an empty figure that needs no display; sizes in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def new_axes(width: float = 5.4, height: float = 3.4) -> tuple[Figure, Axes]:
    """Return a figure with one plot in our style; sizes in inches."""
    figure = new_figure(width, height)
    axes = figure.subplots()
    style_axes(axes)
    return figure, axes


def style_axes(axes: Axes) -> None:
    """Give the axes our grid, spines and colors."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(MUTED.light)
    axes.tick_params(colors=INK.light, which="both")
    axes.xaxis.label.set_color(INK.light)
    axes.yaxis.label.set_color(INK.light)
    axes.grid(color=GRID.light, lw=0.8)
    axes.set_axisbelow(True)


def draw_legend(axes: Axes, loc: str = "best") -> None:
    """Draw the legend if anything has a label."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc=loc, labelcolor=INK.light)


def draw_legend_above(axes: Axes, columns: int) -> None:
    """Draw the legend, if anything has a label, above the plot, where it hides nothing."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(
            frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=columns, fontsize="small",
            labelcolor=INK.light, handlelength=3.2, columnspacing=1.2,
        )  # fmt: skip


def to_svg(figure: Figure, *, themed: bool = True) -> str:
    """Return the figure as an `<svg>` element that scales with its place on a page.

    `themed` colours are CSS variables (with the light colours to fall back on), so that a page can turn the plot dark;
    False gives plain colours, for programs that know no CSS variables.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(_SVG_STYLE):
        figure.savefig(buffer, format="svg", transparent=True)
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)  # holds the time of day
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # never referred to, and several plots on one page would share them
    svg = re.sub(r' (?:width|height)="[0-9.]+pt"', "", svg, count=2)
    if themed:
        for shade in SHADES:
            svg = svg.replace(shade.light, f"var({shade.variable}, {shade.light})")
    return svg


def to_png(figure: Figure, dpi: int = 150) -> bytes:
    """Return the figure as PNG on white paper."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, facecolor=PAPER.light)
    return buffer.getvalue()
