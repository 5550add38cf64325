"""The trials of a sweep, and the choice among them.

Trials are chosen by their off-policy value on logged rounds that none has learnt from, not by held-out ratings: the
gate looks at those, and a gate that has already been asked is none.
"""

import itertools
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.files import atomic_directory, write_json
from recpolicy.core.tensorflow_setup import silence_libraries


def trials(agents: Sequence[str], seeds: Sequence[int], grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Every agent with every seed and every combination of those settings in `grid` that it has.

    Raises ConfigError for an unknown agent, and for a setting that none of the agents has.
    """
    silence_libraries()  # before TF-Agents is imported: gym prints its notice then
    from recpolicy.agents.agent_table import agent_entry

    known = {agent: {field.name for field in fields(agent_entry(agent).config)} for agent in agents}
    for name in grid:
        if not any(name in settings for settings in known.values()):
            raise ConfigError(f"grid: none of {', '.join(agents)} has a setting {name!r}")
    found = []
    for agent in agents:
        names = [name for name in grid if name in known[agent]]
        for values in itertools.product(*(grid[name] for name in names)):
            settings = dict(zip(names, values, strict=True))
            found += [{"agent": agent, "seed": seed, "agent_settings": settings} for seed in seeds]
    return found


def choose_best(
    evaluations: Sequence[Path], policies: Sequence[Path], best: Path, evaluation: Path, page: Path
) -> dict[str, Any]:
    """Write the table of all trials, and copy the best policy and its evaluation; returns its figures.

    What the choice was made by is left out of the evaluation: the gate behind it decides by the rest. Raises DataError
    where a trial has no off-policy value.
    """
    from recpolicy.evaluation.report_page import ReportContent, write_report
    from recpolicy.workflows.evaluate_candidate import read_candidate_evaluation

    results = [read_candidate_evaluation(path) for path in evaluations]
    if not results or any("off_policy" not in one for one in results):
        raise DataError("compare_policies: every trial needs an off-policy value; evaluate it on logged rounds")
    order = sorted(range(len(results)), key=lambda trial: -results[trial]["off_policy"]["value"]["value"])
    table = pd.DataFrame([_row(results[trial]) for trial in order])
    table.index = pd.RangeIndex(1, len(order) + 1, name="place")
    first = order[0]
    with atomic_directory(best) as folder:
        shutil.copytree(policies[first], folder, dirs_exist_ok=True)
    unasked = {key: value for key, value in results[first].items() if key != "off_policy"}
    write_json(evaluation, {**unasked, "chosen_among": len(order)})
    content = ReportContent(
        title=f"Sweep: {len(order)} trials",
        tables=[("Trials, best first by their value on logged rounds", table)],
        notes=[
            "Values are doubly robust off-policy estimates on rounds that no trial learnt from, intervals 95 % over"
            " users. The best of several looks better than it is; the gate asks data that took no part in the choice."
        ],
    )
    write_report(page, content)
    return {"trials": len(order), "agent": results[first]["policy"]["agent"], "value": str(table["value"].iloc[0])}


def _row(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    value, policy = evaluation["off_policy"]["value"], evaluation["policy"]
    return {
        "agent": policy["agent"],
        "settings": ", ".join(f"{key} {one}" for key, one in sorted(policy["settings"].items())),
        "seed": str(policy["seed"]),
        "value": f"{value['value']:.4f} [{value['lo']:.4f}, {value['hi']:.4f}]",
        "effective rounds": f"{evaluation['off_policy']['effective_rounds']:.0f}",
    }
