"""Plots of off-policy evaluations; N rounds."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

from recpolicy.core.palette import DASHES, INK, MUTED, SERIES
from recpolicy.core.plotting import draw_legend, draw_legend_above, new_axes
from recpolicy.core.statistics import Interval, effective_sample_size
from recpolicy.core.types import Floats
from recpolicy.ope.results import NO_VERDICT, OffPolicyResult
from recpolicy.ope.weights import importance_weights


def overlap_figure(target_prob: Floats, behavior_prob: Floats) -> Figure:
    """Plot the fraction of rounds by the logged action's probability under both policies; both [N].

    Where the target has mass and the logging policy has none, the log says nothing.
    """
    figure, axes = new_axes()
    lowest = float(min(behavior_prob.min(), target_prob[target_prob > 0].min(initial=1.0)))
    edges = np.geomspace(max(lowest, 1e-9) * 0.999, 1.001, 41)
    series = (("logging policy", behavior_prob), ("target", target_prob))
    for number, (name, prob) in enumerate(series):
        count = np.histogram(prob, edges)[0]
        never = float(np.mean(prob < edges[0]))
        label = f"{name}, {100 * never:.0f} % at 0" if never else name
        axes.stairs(
            100 * count / len(prob), edges, color=SERIES[number].light, linestyle=DASHES[number], lw=1.8, label=label
        )
    axes.set_xscale("log")
    axes.set_xlabel("probability of the logged action")
    axes.set_ylabel("rounds (%)")
    draw_legend(axes)
    return figure


def weights_figure(target_prob: Floats, behavior_prob: Floats) -> Figure:
    """Plot the share of the total weight in the rounds with the largest weights; both [N]."""
    weight = np.sort(importance_weights(target_prob, behavior_prob))[::-1]
    figure, axes = new_axes()
    at = np.unique(np.linspace(1, len(weight), min(len(weight), 400)).astype(int))
    share = np.cumsum(weight)[at - 1] / max(float(weight.sum()), np.finfo(float).tiny)
    effective = effective_sample_size(weight)
    axes.plot([0, 100], [0, 100], color=MUTED.light, linestyle=DASHES[1], lw=1.2, label="equal weights")
    axes.plot(
        100 * np.append(0, at) / len(weight), 100 * np.append(0, share), color=SERIES[0].light, lw=1.8,
        label=f"effective rounds {effective:,.0f}",
    )  # fmt: skip
    axes.set_xlabel("rounds, largest weight first (%)")
    axes.set_ylabel("share of all weight (%)")
    draw_legend(axes, loc="lower right")
    return figure


def estimators_figure(
    results: Mapping[str, OffPolicyResult],
    interval: str = "bootstrap",
    *,
    logged: Interval | None = None,
    truth: float | None = None,
) -> Figure:
    """Plot each estimate with one kind of interval (a dot where there is none), in gray where there is no verdict.

    Args:
        results: by estimator. interval: kind of interval.
        logged: mean logged reward, the value of the logging policy. truth: the true value where it is known.
    """
    figure, axes = new_axes(height=1.2 + 0.32 * len(results))
    for position, result in enumerate(list(results.values())[::-1]):
        shade = MUTED if result.verdict == NO_VERDICT else SERIES[0]
        limits = result.intervals.get(interval, Interval(result.value, result.value, result.value))
        label = NO_VERDICT if shade is MUTED and not axes.get_legend_handles_labels()[0] else None
        ends = [limits.lo, limits.hi]
        axes.plot(ends, [position, position], color=shade.light, lw=1.8, solid_capstyle="butt", label=label)
        axes.plot(result.value, position, "o", color=shade.light, markersize=5)
    lines = (("logging policy", None if logged is None else logged.value, DASHES[1]), ("truth", truth, DASHES[0]))
    for name, value, dash in lines:
        if value is not None:
            axes.axvline(value, color=INK.light, linestyle=dash, lw=1.1, label=f"{name} {value:.3f}")
    axes.set_yticks(range(len(results)), list(results)[::-1])
    axes.set_ylim(-0.6, len(results) - 0.4)
    axes.grid(visible=False, axis="y")
    level = max((limits.level for result in results.values() for limits in result.intervals.values()), default=0.95)
    axes.set_xlabel(f"reward per round, {100 * level:.0f} % {interval} interval", loc="right")
    draw_legend_above(axes, columns=3)
    return figure


def reward_calibration_figure(predicted: Floats, reward: Floats, bins: int = 12) -> Figure:
    """Plot the mean logged reward in bins of predicted reward with equal counts, ± 95 %; both [N]."""
    order = np.argsort(predicted, kind="stable")
    start = np.unique(np.linspace(0, len(order), min(bins, len(order)), endpoint=False).astype(int))
    size = np.diff(start, append=len(order))
    sums = (np.add.reduceat(values[order].astype(np.float64), start) for values in (predicted, reward, reward**2))
    mean_predicted, mean_reward, square = (total / size for total in sums)
    error = 1.96 * np.sqrt(np.maximum(square - mean_reward**2, 0) / size)
    figure, axes = new_axes()
    ends = [min(mean_predicted.min(), mean_reward.min()), max(mean_predicted.max(), mean_reward.max())]
    axes.plot(ends, ends, color=MUTED.light, linestyle=DASHES[1], lw=1.2, label="perfect calibration")
    axes.errorbar(
        mean_predicted,
        mean_reward,
        yerr=error,
        fmt="o-",
        color=SERIES[0].light,
        capsize=3,
        markersize=4,
        label="mean of a bin, ±95 %",
    )
    axes.set_xlabel("predicted reward of the logged action")
    axes.set_ylabel("logged reward")
    draw_legend(axes, loc="upper left")
    return figure
