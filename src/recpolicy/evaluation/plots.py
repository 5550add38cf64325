"""Plots of a run and an evaluation, as matplotlib figures: no pyplot, no global state, no display.

Every function takes plain arrays and returns a Figure; to_svg and to_png render it. R rounds recorded, S seeds, A arms,
K recommendations. Colours follow palette.py; series differ in dash as well as colour once colours run out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.palette import DASHES, INK, MUTED, SERIES
from recpolicy.core.plotting import draw_legend, draw_legend_above, new_axes, new_figure, style_axes
from recpolicy.core.statistics import Interval
from recpolicy.evaluation.history_influence import LIKED, SKIPPED, HistoryInfluence
from recpolicy.evaluation.simulator_gates import SimulatorCard, calibration_bins

_LOG_RATIO = 5
"""Ratio of the highest and lowest final value from which curves get a logarithmic axis."""
_PLAIN = FuncFormatter(lambda value, _: f"{value:,.10g}")  # 200,000 and 0.01, not 2e5 and 10^-2


@dataclass(frozen=True)
class Curve:
    """A metric over a training, once per seed."""

    interactions: NDArray[np.number]  # [R], rounds so far
    values: NDArray[np.floating]  # [S, R]

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1:] != self.interactions.shape:
            raise DataError(
                f"curve: values {self.values.shape} over {self.interactions.shape} rounds; expected one row per seed"
            )


def regret_figure(curves: Mapping[str, Curve]) -> Figure:
    """Plot cumulative regret against interactions: the mean over seeds in a band from the lowest to the highest
    seed."""
    return _curves_figure(curves, "cumulative regret (rating points)")


def reward_figure(curves: Mapping[str, Curve]) -> Figure:
    """Plot reward per round against interactions, drawn like the regret."""
    return _curves_figure(curves, "mean reward per round (rating, stars)")


def exploration_figure(curves: Mapping[str, Curve]) -> Figure:
    """Plot the share of choices that are not greedy against interactions, drawn like the regret."""
    return _curves_figure(curves, "share of choices that are not greedy")


def held_out_choice_figure(policies: Mapping[str, Interval], random: Interval, oracle: Interval) -> Figure:
    """Plot the mean true rating of each policy's held-out choice, between the random choice and the oracle."""
    figure, axes = new_axes(height=1.6 + 0.42 * len(policies))
    names = list(policies)[::-1]  # the first policy on top
    value = np.array([policies[name].value for name in names])
    below = value - [policies[name].lo for name in names]
    above = [policies[name].hi for name in names] - value
    places = np.arange(len(names))
    axes.barh(places, value - random.value, left=random.value, height=0.55, color=SERIES[0].light, alpha=0.55)
    axes.errorbar(
        value, places, xerr=np.stack([below, above]), fmt="o", color=INK.light, markersize=4, capsize=3, lw=1.3
    )
    for line, name, dash in ((random, "random", DASHES[1]), (oracle, "oracle", DASHES[0])):
        axes.axvline(line.value, color=MUTED.light, linestyle=dash, lw=1.2)
        label = f"{name} {line.value:.2f}"
        axes.annotate(label, (line.value, 1.02), xycoords=("data", "axes fraction"), ha="center", color=MUTED.light)
    for place, name in zip(places, names, strict=True):
        axes.annotate(
            f"{policies[name].value:.2f}",
            (policies[name].hi, place),
            (7, 0),
            textcoords="offset points",
            va="center",
            color=INK.light,
        )
    room = max(oracle.value - random.value, 0.1)
    axes.set_xlim(min(random.value, *(policies[name].lo for name in names)) - 0.08 * room, oracle.value + 0.08 * room)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_yticks(places, names)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(
        f"mean true rating of the choice (stars), {100 * random.level:.0f} % interval over users", loc="right"
    )
    return figure


def intervals_figure(series: Mapping[str, Mapping[str, Interval]], quantity: str, zero: float | None = None) -> Figure:
    """Plot intervals as dots with bars, one row a name, the series side by side; `zero` draws a line to compare with.

    The series have the same names. It serves as a forest plot of differences and for figures by group of users.
    """
    names = list(next(iter(series.values())))[::-1]  # the first name on top
    figure, axes = new_axes(height=1.2 + 0.36 * len(names))
    places = np.arange(len(names))
    shift = 0.2 * (np.arange(len(series)) - (len(series) - 1) / 2)
    for index, (label, figures) in enumerate(series.items()):
        intervals = [figures[name] for name in names]
        value = np.array([interval.value for interval in intervals])
        reach = np.array([[interval.value - interval.lo, interval.hi - interval.value] for interval in intervals])
        axes.errorbar(
            value, places - shift[index], xerr=reach.T, fmt="o", color=_look(index)[0], capsize=3, markersize=4,
            label=label,
        )  # fmt: skip
    if zero is not None:
        axes.axvline(zero, color=MUTED.light, linestyle=DASHES[1], lw=1.2)
    axes.set_yticks(places, names)
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.grid(visible=False, axis="y")
    axes.set_xlabel(quantity, loc="right")
    if len(series) > 1:
        draw_legend_above(axes, len(series))
    return figure


