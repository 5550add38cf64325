"""Answer, tables and files of the study of DRL-PUT (ads_study.py)."""

from pathlib import Path
from typing import Any

import pandas as pd

from recpolicy.core.config import as_dict
from recpolicy.core.files import atomic_directory, write_json, write_text
from recpolicy.core.json import to_plain
from recpolicy.core.plotting import draw_legend_above, new_axes, to_svg
from recpolicy.core.text import format_table
from recpolicy.evaluation.tuning_gates import MIN_DIVERSITY
from recpolicy.workflows.ads_study import AdsStudyConfig, StudyRow, study_figures, study_table

NOTE = "Synthetic world of ads: all numbers are assumed, so shares and orders mean something, and values do not."


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
    """Write study.json, table.txt and diversity.svg into `out`, whole or not at all; return the files."""
    body: dict[str, Any] = {
        "note": NOTE, "config": as_dict(config), "figures": study_figures(rows), "table": study_table(rows),
        "seeds": [[row.as_dict() for row in seed] for seed in rows],
    }  # fmt: skip
    text = f"{answer(rows)}\n\n{format_table(table(rows))}\n\n{format_table(diversity_table(rows))}\n\n{NOTE}\n"
    with atomic_directory(out) as folder:
        write_json(folder / "study.json", to_plain(body))
        write_text(folder / "table.txt", text)
        write_text(folder / "diversity.svg", diversity_figure(rows))
    return [out / name for name in ("study.json", "table.txt", "diversity.svg")]
