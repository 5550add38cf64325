"""The learning curve on held-out ratings: the choice of a policy at several times of its training.

The training wrote snapshots (training/snapshots.py) and saw no held-out rating; all figures are made afterwards.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from recpolicy.core.seeds import generator
from recpolicy.core.statistics import Interval
from recpolicy.data.splits import Split
from recpolicy.evaluation.candidates import find_candidates
from recpolicy.evaluation.held_out_choice import greedy_weights, held_out_choice
from recpolicy.inference.artifact_files import artifact_errors
from recpolicy.inference.predictor import Policy
from recpolicy.training.snapshots import SNAPSHOTS, read_snapshots
from recpolicy.workflows.held_out_evaluation import check_trained_on

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class LearningCurve:
    """The mean true rating of the held-out choice by number of interactions; the last one is the trained policy."""

    choices: dict[int, Interval]

    def plot(self, baselines: "dict[str, Interval] | None" = None) -> "Figure":
        """Return a plot of the curve, with lines for the choices of baselines."""
        from recpolicy.evaluation.plots import learning_curve_figure

        return learning_curve_figure(self.choices, {name: choice.value for name, choice in (baselines or {}).items()})


def learning_curve(policy: Policy, split: Split, folder: Path, *, seed: int = 0) -> LearningCurve | None:
    """Evaluate the snapshots of a policy's training on held-out ratings.

    Args:
        policy: The policy.
        split: The split that it was trained on.
        folder: Its artifact.
        seed: Seed of the intervals, as in `evaluate`.

    Returns:
        The curve; None for a policy without snapshots, such as one that learned from a log.

    Raises:
        DataError: The policy was fitted on another train part.
        ArtifactError: A snapshot is damaged.
    """
    check_trained_on(policy.artifact.agent, policy, split)
    if "total_timesteps" not in policy.metadata["training"]:
        return None
    with artifact_errors(folder / SNAPSHOTS):
        snapshots = read_snapshots(folder)
    if not snapshots:
        return None
    candidates, choices = find_candidates(split.test), {}
    policies = {step: _with_snapshot(policy, *snapshot) for step, snapshot in snapshots.items()}
    for step, learned in {**policies, int(policy.metadata["training"]["total_timesteps"]): policy}.items():
        weight = greedy_weights(candidates, candidates.look_up(learned.scores()[0]))
        choices[step] = held_out_choice(candidates, weight, generator(seed, "evaluation/bootstrap")).policy
    return LearningCurve(choices)


def _with_snapshot(policy: Policy, estimator: str, arrays: dict[str, NDArray[Any]]) -> Policy:
    """Return the policy with the arrays of a snapshot; widths, which no choice here reads, stay those of the end."""
    return Policy(replace(policy.artifact, estimator=estimator, policy={**policy.artifact.policy, **arrays}))
