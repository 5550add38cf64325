"""Make a policy of a checkpoint of a training that was interrupted or diverged.

An unfinished training has its settings and the digests of its data in `NAME.incomplete/metadata.json`, and variables
of the learner in checkpoints. Features are made anew from the same ratings, settings and seed.
"""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recpolicy.core.config import build
from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.splits import Split
from recpolicy.inference.artifact_files import MANIFEST, unfinished
from recpolicy.inference.predictor import Policy
from recpolicy.models.rating_models import fit_rating_model
from recpolicy.workflows.artifacts import make_artifact
from recpolicy.workflows.policy_training import TrainConfig
from recpolicy.workflows.retraining import bandit_specs
from recpolicy.workflows.session_settings import SessionTrainConfig, observation_builder, with_view
from recpolicy.workflows.training_data import (
    Features,
    coerce,
    item_attributes,
    prepare_features,
    with_user_posteriors,
)

if TYPE_CHECKING:
    from recpolicy.agents.learner import BanditAgent
    from recpolicy.agents.sequence import SessionAgent

LAST = "last"
"""Name of the newest checkpoint."""


def work_folder(run: Path) -> Path:
    """Return the folder of the unfinished training whose policy would go to `run`; `run` may name it itself.

    Raises:
        ArtifactError: There is none, or the training is finished.
    """
    work = run if run.name.endswith(unfinished(Path("x")).suffix) else unfinished(run)
    if (work / "metadata.json").is_file():
        return work
    if (run / MANIFEST).is_file():
        raise ArtifactError(
            f"{run}: its training is finished and keeps no checkpoints; evaluate it without --checkpoint"
        )
    raise ArtifactError(
        f"{work}: no unfinished training; expected the --out of a `recpolicy train` that did not finish"
    )


def read_training(work: Path) -> dict[str, Any]:
    """Return the metadata of an unfinished training: agent, data, split, settings and seed.

    Raises:
        ArtifactError: The file is damaged, or belongs to a retraining, which has no settings of its own.
    """
    try:
        metadata: dict[str, Any] = json.loads((work / "metadata.json").read_text(encoding="utf-8"))
        config = metadata["config"]
        complete = isinstance(config["train"], dict) and isinstance(config["agent"], dict) and "split" in metadata
    except (OSError, ValueError, KeyError, TypeError):
        complete = False
    if not complete:
        raise ArtifactError(
            f"{work}/metadata.json: not the settings of a training by `recpolicy train`; a retraining cannot be"
            " evaluated before it is finished"
        )
    return metadata


def find_checkpoint(work: Path, checkpoint: str) -> tuple[int, Path]:
    """Return step and path, without suffix, of a checkpoint: `last` or a number of steps.

    Raises:
        ArtifactError: There is no such checkpoint, or it lacks a file; the message names those that are whole.
        ConfigError: The name is neither `last` nor a number.
    """
    if checkpoint != LAST and not checkpoint.isdecimal():
        raise ConfigError(f"checkpoint is {checkpoint!r}: expected {LAST!r} or a number of steps")
    folder = work / "checkpoints"
    found = (re.match(r"ckpt-(\d+)\.", path.name) for path in folder.glob("ckpt-*"))
    paths = {int(match[1]): folder / f"ckpt-{match[1]}" for match in found if match}
    whole = sorted(step for step, path in paths.items() if _is_whole(path))
    there = f"there are {', '.join(map(str, whole))}" if whole else "there is no whole checkpoint"
    step = max(whole, default=-1) if checkpoint == LAST else int(checkpoint)
    if step not in paths:
        raise ArtifactError(f"{work}: no checkpoint of step {checkpoint}; {there}")
    if step not in whole:
        raise ArtifactError(f"{work}: the checkpoint of step {step} is only half written; {there}")
    return step, paths[step]


def _is_whole(path: Path) -> bool:
    """Return True if all variables of a checkpoint can be read."""
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(path))
        for name in reader.get_variable_to_shape_map():
            reader.get_tensor(name)
    except (ValueError, IndexError, RuntimeError, tf.errors.OpError):
        return False
    return True


def policy_of_checkpoint(run: str | Path, split: Split, checkpoint: str = LAST) -> Policy:
    """Return the policy that an unfinished training had at a checkpoint; `metadata["training"]["step"]` is its step.

    Args:
        run: The folder `out` of the training, or its `.incomplete` folder.
        split: The split of the training.
        checkpoint: `last`, or the number of steps of a checkpoint.

    Raises:
        ArtifactError: There is no unfinished training, or no such checkpoint, or it is damaged or of another agent.
        ConfigError: The checkpoint is neither `last` nor a number.
        DataError: The split has another train part than the training had.
    """
    require_extra("train", "the policy of a checkpoint")
    silence_libraries()
    from recpolicy.training.checkpoints import read_checkpoint

    work = work_folder(Path(run))
    metadata = read_training(work)
    if metadata["split"]["train"] != split.train.digest:
        raise DataError(f"{work}: the training read another train part than that of {split.name!r}; give its own split")
    step, path = find_checkpoint(work, checkpoint)
    settings, features = _features(metadata, split)
    agent = _untrained(metadata, settings, features, split)
    read_checkpoint(agent, path)
    exported = agent.learner.export()
    mix = 0.0
    if isinstance(settings, SessionTrainConfig):
        exported = with_view(exported, settings, split)
    else:
        mix = settings.uniform_mix
    lineage = {key: value for key, value in metadata.items() if key != "agent"}
    lineage["training"] = {"mode": "checkpoint", "step": step, "rewards": "simulated"}
    return Policy(make_artifact(metadata["agent"], exported, split.train, features, lineage, mix))


def _features(metadata: Mapping[str, Any], split: Split) -> "tuple[TrainConfig | SessionTrainConfig, Features]":
    """Return the settings of the training and its features."""
    from recpolicy.agents import SESSION_AGENTS, agent_entry

    name, fitted = metadata["agent"], metadata["rating_model"]
    kind = SessionTrainConfig if name in SESSION_AGENTS else TrainConfig
    settings = coerce(kind, metadata["config"]["train"], "train")
    model = fit_rating_model(split.train, fitted["name"], metadata["config"]["rating_model"], seed=fitted["seed"])
    features = prepare_features(split.train, settings, model=model, seed=metadata["seed"])
    if agent_entry(name).user_posteriors:
        features = with_user_posteriors(features, split.train, settings, name)
    return settings, features


def _untrained(
    metadata: Mapping[str, Any], settings: "TrainConfig | SessionTrainConfig", features: Features, split: Split
) -> "BanditAgent | SessionAgent":
    """Return an agent of the training before its first step."""
    from recpolicy.agents import SESSION_AGENTS, agent_entry
    from recpolicy.agents.item_features import compute_item_features

    name = metadata["agent"]
    entry = agent_entry(name)
    arms = compute_item_features(
        features.action_items, features.embeddings, split.train, item_attributes(name, features)
    )
    config = build(entry.config, metadata["config"]["agent"], f"agent {name}")
    if isinstance(settings, SessionTrainConfig):
        sight = observation_builder(features, settings, split)
        return SESSION_AGENTS[name].make(*sight.specs(), config, arms, metadata["seed"], sight.view.sequence)
    specs = bandit_specs(features.context.shape[1], len(features.action_items))
    agent: BanditAgent = entry.make(*specs, config, arms, metadata["seed"])
    return agent
