"""Results of the study `recomind`: figures with intervals, tables, plots and a page.

Two kinds of 95 % intervals: over seeds (Student; networks, exploration, users and responses vary, the worlds do not)
and over users (bootstrap of the mean over seeds, paired; the trained policies do not vary).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.config import as_dict
from recpolicy.core.files import write_json
from recpolicy.core.json import to_plain
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import Interval, all_but_one, paired_difference, student_t
from recpolicy.workflows.recomind_cells import (
    BOOTSTRAPPED,
    COLD_START,
    MAIN,
    MYOPIC,
    NO_HISTORY,
    RANKER,
    ROWS,
    STRONG_FATIGUE,
    UNIFORM,
    WORLDS,
    Cell,
    RecoMindStudy,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS_FILE, PAGE_FILE, PLOT_FILE = "results.json", "recomind.html", "recomind.png"
Value = Callable[[Cell], float]
_NOTES = (
    "Policies learn in the training world and are evaluated in the evaluation world, which has other users and another"
    " model class. All policies meet the same users and random numbers.",
    "Fatigue and drift are assumptions of the simulator. MovieLens does not contain them, and no gate can test them.",
    "The gap is likes in the training world over those in the evaluation world, minus 1. Coverage is the share of the"
    " catalog that was shown at least once.",
    "The paper does not publish K, the temperature, the schedule of exploration or the network; ours are defaults of"
    " dqn. Figures of the paper are from an online experiment on another product and have no counterpart here.",
)  # fmt: skip


@dataclass(frozen=True)
class Difference:
    """A policy minus another one, in the same sessions."""

    label: str
    over_seeds: Interval
    over_users: Interval


def likes(study: RecoMindStudy, world: str, row: str) -> Interval:
    """Return likes per session in the evaluation world, with an interval over seeds."""
    return _over_seeds([cell.evaluation.likes for cell in study.of(world, row)])


def difference(study: RecoMindStudy, world: str, first: str, second: str) -> Difference | None:
    """Return the difference in likes of two rows; None if one is missing."""
    present = study.rows(world)
    if first not in present or second not in present:
        return None
    ours, theirs = study.of(world, first), study.of(world, second)
    seeds = [a.evaluation.likes - b.evaluation.likes for a, b in zip(ours, theirs, strict=True)]
    mine, other = (np.mean([cell.evaluation.likes_by_user for cell in cells], axis=0) for cells in (ours, theirs))
    return Difference(
        f"{ROWS[first].label} minus {ROWS[second].label}", _over_seeds(seeds),
        paired_difference(mine, other, generator(0, "study recomind")),
    )  # fmt: skip


def differences(study: RecoMindStudy) -> dict[str, Difference]:
    """Return the differences that the study asks for, by name, as far as their rows are there."""
    pairs = {
        "gain": (MAIN, BOOTSTRAPPED, RANKER), "looking_ahead": (MAIN, BOOTSTRAPPED, MYOPIC),
        "uniform": (MAIN, BOOTSTRAPPED, UNIFORM), "cold_start": (MAIN, BOOTSTRAPPED, COLD_START),
        f"{NO_HISTORY}_gain": (NO_HISTORY, BOOTSTRAPPED, RANKER),
        f"{NO_HISTORY}_looking_ahead": (NO_HISTORY, BOOTSTRAPPED, MYOPIC),
        f"{STRONG_FATIGUE}_gain": (STRONG_FATIGUE, BOOTSTRAPPED, RANKER),
        f"{STRONG_FATIGUE}_looking_ahead": (STRONG_FATIGUE, BOOTSTRAPPED, MYOPIC),
    }  # fmt: skip
    found = {name: difference(study, *rows) for name, rows in pairs.items()}
    return {name: value for name, value in found.items() if value is not None}


def early_gain(study: RecoMindStudy) -> Interval | None:
    """Return by how much the bootstrapped policy has more likes than a cold start in the first sessions, relatively."""
    if not {BOOTSTRAPPED, COLD_START} <= set(study.rows(MAIN)):
        return None
    ours, theirs = ([_first(cell) for cell in study.of(MAIN, row)] for row in (BOOTSTRAPPED, COLD_START))
    return _over_seeds([a / b - 1 for a, b in zip(ours, theirs, strict=True)])


def figures(study: RecoMindStudy) -> dict[str, float]:
    """Return all figures by name: NAME, NAME_lo and NAME_hi with intervals over seeds, NAME_users_* over users."""
    named: dict[str, float] = {}
    for world in WORLDS:
        prefix = "" if world == MAIN else f"{world}_"
        for row in study.rows(world):
            cells = study.of(world, row)
            named |= _named(f"{prefix}likes_{row}", likes(study, world, row))
            for name, value in _MEANS.items():
                named[f"{prefix}{name}_{row}"] = _mean(cells, value)
            if cells[0].training is not None:
                named |= _named(f"{prefix}first_likes_{row}", _over_seeds([_first(cell) for cell in cells]))
                named[f"{prefix}rank_correlation_{row}"] = _mean(cells, _correlation)
                named[f"{prefix}training_likes_{row}"] = _mean(cells, _training_likes)
    for name, found in differences(study).items():
        named |= _named(f"difference_{name}", found.over_seeds) | _named(f"difference_{name}_users", found.over_users)
    early = early_gain(study)
    return named if early is None else named | _named("early_gain", early)


def table(study: RecoMindStudy, world: str = MAIN) -> pd.DataFrame:
    """Return the policies of a world, with intervals over seeds."""
    rows = {}
    for row in study.rows(world):
        cells = study.of(world, row)
        gain = None if row == RANKER else difference(study, world, row, RANKER)
        rows[ROWS[row].label] = {
            "likes": str(likes(study, world, row)),
            "gain on the ranker, over users": "" if gain is None else str(gain.over_users),
            "items": f"{_mean(cells, lambda cell: cell.evaluation.depth):.2f}",
            "watch": f"{_mean(cells, lambda cell: cell.evaluation.watch):.2f}",
            "coverage": f"{_mean(cells, lambda cell: cell.evaluation.coverage):.1%}",
            "gap": f"{_mean(cells, _gap):+.1%}",
            f"likes in the first {study.config.first_episodes:,}": (
                "" if cells[0].training is None else f"{_mean(cells, _first):.2f}"
            ),
        }
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index.name = "policy"
    return frame


def difference_table(study: RecoMindStudy) -> pd.DataFrame:
    """Return the differences of likes, those of the control worlds included."""
    rows = {}
    for name, found in differences(study).items():
        world = next((world for world in (NO_HISTORY, STRONG_FATIGUE) if name.startswith(world)), MAIN)
        rows[name] = {
            "in": WORLDS[world].label, "difference": found.label, "over seeds": str(found.over_seeds),
            "over users": str(found.over_users),
        }  # fmt: skip
    return pd.DataFrame.from_dict(rows, orient="index").reset_index(drop=True)


def start_table(study: RecoMindStudy) -> pd.DataFrame:
    """Return how close the values of each learning policy were to the rewards when it started."""
    rows = {}
    for row in study.rows(MAIN):
        trained = [cell.training for cell in study.of(MAIN, row) if cell.training is not None]
        if not trained:
            continue
        first = trained[0]
        rows[ROWS[row].label] = {
            "temperature": first.temperature, "value_offset": first.value_offset, "first error": first.initial_error,
            "first error if scores were values": first.unmatched_error,
            "rank correlation after 100 updates": float(np.mean([each.rank_correlation for each in trained])),
            "updates": f"{first.updates:,}", "initial weights left in the target": f"{first.initial_weights_left:.1%}",
        }  # fmt: skip
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index.name = "policy"
    return frame


def answer(study: RecoMindStudy) -> str:
    """Return what the study found, in one or two sentences."""
    found = differences(study)
    if "gain" not in found:
        return "The study lacks the ranker or the bootstrapped policy."
    gain, ranker = found["gain"].over_seeds, likes(study, MAIN, RANKER).value
    words = "beats" if gain.lo > 0 else "is worse than" if gain.hi < 0 else "is not shown to differ from"
    text = (
        f"The bootstrapped policy {words} the production ranker: {gain.value:+.2f} likes per session"
        f" [{gain.lo:.2f}, {gain.hi:.2f}], {gain.value / ranker:+.1%}."
    )
    if "looking_ahead" in found:
        ahead = found["looking_ahead"].over_seeds
        words = "adds" if ahead.lo > 0 else "costs" if ahead.hi < 0 else "is not shown to change"
        text += f" Looking ahead {words} likes: {ahead.value:+.2f} [{ahead.lo:.2f}, {ahead.hi:.2f}]."
    return text


def write_recomind(study: RecoMindStudy, out: Path) -> list[Path]:
    """Write results.json, the plot and the page to the folder of the study; return their paths.

    Raises:
        MissingExtraError: The extra `report`, which draws the plots, is not installed.
    """
    body = {
        "figures": figures(study), "config": as_dict(study.config), **study.facts,
        "worlds": {name: world.label for name, world in WORLDS.items()},
        "rows": {name: row.label for name, row in ROWS.items()},
    }  # fmt: skip
    write_json(out / RESULTS_FILE, to_plain(body))
    require_extra("report", "the page of a study")
    from recpolicy.core.files import atomic_path
    from recpolicy.core.plotting import to_png, to_svg
    from recpolicy.evaluation.plots import intervals_figure
    from recpolicy.evaluation.report_page import ReportContent, write_report
    from recpolicy.workflows.reports import page_origin

    rewards = likes_figure(study)
    with atomic_path(out / PLOT_FILE) as temporary:
        temporary.write_bytes(to_png(rewards))
    plots = [("Likes per session in both worlds", to_svg(rewards))]
    if any(ROWS[row].start for row in study.rows(MAIN)):
        plots.append(("Likes of sessions during training, exploration included", to_svg(curves_figure(study))))
    found = differences(study)
    if found:
        series = {
            kind: {_short(name): getattr(each, attribute) for name, each in found.items()}
            for kind, attribute in (("over seeds", "over_seeds"), ("over users", "over_users"))
        }
        plots.append(("Differences in likes per session", to_svg(intervals_figure(series, "likes per session", 0.0))))
    tables = [(f"Policies, {WORLDS[MAIN].label}", table(study)), ("Differences in likes", difference_table(study))]
    tables += [(WORLDS[world].label.capitalize(), table(study, world)) for world in (NO_HISTORY, STRONG_FATIGUE)
               if study.rows(world)]  # fmt: skip
    tables.append(("Start of the values", start_table(study)))
    config = study.config
    summary = [
        ("data", f"{study.facts['data']}, split {study.facts['split']}"), ("ranker", str(study.facts["ranker"])),
        ("catalog", f"{config.items:,} items" if config.items else "all items"),
        ("training", f"{config.total_timesteps:,} items, gamma {config.gamma:g}, tau {config.tau:g}"),
        ("exploration", f"softmax of the best {config.exploration_top_k}"),
        ("evaluation", f"at least {config.episodes:,} sessions per seed and world"), ("seeds", f"{config.seeds}"),
        *page_origin(),
    ]  # fmt: skip
    write_report(out / PAGE_FILE, ReportContent(
        title="Study: a policy that starts from the production ranker", answer=answer(study),
        own=ROWS[BOOTSTRAPPED].label, summary=summary,
        tables=[pair for pair in tables if len(pair[1])], figures=plots, notes=_NOTES,
    ))  # fmt: skip
    return [out / name for name in (RESULTS_FILE, PLOT_FILE, PAGE_FILE)]


def likes_figure(study: RecoMindStudy) -> "Figure":
    """Plot likes per session of each policy, in the evaluation world with intervals and in the training world."""
    from recpolicy.evaluation.plots import intervals_figure

    rows = sorted(study.rows(MAIN), key=lambda row: -likes(study, MAIN, row).value)
    seen = {row: _over_seeds([cell.training_world.likes for cell in study.of(MAIN, row)]) for row in rows}
    worlds = {
        "evaluation world": {ROWS[row].label: likes(study, MAIN, row) for row in rows},
        "training world": {ROWS[row].label: seen[row] for row in rows},
    }
    figure = intervals_figure(worlds, "likes per session, 95 % intervals over seeds")
    figure.set_size_inches(7.4, 1.4 + 0.36 * len(rows))  # the labels are long
    return figure


def curves_figure(study: RecoMindStudy) -> "Figure":
    """Plot likes of sessions during training, mean over seeds, with the ranker's in the same world."""
    from recpolicy.core.palette import DASHES, INK, SERIES
    from recpolicy.core.plotting import draw_legend, new_axes

    figure, axes = new_axes(7.2, 3.8)
    for index, row in enumerate(row for row in study.rows(MAIN) if ROWS[row].start):
        curves = [curve(cell) for cell in study.of(MAIN, row)]
        points = min(len(sessions) for sessions, _ in curves)
        sessions, mean = (np.mean([each[part][:points] for each in curves], axis=0) for part in (0, 1))
        color, dash = SERIES[index % len(SERIES)].light, DASHES[index // len(SERIES) % len(DASHES)]
        axes.plot(sessions, mean, color=color, linestyle=dash, lw=1.3, label=ROWS[row].label)
    if RANKER in study.rows(MAIN):
        level = _mean(study.of(MAIN, RANKER), lambda cell: cell.training_world.likes)
        axes.axhline(level, color=INK.light, linestyle=DASHES[1], lw=1.1, label="the ranker without exploration")
    axes.set_xlabel("sessions", loc="right")
    axes.set_ylabel("likes of a session")
    draw_legend(axes, "lower right")
    return figure


def curve(cell: Cell, points: int = 30) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sessions so far and likes of the sessions between two points, about `points` numbers each."""
    trained = cell.training
    assert trained is not None
    sessions, total = np.array(trained.sessions), np.cumsum(trained.likes)
    step = max(1, len(sessions) // points)
    at = np.arange(step - 1, len(sessions), step)
    ended, earned = np.diff(sessions[at], prepend=0.0), np.diff(total[at], prepend=0.0)
    return sessions[at], earned / np.maximum(ended, 1.0)


def _over_seeds(values: list[float]) -> Interval:
    array = np.array(values, np.float64)
    return student_t(float(array.mean()), all_but_one(array[np.newaxis])[0] / (len(array) - 1))


def _named(name: str, interval: Interval) -> dict[str, float]:
    return {name: interval.value, f"{name}_lo": interval.lo, f"{name}_hi": interval.hi}


def _mean(cells: list[Cell], value: Value) -> float:
    return float(np.mean([value(cell) for cell in cells]))


def _gap(cell: Cell) -> float:
    return cell.training_world.likes / cell.evaluation.likes - 1.0


def _first(cell: Cell) -> float:
    assert cell.training is not None
    return cell.training.first_likes


def _correlation(cell: Cell) -> float:
    assert cell.training is not None
    return cell.training.rank_correlation


def _training_likes(cell: Cell) -> float:
    """Return likes per session over the whole training, exploration included."""
    assert cell.training is not None
    return sum(cell.training.likes) / cell.training.sessions[-1]


def _short(name: str) -> str:
    return name.replace("_", " ")


_MEANS: Mapping[str, Value] = {
    "depth": lambda cell: cell.evaluation.depth, "watch": lambda cell: cell.evaluation.watch,
    "coverage": lambda cell: cell.evaluation.coverage, "gap": _gap,
}  # fmt: skip
