"""Plots of the estimator report card, in the manner of plots.py."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from recpolicy.core.palette import DASHES, MUTED, SERIES
from recpolicy.core.plotting import draw_legend_above, new_axes
from recpolicy.ope.benchmark.scores import KINDS, LEAST_COVERAGE, EstimatorCard

_MARKERS = ("o", "s", "^", "D")
_LEAST_SHOWN = 0.8
_PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
_THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")


def error_figure(card: EstimatorCard, logger: str) -> Figure:
    """Mean relative error of each estimator against log size, both axes logarithmic: chance alone has slope -1/2."""
    figure, axes = new_axes(height=4.6)
    cells = card.of(logger)
    sizes = [cell.rounds for cell in cells]
    for number, name in enumerate(cells[0].scores):
        color, dash = SERIES[number % len(SERIES)].light, DASHES[number // len(SERIES) % len(DASHES)]
        errors = [100 * cell.scores[name].error for cell in cells]
        axes.plot(sizes, errors, color=color, linestyle=dash, marker="o", markersize=3, lw=1.5, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xticks(sizes)
    axes.xaxis.set_major_formatter(_THOUSANDS)
    axes.minorticks_off()
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(_PLAIN)
    axes.set_xlabel("rounds of the log (of lines that coincide the last one shows)")
    axes.set_ylabel("mean relative error (%)")
    draw_legend_above(axes, columns=4)
    return figure


def coverage_figure(card: EstimatorCard, logger: str, rounds: int) -> Figure:
    """Share of intervals that hold the truth, by estimator and kind; what lies below 80 % is drawn at the left edge."""
    cell = card.cell(logger, rounds)
    figure, axes = new_axes(height=1.4 + 0.32 * len(cell.scores))
    names = list(cell.scores)[::-1]
    for number, kind in enumerate(KINDS):
        places = [place for place, name in enumerate(names) if kind in cell.scores[name].coverage]
        shares = [cell.scores[names[place]].coverage[kind] for place in places]
        axes.plot(
            100 * np.maximum(shares, _LEAST_SHOWN), np.array(places) + 0.2 * (1.5 - number), _MARKERS[number],
            color=SERIES[number].light, markersize=4.5, linestyle="none", label=kind,
        )  # fmt: skip
    axes.axvline(100 * card.level, color=MUTED.light, linestyle=DASHES[0], lw=1.1)
    axes.axvline(100 * LEAST_COVERAGE, color=MUTED.light, linestyle=DASHES[1], lw=1.1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(100 * _LEAST_SHOWN - 1, 101)
    ticks = range(round(100 * _LEAST_SHOWN), 101, 5)
    axes.set_xticks(ticks, [f"≤ {ticks[0]}", *(str(tick) for tick in ticks[1:])])
    axes.grid(visible=False, axis="y")
    lines = f"lines: nominal {100 * card.level:.0f}, least {100 * LEAST_COVERAGE:.0f}"
    axes.set_xlabel(f"intervals that hold the truth (%); {lines}", loc="right")
    draw_legend_above(axes, columns=len(KINDS))
    return figure
