"""Plots of the benchmark of the estimators."""

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator

from recpolicy.core.palette import DASHES, MUTED, SERIES
from recpolicy.core.plotting import draw_legend_above, new_axes
from recpolicy.ope.benchmark.scores import MIN_COVERAGE, BenchmarkResult
from recpolicy.ope.results import INTERVALS

_MARKERS = ("o", "s", "^", "D")
_MIN_SHOWN = 0.8
_PLAIN = FuncFormatter(lambda value, _: f"{value:g}")
_THOUSANDS = FuncFormatter(lambda value, _: f"{value:,.0f}")


def error_figure(result: BenchmarkResult, logging_policy: str) -> Figure:
    """Plot the mean relative error of each estimator against log size, on two logarithmic axes.

    Random error alone has slope -1/2.
    """
    figure, axes = new_axes(height=4.6)
    cells = result.get_cells(logging_policy)
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
    axes.set_xlabel("rounds of the log (where lines coincide, the last one is visible)")
    axes.set_ylabel("mean relative error (%)")
    draw_legend_above(axes, columns=4)
    return figure


def coverage_figure(result: BenchmarkResult, logging_policy: str, rounds: int) -> Figure:
    """Plot the fraction of intervals that contain the true value, by estimator and kind.

    Fractions below 80 % are drawn at the left edge.
    """
    cell = result.cell(logging_policy, rounds)
    figure, axes = new_axes(height=1.4 + 0.32 * len(cell.scores))
    names = list(cell.scores)[::-1]
    for number, kind in enumerate(INTERVALS):
        positions = [position for position, name in enumerate(names) if kind in cell.scores[name].coverage]
        fractions = [cell.scores[names[position]].coverage[kind] for position in positions]
        axes.plot(
            100 * np.maximum(fractions, _MIN_SHOWN), np.array(positions) + 0.2 * (1.5 - number), _MARKERS[number],
            color=SERIES[number].light, markersize=4.5, linestyle="none", label=kind,
        )  # fmt: skip
    axes.axvline(100 * result.level, color=MUTED.light, linestyle=DASHES[0], lw=1.1)
    axes.axvline(100 * MIN_COVERAGE, color=MUTED.light, linestyle=DASHES[1], lw=1.1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(100 * _MIN_SHOWN - 1, 101)
    ticks = range(round(100 * _MIN_SHOWN), 101, 5)
    axes.set_xticks(ticks, [f"≤ {ticks[0]}", *(str(tick) for tick in ticks[1:])])
    axes.grid(visible=False, axis="y")
    lines = f"lines: nominal {100 * result.level:.0f}, minimum {100 * MIN_COVERAGE:.0f}"
    axes.set_xlabel(f"intervals that contain the true value (%); {lines}", loc="right")
    draw_legend_above(axes, columns=len(INTERVALS))
    return figure
