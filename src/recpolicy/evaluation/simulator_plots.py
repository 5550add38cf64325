"""Plots of the simulator's validation card, in the manner of plots.py."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from recpolicy.evaluation.palette import DASHES, INK, MUTED, SERIES
from recpolicy.evaluation.plots import _axes, _legend
from recpolicy.evaluation.simulator_gates import SimulatorCard, calibration_bins


def like_calibration_figure(card: SimulatorCard) -> Figure:
    """Share of likes against the mean probability of a like, in ten bins of equal mass, ± 95 %."""
    said, was, size = calibration_bins(card.evidence.probability, card.evidence.like)
    figure, axes = _axes()
    axes.plot([0, 1], [0, 1], color=MUTED.light, linestyle=DASHES[1], lw=1.2, label="perfect calibration")
    error = 1.96 * np.sqrt(was * (1 - was) / size)
    axes.errorbar(said, was, yerr=error, fmt="o-", color=SERIES[0].light, capsize=3, markersize=4, label="a tenth")
    axes.set_xlabel("probability of a like")
    axes.set_ylabel("share of likes")
    _legend(axes, loc="upper left")
    return figure


def session_length_figure(card: SimulatorCard) -> Figure:
    """Share of real and simulated sessions that show at most so many movies."""
    figure, axes = _axes()
    _distributions(axes, card.evidence.real_length, card.evidence.simulated_length)
    axes.set_xlabel("movies in a session, cut at the most that a simulated one shows")
    return figure


def engagement_figure(card: SimulatorCard) -> Figure:
    """Share of real and simulated sessions with at most so much engagement."""
    figure, axes = _axes()
    _distributions(axes, card.evidence.real_engagement, card.evidence.simulated_engagement)
    axes.set_xlabel("engagement: sum of the watch fractions of a session")
    return figure


def policy_figure(card: SimulatorCard) -> Figure:
    """Policies by their worth in reality (across) and in the simulator (up)."""
    figure, axes = _axes(height=4.2)
    for number, (name, worth) in enumerate(sorted(card.policies.items(), key=lambda item: item[1].held_out)):
        axes.plot(worth.held_out, worth.simulated, "o", color=SERIES[0].light, markersize=5)
        above = number % 2 == 0  # neighbours are often close: their names take turns
        axes.annotate(
            name, (worth.held_out, worth.simulated), (0, 6 if above else -13), textcoords="offset points",
            ha="center", color=INK.light, fontsize=8,
        )  # fmt: skip
    axes.margins(0.12)
    axes.set_xlabel("held-out choice (stars)")
    axes.set_ylabel("likes per simulated session")
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
    _legend(axes, loc="lower right")