def calibration_figure(predicted: NDArray[np.floating], actual: NDArray[np.floating], bins: int = 12) -> Figure:
    """Plot the mean true rating within bins of predicted rating (equal counts), over a histogram of predictions;
    both [N]."""
    figure = new_figure(height=4.2)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    for axes in (top, bottom):
        style_axes(axes)
    order = np.argsort(predicted, kind="stable")
    start = np.unique(np.linspace(0, len(order), min(bins, len(order)), endpoint=False).astype(int))
    size = np.diff(start, append=len(order))
    said = np.add.reduceat(predicted[order].astype(np.float64), start) / size
    was = np.add.reduceat(actual[order].astype(np.float64), start) / size
    square = np.add.reduceat(np.square(actual[order].astype(np.float64)), start) / size
    error = 1.96 * np.sqrt(np.maximum(square - was**2, 0) / size)
    ends = [min(said.min(), was.min()), max(said.max(), was.max())]
    top.plot(ends, ends, color=MUTED.light, linestyle=DASHES[1], lw=1.2, label="perfect calibration")
    top.errorbar(
        said, was, yerr=error, fmt="o-", color=SERIES[0].light, capsize=3, markersize=4, label="mean of a bin, ±95 %"
    )
    top.set_ylabel("true rating (stars)")
    draw_legend(top, loc="upper left")
    bottom.hist(predicted, bins=40, color=SERIES[0].light, alpha=0.55)
    bottom.set_ylabel("ratings")
    bottom.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    bottom.set_xlabel("predicted rating (stars)")
    return figure


def pulls_figure(pulls: Mapping[str, NDArray[np.number]]) -> Figure:
    """Plot the fraction of rounds of each arm [A], from the most to the least pulled; the legend counts arms ever
    pulled."""
    figure, axes = new_axes()
    for index, (name, count) in enumerate(pulls.items()):
        share = np.sort(count.astype(np.float64))[::-1] / max(float(np.sum(count)), 1.0)
        pulled = np.count_nonzero(share)
        color, dash = _look(index)
        axes.plot(
            np.arange(1, pulled + 1), 100 * share[:pulled], color=color, linestyle=dash, lw=1.8,
            marker="o" if pulled <= 40 else None, markersize=3, label=f"{name}: {pulled} of {len(count)} arms",
        )  # fmt: skip
    axes.set_yscale("log")
    axes.yaxis.set_major_formatter(_PLAIN)
    axes.set_xlabel("arms, most pulled first (rank)")
    axes.set_ylabel("share of rounds (%)")
    draw_legend(axes)
    return figure


def recommendations_figure(
    titles: Sequence[str], rating: NDArray[np.floating], std: NDArray[np.floating], scale: tuple[float, float] = (1, 5)
) -> Figure:
    """Plot rating estimates of a user's top K items, best on top, ± one standard deviation cut at the scale; all
    [K]."""
    figure, axes = new_axes(height=1.1 + 0.34 * len(titles))
    places = np.arange(len(titles))[::-1]
    bars = np.maximum([np.minimum(std, rating - scale[0]), np.minimum(std, scale[1] - rating)], 0)  # [2, K]
    axes.errorbar(rating, places, xerr=bars, fmt="o", color=SERIES[0].light, capsize=3, markersize=5)
    axes.set_yticks(places, [title if len(title) <= 36 else title[:35] + "…" for title in titles])
    axes.set_ylim(-0.6, len(titles) - 0.4)
    axes.set_xlim(right=scale[1] + 0.02 * (scale[1] - scale[0]))
    axes.set_xlabel("estimated rating (stars), ±1 standard deviation", loc="right")  # titles leave little room
    return figure


def _curves_figure(curves: Mapping[str, Curve], quantity: str) -> Figure:
    figure, axes = new_axes()
    seeds = max((len(curve.values) for curve in curves.values()), default=1)
    for index, (name, curve) in enumerate(curves.items()):
        color, dash = _look(index)
        axes.plot(curve.interactions, curve.values.mean(axis=0), color=color, linestyle=dash, lw=1.8, label=name)
        if len(curve.values) > 1:
            low, high = curve.values.min(axis=0), curve.values.max(axis=0)
            axes.fill_between(curve.interactions, low, high, color=color, alpha=0.18, lw=0)
    axes.set_xlabel(
        "interactions" if seeds == 1 else f"interactions (line: mean of {seeds} seeds; band: lowest to highest)"
    )
    axes.set_ylabel(quantity)
    ends = [float(curve.values.mean(axis=0)[-1]) for curve in curves.values() if curve.values.size]
    if len(ends) > 1 and 0 < min(ends) < max(ends) / _LOG_RATIO:  # on a linear axis, the low curves lie on each other
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(_PLAIN)
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(_PLAIN)
    if max((np.abs(curve.values).max() for curve in curves.values() if curve.values.size), default=0) >= 1000:
        axes.yaxis.set_major_formatter(_PLAIN)
    draw_legend(axes)
    return figure


