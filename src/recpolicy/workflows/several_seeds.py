"""Train session policies of several seeds in one compiled program: what `train --seeds` does.

Each policy gets a folder of its own, OUT/seed-N, and is equal to that of a training with `--seed N` alone: each has its
own features, worlds, random draws, metrics and checkpoints. Only the calls of the compiled loop are shared.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recpolicy.core.errors import ArtifactError, ConfigError, DivergedError
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.splits import Split
from recpolicy.inference.artifact_files import unfinished
from recpolicy.inference.predictor import Policy, load_policy
from recpolicy.models.own_like_model import LikeFunction
from recpolicy.workflows.policy_training import summarized_rewards
from recpolicy.workflows.session_plan import SessionPlan, plan_training
from recpolicy.workflows.session_training import simulation_figures

if TYPE_CHECKING:
    from recpolicy.workflows.session_settings import SessionTrainConfig


def seed_folder(out: Path, seed: int) -> Path:
    """Return the folder of the policy of a seed."""
    return out / f"seed-{seed}"


def check_seed_folders(out: Path, seeds: Sequence[int]) -> None:
    """Raise ArtifactError if `out` holds anything else than some of the policies of these seeds.

    An interrupted command leaves policies and unfinished trainings there.
    """
    if not out.exists():
        return
    if not out.is_dir():
        raise ArtifactError(f"{out}: is a file; expected a folder for the policies of several seeds")
    folders = [seed_folder(out, seed) for seed in seeds]
    known = {path.name for folder in folders for path in (folder, unfinished(folder))}
    other = sorted(path.name for path in out.iterdir() if path.name not in known and path.name[0] != ".")
    if other:
        raise ArtifactError(f"{out}: holds {other[0]}, which is no policy of these seeds; choose another folder")
    if all(folder.exists() for folder in folders):
        raise ArtifactError(f"{out}: already has the policies of all seeds; choose another folder or remove it first")


def train_seeds(
    agent: str,
    split: Split,
    out: str | Path,
    seeds: Sequence[int],
    *,
    config: "SessionTrainConfig | Mapping[str, Any] | None" = None,
    agent_config: Any = None,
    model_config: Any = None,
    like_model: "str | Path | LikeFunction | None" = None,
    show_progress: bool | None = None,
) -> list[Policy]:
    """Train a session agent with each of the seeds in simulated sessions, and write a policy to OUT/seed-N for each.

    The same call continues a training that was interrupted: finished policies stay, others continue from their last
    checkpoints. If a training diverges, the other policies are written before the error is raised.

    Args:
        agent: A name in SESSION_AGENTS of recpolicy.agents that learns in simulated sessions.
        split: The ratings; the worlds are fitted on both parts, features on the train part.
        out: The folder of the folders to write.
        seeds: Different seeds, at least two.
        config: A SessionTrainConfig or its settings.
        agent_config: The agent's config or its settings.
        model_config: Settings of the rating model.
        like_model: Your own P(like), which replaces the fitted model of the worlds.
        show_progress: Show a progress bar; None shows it on a terminal, and lines elsewhere.

    Returns:
        The policies in the order of the seeds, as read from their folders.

    Raises:
        ConfigError: The agent learns in single rounds or from logs only, seeds are missing or repeat, or a setting is
            out of range.
        ArtifactError: `out` holds something else, or a policy or an unfinished training with other settings.
        DivergedError: A figure of a training is not finite; its last good checkpoint stays.
    """
    require_extra("train", "training")
    out = Path(out)
    if len(set(seeds)) < max(2, len(seeds)):
        raise ConfigError(f"seeds is {list(seeds)}; expected at least two, all different")
    check_seed_folders(out, seeds)
    silence_libraries()  # before TF-Agents is imported: gym prints its notice then
    from recpolicy.agents import SESSION_AGENTS, agent_entry

    agent_entry(agent)  # refuses unknown names
    if agent not in SESSION_AGENTS:
        raise ConfigError(
            f"{agent} learns in single rounds, which several seeds cannot share; train it once per --seed"
        )
    summarized_rewards(split, None)  # warns of constant or rare rewards
    options: dict[str, Any] = {"config": config, "agent_config": agent_config, "model_config": model_config}
    plans = [
        plan_training(agent, split, seed_folder(out, seed), **options, like_model=like_model, seed=seed)
        for seed in seeds
    ]
    missing = [plan for plan in plans if not _is_written(plan)]
    _train(missing, show_progress)
    return [load_policy(plan.out) for plan in plans]


def _is_written(plan: SessionPlan) -> bool:
    """Return True if the plan's policy is there; raise ArtifactError if it is of another training."""
    if not plan.out.exists():
        return False
    policy = load_policy(plan.out)
    expected = json.loads(json.dumps(plan.metadata))
    if policy.artifact.agent != plan.agent or any(policy.metadata.get(key) != expected[key] for key in expected):
        raise ArtifactError(f"{plan.out}: a policy of other settings or data; choose another folder or remove it first")
    return True


def _train(plans: Sequence[SessionPlan], show_progress: bool | None) -> None:
    """Train the plans together and write their policies."""
    from recpolicy.training.session_trainer import train_together

    worlds = [plan.worlds().training_world for plan in plans]
    runs = [plan.run(world, plan.out.name) for plan, world in zip(plans, worlds, strict=True)]
    results = train_together(runs, plans[0].run_config(), show_progress)
    failure: DivergedError | None = None
    for plan, run, world, result in zip(plans, runs, worlds, results, strict=True):
        if isinstance(result, DivergedError):
            failure = failure or result
            continue
        plan.write(run.agent, simulation_figures(run, result, plan.settings, world), run.folder)
    if failure is not None:
        raise failure
