"""Plots of the simulator's validation card, in the manner of plots.py."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from recpolicy.core.palette import DASHES, INK, MUTED, SERIES
from recpolicy.core.plotting import draw_legend, new_axes
from recpolicy.evaluation.simulator_gates import SimulatorCard, calibration_bins


def like_calibration_figure(card: SimulatorCard) -> Figure:
    """Share of likes against the mean probability of a like, in ten bins of equal mass, ± 95 %."""
    said, was, size = calibration_bins(card.evidence.probability, card.evidence.like)
    figure, axes = new_axes()
    axes.plot([0, 1], [0, 1], color=MUTED.light, linestyle=DASHES[1], lw=1.2, label="perfect calibration")
    error = 1.96 * np.sqrt(was * (1 - was) / size)
    axes.errorbar(said, was, yerr=error, fmt="o-", color=SERIES[0].light, capsize=3, markersize=4, label="a tenth")
    axes.set_xlabel("probability of a like")
    axes.set_ylabel("share of likes")
    draw_legend(axes, loc="upper left")
    return figure


def session_length_figure(card: SimulatorCard) -> Figure:
    """Share of real and simulated sessions that show at most so many items."""
    figure, axes = new_axes()
    _distributions(axes, card.evidence.real_length, card.evidence.simulated_length)
    axes.set_xlabel("items in a session, cut at the most that a simulated one shows")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def engagement_figure(card: SimulatorCard) -> Figure:
    """Share of real and simulated sessions with at most so much engagement."""
    figure, axes = new_axes()
    _distributions(axes, card.evidence.real_engagement, card.evidence.simulated_engagement)
    axes.set_xlabel("engagement: sum of the watch fractions of a session")
    return figure


def policy_figure(card: SimulatorCard) -> Figure:
    """Policies from best to worst, in reality (left) and in the simulator (right); crossing lines disagree."""
    figure, axes = new_axes(height=1.2 + 0.32 * len(card.policies))
    held_out, simulated = (
        sorted(card.policies, key=lambda name: getattr(card.policies[name], side), reverse=True)
        for side in ("held_out", "simulated")
    )
    for left, name in enumerate(held_out):
        right = simulated.index(name)
        agree = left == right
        color, dash = (SERIES[0].light, DASHES[0]) if agree else (SERIES[1].light, DASHES[1])
        axes.plot([0, 1], [left, right], color=color, linestyle=dash, marker="o", markersize=4, lw=1.5)
        worth = card.policies[name]
        axes.annotate(f"{name}  {worth.held_out:.2f}", (-0.03, left), ha="right", va="center", color=INK.light)
        axes.annotate(f"{worth.simulated:.1f}", (1.03, right), ha="left", va="center", color=INK.light)
    axes.set_xlim(-0.75, 1.3)
    axes.set_ylim(len(held_out) - 0.5, -0.5)
    axes.set_xticks([0, 1], ["held-out choice (stars)", "likes per session"])
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines["left"].set_visible(False)
    return figure


def _distributions(axes: Axes, real: NDArray[np.number], simulated: NDArray[np.number]) -> None:
    for number, (name, values) in enumerate({"real": real, "simulated": simulated}.items()):
        at, count = np.unique(values, return_counts=True)
        share = 100 * np.cumsum(count) / len(values)
        axes.step(
            at, share, where="post", color=SERIES[number].light, linestyle=DASHES[number], lw=1.8,
            label=f"{name} ({len(values):,} sessions)",
        )  # fmt: skip
    axes.set_ylabel("sessions (%)")
    axes.set_ylim(0, 102)
    draw_legend(axes, loc="lower right")
