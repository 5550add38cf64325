"""Steps of a sweep: its trials and the choice of the best one."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recpolicy.pipelines.steps.values import Figures


def plan_sweep_step(agents: list[str], seeds: list[float], grid: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the trials of a sweep: every agent with every seed and every combination of the settings in `grid`."""
    from recpolicy.pipelines.sweep import plan_trials

    return plan_trials(agents, [int(seed) for seed in seeds], grid)  # Kubeflow passes numbers in a list as floats


def compare_policies_step(evaluations: list[str], policies: list[str], best: str, choice: str, page: str) -> Figures:
    """Write one table of the trials, best first by their value on logged rounds; copy the best one to `best`."""
    from recpolicy.pipelines.sweep import choose_best

    return choose_best(
        [Path(path) for path in evaluations], [Path(path) for path in policies], Path(best), Path(choice), Path(page)
    )