def _look(index: int) -> tuple[str, object]:
    """Return the color and dash of the series with this number."""
    return SERIES[index % len(SERIES)].light, DASHES[index // len(SERIES) % len(DASHES)]


def learning_curve_figure(choices: Mapping[int, Interval], baselines: Mapping[str, float]) -> Figure:
    """Plot the mean true rating of the held-out choice against interactions, with intervals; the untrained policy and
    the baselines are lines."""
    figure, axes = new_axes()
    steps = [step for step in choices if step > 0]
    points = [choices[step] for step in steps]
    value = np.array([point.value for point in points])
    reach = np.array([[point.value - point.lo, point.hi - point.value] for point in points])
    axes.errorbar(
        steps, value, yerr=reach.T, fmt="o-", color=SERIES[0].light, capsize=3, markersize=4,
        label="the policy, 95 % interval over users",
    )  # fmt: skip
    start = {"the policy before training": choices[0].value} if 0 in choices else {}
    for index, (name, line) in enumerate({**start, **baselines}.items()):
        axes.axhline(line, color=INK.light, linestyle=DASHES[index % len(DASHES)], lw=1.1, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(steps)
    axes.xaxis.set_major_formatter(_PLAIN)
    axes.minorticks_off()
    axes.set_xlabel("interactions (each point doubles them)")
    axes.set_ylabel("mean true rating of the choice (stars)")
    draw_legend(axes, loc="best")
    return figure


def session_rewards_figure(evaluation: Mapping[str, Interval], train: Mapping[str, Interval]) -> Figure:
    """Plot the mean reward of a session per policy, in the evaluation world (with intervals) and in the training
    world."""
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
    """Plot the mean reward of sessions that ended during training, with that of baselines in the same world."""
    figure, axes = new_axes()
    axes.plot(step, reward, color=SERIES[0].light, label="the exploring policy")
    for index, (name, value) in enumerate(baselines.items()):
        axes.axhline(value, color=INK.light, linestyle=DASHES[index % len(DASHES)], lw=1.1, label=name)
    axes.set_xlabel("items shown", loc="right")
    axes.set_ylabel("reward of a session")
    draw_legend(axes, loc="lower right")
    return figure


def history_influence_figure(influence: HistoryInfluence, genres: int = 5) -> Figure:
    """Plot the change of a genre's probability against the number of its items shown, for the genres that change most;
    solid if the items were liked, dashed if they were skipped."""
    figure, axes = new_axes()
    ranked = sorted(
        influence.genres, key=lambda genre: -max(abs(part[-1].mean()) for part in genre.change.values())
    )[:genres]  # fmt: skip
    for index, genre in enumerate(ranked):
        for name, dash in ((LIKED, DASHES[0]), (SKIPPED, DASHES[1])):
            mean = np.append(0.0, genre.change[name].mean(axis=1))
            label = f"{genre.genre}, {name}"
            color = SERIES[index % len(SERIES)].light
            axes.plot(np.arange(len(mean)), mean, color=color, linestyle=dash, lw=1.6, label=label)
    axes.axhline(0, color=MUTED.light, lw=1.0)
    axes.set_xlabel("items of the genre shown")
    axes.set_ylabel("change of the genre's probability")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    draw_legend(axes, loc="best")
    return figure


def like_calibration_figure(card: SimulatorCard) -> Figure:
    """Plot the fraction of likes against the mean probability of a like, in ten bins of equal mass, ± 95 %."""
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
    """Plot the fraction of real and simulated sessions that show at most so many items."""
    figure, axes = new_axes()
    _distributions(axes, card.evidence.real_length, card.evidence.simulated_length)
    axes.set_xlabel("items in a session, cut at the most that a simulated one shows")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def engagement_figure(card: SimulatorCard) -> Figure:
    """Plot the distribution of engagement of real and simulated sessions."""
    figure, axes = new_axes()
    _distributions(axes, card.evidence.real_engagement, card.evidence.simulated_engagement)
    axes.set_xlabel("engagement: sum of the watch fractions of a session")
    return figure


def policy_figure(card: SimulatorCard) -> Figure:
    """Plot policies from best to worst, in reality (left) and in the simulator (right); crossing lines disagree."""
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
