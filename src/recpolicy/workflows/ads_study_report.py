"""Figures, answer, tables and files of the study of DRL-PUT (ads_study.py)."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recpolicy.core.config import as_dict
from recpolicy.core.errors import ArtifactError
from recpolicy.core.files import read_versioned_json, write_json, write_text
from recpolicy.core.json import to_plain
from recpolicy.core.plotting import draw_legend_above, new_axes, to_svg
from recpolicy.core.statistics import Interval
from recpolicy.core.text import format_table
from recpolicy.evaluation.tuning_gates import MIN_DIVERSITY, TuningGates
from recpolicy.workflows.ads_study import (
    CONFIGURATIONS,
    GAUSSIAN,
    GROUPED_ACTOR_CRITIC,
    GROUPED_REINFORCE,
    MEAN_WEIGHTS,
    PERMUTED,
    REVENUE_ONLY,
    WEIGHTED,
    AdsStudyConfig,
    StudyRow,
    run_ads_study,
)
from recpolicy.workflows.study_folder import open_study

STUDY_FORMAT, SEED_FORMAT, VERSION = "recpolicy study drl-put", "recpolicy study drl-put seed", 1
NOTE = "Synthetic world of ads: all numbers are assumed, so shares and orders mean something, and values do not."


def study_figures(rows: list[list[StudyRow]]) -> dict[str, float]:
    """Return the figures of the benchmark: shares of seeds, false passes, and the lift of the control.

    passes_grouped: grouped REINFORCE passes all gates; fails_gaussian: both Gaussian rows fail the diversity;
    fails_actor_critic: grouped unweighted actor-critic fails the diversity; passes_weighted: its weighted form passes
    all gates; false_passes: rows that pass although the
    best static weights are truly at least as good; control_lift_lo: mean lower limit of the lift of permuted features.
    """
    by_name = [{row.name: row for row in seed} for seed in rows]

    def share(holds: Callable[[Mapping[str, StudyRow]], bool]) -> float:
        return float(np.mean([holds(seed) for seed in by_name]))

    def fails_diversity(seed: Mapping[str, StudyRow], name: str) -> bool:
        return seed[name].gates.verdicts["diversity"] == "fail"

    passing = [row for seed in rows for row in seed if row.gates.verdict == "pass"]
    lift = [seed[GROUPED_REINFORCE].gates.lift for seed in by_name]
    return {
        "passes_grouped": share(lambda seed: seed[GROUPED_REINFORCE].gates.verdict == "pass"),
        "fails_gaussian": share(lambda seed: all(fails_diversity(seed, name) for name in GAUSSIAN)),
        "fails_actor_critic": share(lambda seed: fails_diversity(seed, GROUPED_ACTOR_CRITIC)),
        "passes_weighted": share(lambda seed: seed[WEIGHTED].gates.verdict == "pass"),
        "false_passes": float(sum(row.true_lift <= 0 for row in passing)),
        "passes": float(len(passing)),
        "control_lift_lo": float(np.mean([seed[PERMUTED].gates.lift.lo for seed in by_name])),
        "control_lift_hi": float(np.mean([seed[PERMUTED].gates.lift.hi for seed in by_name])),
        "grouped_lift": float(np.mean([interval.value for interval in lift])),
        "grouped_lift_lo": float(np.min([interval.lo for interval in lift])),
        "grouped_true_lift": float(np.mean([seed[GROUPED_REINFORCE].true_lift for seed in by_name])),
        "personalization_true_gain": float(
            np.mean([seed[GROUPED_REINFORCE].true_lift - seed[MEAN_WEIGHTS].true_lift for seed in by_name])
        ),
        "revenue_only_user_value": float(
            np.mean([seed[REVENUE_ONLY].user_value / seed[GROUPED_REINFORCE].user_value - 1 for seed in by_name])
        ),
    }


def study_table(rows: list[list[StudyRow]]) -> list[dict[str, Any]]:
    """Return one record for each policy, over all seeds: gates passed, means, and the paper's verdict."""
    paper = {configuration.name: configuration.paper for configuration in CONFIGURATIONS}
    records = []
    for several in zip(*rows, strict=True):
        gates = [row.gates for row in several]
        verdicts = [gate.verdict for gate in gates]
        counts = {name: verdicts.count(name) for name in ("pass", "fail", "cannot tell")}
        passed = {
            name: sum(gate.verdicts[name] == "pass" for gate in gates)
            for name in ("diversity", "relative_gain", "lift")
        }
        records.append(
            {
                "policy": several[0].name,
                "diversity": _mean(gates, "diversity"),
                "relative_gain": _mean(gates, "relative_gain"),
                "lift": _mean(gates, "lift"),
                "hits": float(np.mean([gate.hits for gate in gates])),
                "true_gain": float(np.mean([row.true_gain for row in several])),
                "true_lift": float(np.mean([row.true_lift for row in several])),
                "revenue": float(np.mean([row.revenue for row in several])),
                "user_value": float(np.mean([row.user_value for row in several])),
                "gates_passed": passed, "verdicts": counts, "seeds": len(several),
                "paper": paper.get(several[0].name, ""),
                "history": [
                    [pairs[0][0], float(np.mean([pair[1] for pair in pairs]))]
                    for pairs in zip(*(row.history for row in several), strict=True)
                ],
            }
        )  # fmt: skip
    return records


