"""Plan the trials of a sweep and choose the best one.

The choice uses the off-policy value on logged rounds that no trial learned from, of one half of the users. If one of
the agents learns in sessions, all trials are compared by their reward in simulated sessions of that half. The rounds or
sessions of the other half play no role in it, so the gate can evaluate the chosen policy on them. The held-out ratings
play none either, except that the simulated users of sessions like what they liked in reality.
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

_VALUES: Mapping[str, tuple[str, str, str]] = {
    "sessions": (
        "reward", "in simulated sessions",
        "Values are rewards per session of a simulated world that no trial was trained in, with 95 % intervals over"
        " users. Policies of single rounds show their best items one after the other.",
    ),
    "off_policy": (
        "value", "on logged rounds",
        "Values are doubly robust off-policy estimates on rounds that no trial learned from, with 95 % intervals over"
        " users.",
    ),
}  # fmt: skip
"""Parts of an evaluation that can order trials: key of the value, caption, note."""


def plan_trials(agents: Sequence[str], seeds: Sequence[int], grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return every agent with every seed and every combination of those settings in `grid` that it has.

    Raises ConfigError for an unknown agent, and for a setting that no agent has.
    """
    silence_libraries()  # before TF-Agents is imported, which prints a notice of gym
    from recpolicy.agents import SESSION_AGENTS, agent_entry

    known = {agent: {field.name for field in fields(agent_entry(agent).config)} for agent in agents}
    for name in grid:
        if not any(name in settings for settings in known.values()):
            raise ConfigError(f"grid: none of {', '.join(agents)} has a setting {name!r}")
    trials = []
    for agent in agents:
        names = [name for name in grid if name in known[agent]]
        for values in itertools.product(*(grid[name] for name in names)):
            settings = dict(zip(names, values, strict=True))
            trials += [{"agent": agent, "seed": seed, "agent_settings": settings} for seed in seeds]
    in_sessions = any(agent in SESSION_AGENTS for agent in agents)
    return [{**trial, "sessions": in_sessions} for trial in trials]


def choose_best(
    evaluations: Sequence[Path], policies: Sequence[Path], best: Path, choice: Path, page: Path
) -> dict[str, Any]:
    """Write the table of all trials, copy the best policy, and describe it in the file `choice`; return its figures.

    Raises DataError if the trials have no value in common.
    """
    from recpolicy.evaluation.report_page import ReportContent, write_report
    from recpolicy.workflows.evaluation_files import read_candidate_evaluation

    records = [read_candidate_evaluation(path) for path in evaluations]
    kind = next((kind for kind in _VALUES if records and all(kind in record for record in records)), None)
    if kind is None:
        raise DataError(
            "compare_policies: the trials have no value in common; evaluate all on logged rounds or all in sessions"
        )
    key, caption, note = _VALUES[kind]
    order = sorted(range(len(records)), key=lambda trial: -records[trial][kind][key]["value"])
    table = pd.DataFrame([_row(records[trial], kind) for trial in order])
    table.index = pd.RangeIndex(1, len(order) + 1, name="rank")
    first = order[0]
    with atomic_directory(best) as folder:
        shutil.copytree(policies[first], folder, dirs_exist_ok=True)
    winner = {key: str(table[key].iloc[0]) for key in ("agent", "settings", "seed", "value")}
    described = {"trials": len(order), "trial": first + 1, "policy": str(policies[first]), "evidence": caption}
    write_json(choice, {**winner, **described})
    content = ReportContent(
        title=f"Sweep: {len(order)} trials",
        tables=[(f"Trials, best first by their value {caption}", table)],
        notes=[
            note,
            "The best of several looks better than it is. So the users are divided: one half makes this choice, and the"
            " gate uses the other half.",
        ],
    )
    write_report(page, content)
    return {"trials": len(order), "agent": winner["agent"], "value": winner["value"]}


def _row(record: Mapping[str, Any], kind: str) -> dict[str, Any]:
    part, policy = record[kind], record["policy"]
    value = part[_VALUES[kind][0]]
    size = (
        {"users": f"{part['users']}"}
        if kind == "sessions"
        else {"effective sample size": f"{part['effective_sample_size']:.0f}"}
    )
    return {
        "agent": policy["agent"],
        "settings": ", ".join(f"{key} {setting}" for key, setting in sorted(policy["settings"].items())),
        "seed": str(policy["seed"]),
        "value": f"{value['value']:.4f} [{value['lo']:.4f}, {value['hi']:.4f}]",
        **size,
    }
