"""Plots of sessions: what each policy earns, and how the reward of a session grew in training."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from recpolicy.core.palette import DASHES, INK, MUTED, SERIES
from recpolicy.core.plotting import draw_legend, new_axes
from recpolicy.core.statistics import Interval


def session_rewards_figure(evaluation: Mapping[str, Interval], train: Mapping[str, Interval]) -> Figure:
    """Mean reward of a session per policy, in the evaluation world (with intervals) and in the training world."""
    names = sorted(evaluation, key=lambda name: evaluation[name].value)
    figure, axes = new_axes(height=1.0 + 0.42 * len(names))
    place = np.arange(len(names))
    value = np.array([evaluation[name].value for name in names])
    around = np.array(
        [
            [
                evaluation[name].value - evaluation[name].lo,
                evaluation[name].hi - evaluation[name].value,
            ]
            for name in names
        ]
    ).T
    axes.errorbar(value, place, xerr=around, fmt="o", color=SERIES[0].light, capsize=3, label="evaluation world, 95 %")
    seen = [train[name].value for name in names]
    axes.plot(seen, place, "D", color=MUTED.light, markersize=4, label="training world")
    axes.set_yticks(place, names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel("mean reward of a session", loc="right")
    draw_legend(axes, loc="lower right")
    return figure


def session_curve_figure(
    step: NDArray[np.number], reward: NDArray[np.floating], baselines: Mapping[str, float]
) -> Figure:
    """Mean reward of the sessions that ended while training, beside what baselines earn in the same world."""
    figure, axes = new_axes()
    axes.plot(step, reward, color=SERIES[0].light, label="the exploring policy")
    for index, (name, value) in enumerate(baselines.items()):
        axes.axhline(value, color=INK.light, linestyle=DASHES[index % len(DASHES)], lw=1.1, label=name)
    axes.set_xlabel("items shown", loc="right")
    axes.set_ylabel("reward of a session")
    draw_legend(axes, loc="lower right")
    return figure