def _mean(gates: list[TuningGates], name: str) -> dict[str, float]:
    """Return the mean value and the lowest and highest limits of a gate over seeds."""
    intervals: list[Interval] = [getattr(gate, name) for gate in gates]
    return {
        "value": float(np.mean([part.value for part in intervals])), "lo": min(part.lo for part in intervals),
        "hi": max(part.hi for part in intervals),
    }  # fmt: skip


def answer(rows: list[list[StudyRow]]) -> str:
    """Return the result in one sentence."""
    figures, seeds = study_figures(rows), len(rows)

    def of(name: str) -> str:
        return f"{round(figures[name] * seeds)} of {seeds}"

    return (
        f"Grouped grid with REINFORCE passes all gates on {of('passes_grouped')} seeds; the Gaussian fails the"
        f" diversity on {of('fails_gaussian')}, the unweighted actor-critic on {of('fails_actor_critic')};"
        f" {figures['false_passes']:.0f} of {figures['passes']:.0f} passes are false."
    )


def table(rows: list[list[StudyRow]]) -> pd.DataFrame:
    """Return one line for each policy."""
    lines = []
    for record in study_table(rows):
        intervals = {
            name: f"{record[name]['value']:.3f} [{record[name]['lo']:.3f}, {record[name]['hi']:.3f}]"
            for name in ("diversity", "relative_gain", "lift")
        }
        counts = record["verdicts"]
        here = ", ".join(f"{name} {count}" for name, count in counts.items() if count)
        lines.append(
            {
                "policy": record["policy"], **intervals, "hits": f"{record['hits']:.0f}",
                "true lift": f"{record['true_lift']:.3f}", "revenue": f"{record['revenue']:.3f}",
                "user value": f"{record['user_value']:.3f}", "here": here, "paper": record["paper"] or "not there",
            }
        )  # fmt: skip
    return pd.DataFrame(lines)


def diversity_table(rows: list[list[StudyRow]]) -> pd.DataFrame:
    """Return the mean diversity over training of each trained policy."""
    lines = [
        {"policy": record["policy"], **{f"step {step:.0f}": f"{value:.4f}" for step, value in record["history"]}}
        for record in study_table(rows)
        if record["history"]
    ]
    return pd.DataFrame(lines).fillna("")


def diversity_figure(rows: list[list[StudyRow]]) -> str:
    """Return the plot of diversity over training as SVG."""
    figure, axes = new_axes(7.2, 4.4)
    for record in study_table(rows):
        if record["history"] and "full" not in record["policy"]:
            steps, values = zip(*record["history"], strict=True)
            axes.plot(steps, values, marker=".", label=record["policy"])
    axes.axhline(MIN_DIVERSITY, color="black", lw=0.8, ls=":")
    axes.set_yscale("log")
    axes.set_xlabel("gradient steps")
    axes.set_ylabel("diversity of the actions served")
    draw_legend_above(axes, 2)
    return to_svg(figure, themed=False)


def write_ads_study(rows: list[list[StudyRow]], config: AdsStudyConfig, out: Path) -> list[Path]:
    """Write results.json, table.txt and diversity.svg into the folder of a study; return the files."""
    body: dict[str, Any] = {
        "note": NOTE, "config": as_dict(config), "figures": study_figures(rows), "table": study_table(rows),
        "seeds": [[row.as_dict() for row in seed] for seed in rows],
    }  # fmt: skip
    text = f"{answer(rows)}\n\n{format_table(table(rows))}\n\n{format_table(diversity_table(rows))}\n\n{NOTE}\n"
    write_json(out / "results.json", to_plain(body))
    write_text(out / "table.txt", text)
    write_text(out / "diversity.svg", diversity_figure(rows))
    return [out / name for name in ("results.json", "table.txt", "diversity.svg")]


def continue_ads_study(config: AdsStudyConfig, out: Path, *, show_progress: bool | None = None) -> list[list[StudyRow]]:
    """Run the study, or what an earlier run in the same folder has left of it; each seed is stored when it is ready.

    Raises:
        ArtifactError: The folder holds something else, a study with other settings, or a damaged seed.
    """
    settings = {name: value for name, value in as_dict(config).items() if name not in ("seeds", "seed")}
    open_study(out, STUDY_FORMAT, VERSION, to_plain(settings))

    def path(seed: int) -> Path:
        return out / f"seed-{seed}.json"

    def store(seed: int, rows: list[StudyRow]) -> None:
        body = {"format": SEED_FORMAT, "version": VERSION, "rows": [row.as_dict() for row in rows]}
        write_json(path(seed), to_plain(body, keep_infinity=True))

    seeds = range(config.seed, config.seed + config.seeds)
    done = {seed: _read_seed(path(seed)) for seed in seeds if path(seed).exists()}
    return run_ads_study(config, show_progress=show_progress, store=store, done=done)


def _read_seed(path: Path) -> list[StudyRow]:
    try:
        return [StudyRow.from_dict(row) for row in read_versioned_json(path, SEED_FORMAT, VERSION)["rows"]]
    except (ArtifactError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: not a complete seed ({error}); delete it and run the study again") from None
