"""Checkpoints of a training run, with a check that a checkpoint fits the run.

An artifact has the learner's variables in `checkpoint/`, unless its agent is a baseline. A later training run can
continue from them. A version whose catalog was changed (inference/catalog_changes.py) has none if they have a place for
each arm; the arrays of the policy then hold what a linear learner needs.
"""

from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from recpolicy.agents.learner import BanditAgent
from recpolicy.agents.linucb import DisjointLinear
from recpolicy.agents.linucb_hybrid import HybridLinUCB
from recpolicy.agents.linucb_user import UserLinUCB
from recpolicy.agents.sequence import SessionAgent
from recpolicy.core.errors import ArtifactError
from recpolicy.inference.artifact import PolicyParts
from recpolicy.inference.reward_estimators import unpack_symmetric

_CHECKPOINT = "checkpoint"
_VERSION_1_NAME = "learner"
_DAMAGED = (AssertionError, ValueError, IndexError, RuntimeError, tf.errors.OpError)
"""Errors of TensorFlow while it reads files that are cut, damaged, or of another agent."""


def make_checkpoint_manager(folder: Path, **parts: Any) -> tf.train.CheckpointManager:
    """Return a manager of the last two checkpoints of the named parts in `folder`.

    Raises:
        ArtifactError: The list of the checkpoints is damaged.
    """
    checkpoints = folder / "checkpoints"
    try:
        return tf.train.CheckpointManager(tf.train.Checkpoint(**parts), str(checkpoints), max_to_keep=2)
    except ValueError:
        raise ArtifactError(
            f"{checkpoints / 'checkpoint'}: damaged, so the training cannot continue; remove {folder} to begin again"
        ) from None


def restore(manager: tf.train.CheckpointManager, folder: Path) -> None:
    """Restore the latest checkpoint, if any; raises ArtifactError if it is damaged or belongs to another agent."""
    latest = manager.latest_checkpoint
    if latest is None:
        return
    try:
        # Every saved variable must have a counterpart here, so that a checkpoint of another agent is rejected.
        manager.checkpoint.restore(latest).assert_consumed()
    except _DAMAGED as error:
        message = str(error).splitlines()[0]
        raise ArtifactError(
            f"{folder}: its checkpoint {Path(latest).name} is damaged or belongs to another agent ({message}); remove"
            " the folder to begin again"
        ) from None


def read_checkpoint(agent: BanditAgent | SessionAgent, path: Path) -> None:
    """Load the learner's variables of a training's checkpoint into the agent; raises ArtifactError if they do not fit.

    The state of the environment and variables that only learning needs stay unread.
    """
    name = f"learner_{agent.learner.name}" if isinstance(agent, SessionAgent) else "learner"
    try:
        status = tf.train.Checkpoint(**{name: agent.learner}).restore(str(path))
        status.assert_existing_objects_matched().expect_partial()
    except _DAMAGED as error:
        message = str(error).splitlines()[0]
        raise ArtifactError(f"{path}: the checkpoint is damaged or belongs to another agent ({message})") from None


def write_learner(agent: Any, folder: Path) -> None:
    """Write the learner's variables below the artifact `folder`; other agents have none that a log could teach."""
    if isinstance(agent, BanditAgent | SessionAgent):
        (folder / _CHECKPOINT).mkdir()
        _make_checkpoint(agent).write(str(folder / _CHECKPOINT / "state"))


def read_learner(agent: BanditAgent | SessionAgent, folder: Path) -> None:
    """Load the variables that `write_learner` wrote into the agent; raises ArtifactError if they do not fit."""
    name = _CHECKPOINT if (folder / _CHECKPOINT).is_dir() else _VERSION_1_NAME
    state = folder / name / "state"
    if not state.with_suffix(".index").is_file():
        raise ArtifactError(
            f"{folder}: has no checkpoint to continue from, because an older recpolicy wrote it; train again"
        )
    try:
        _make_checkpoint(agent).read(str(state)).assert_consumed()
    except _DAMAGED as error:
        raise ArtifactError(f"{state}: damaged, or of another agent ({str(error).splitlines()[0]})") from None


def restore_learner(agent: BanditAgent, policy: PolicyParts, folder: Path) -> None:
    """Load the learner's variables from the checkpoint in `folder`, or from the arrays if the catalog was changed.

    Raises ArtifactError if neither has them.
    """
    if not policy.catalog_changed or _has_state(folder):
        read_learner(agent, folder)
        return
    arrays = {name: np.asarray(value) for name, value in policy.policy.items()}
    learner = agent.learner
    if isinstance(learner, DisjointLinear | HybridLinUCB):
        width = policy.context.shape[1] + int(arrays.get("bias", True))
        arrays["covariance"] = unpack_symmetric(arrays["covariance"], width)
        learner.restore(arrays)
    elif isinstance(learner, UserLinUCB):
        learner.restore(arrays)
    else:
        raise ArtifactError(
            f"{folder}: {policy.agent} cannot continue its training after its catalog was changed; train again, or"
            " retrain the version before and change the catalog of the new one"
        )


def _has_state(folder: Path) -> bool:
    return any((folder / name).is_dir() for name in (_CHECKPOINT, _VERSION_1_NAME))


def _make_checkpoint(agent: BanditAgent | SessionAgent) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(learner=agent.learner, train_step=agent.train_step_counter)
