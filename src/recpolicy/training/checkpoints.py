"""Checkpoints of a training run, with a check that a checkpoint fits the run.

The artifact of an agent of single rounds has the learner's variables in `checkpoint/`. A later training run can
continue from them.
"""

from pathlib import Path
from typing import Any

import tensorflow as tf

from recpolicy.agents.learner import BanditAgent
from recpolicy.core.errors import ArtifactError

_CHECKPOINT = "checkpoint"
_VERSION_1_NAME = "learner"


def make_checkpoint_manager(folder: Path, **parts: Any) -> tf.train.CheckpointManager:
    """Return a manager of the last two checkpoints of the named parts in `folder`."""
    return tf.train.CheckpointManager(tf.train.Checkpoint(**parts), str(folder / "checkpoints"), max_to_keep=2)


def restore(manager: tf.train.CheckpointManager, folder: Path) -> None:
    """Restore the latest checkpoint, if any; raises ArtifactError if it is damaged or belongs to another agent."""
    latest = manager.latest_checkpoint
    if latest is None:
        return
    try:
        # Every saved variable must have a counterpart here, so that a checkpoint of another agent is rejected.
        manager.checkpoint.restore(latest).assert_consumed()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        message = str(error).splitlines()[0]
        raise ArtifactError(f"{folder}: its checkpoint is damaged or belongs to another agent ({message})") from None


def write_learner(agent: Any, folder: Path) -> None:
    """Write the learner's variables below the artifact `folder`; session agents have none that a log could teach."""
    if isinstance(agent, BanditAgent):
        (folder / _CHECKPOINT).mkdir()
        _make_checkpoint(agent).write(str(folder / _CHECKPOINT / "state"))


def read_learner(agent: BanditAgent, folder: Path) -> None:
    """Load the variables that `write_learner` wrote into the agent; raises ArtifactError if they do not fit."""
    name = _CHECKPOINT if (folder / _CHECKPOINT).is_dir() else _VERSION_1_NAME
    state = folder / name / "state"
    if not state.with_suffix(".index").is_file():
        raise ArtifactError(
            f"{folder}: has no checkpoint to continue from, because it is a session policy or from an older recpolicy;"
            " train again"
        )
    try:
        _make_checkpoint(agent).read(str(state)).assert_consumed()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        raise ArtifactError(f"{state}: damaged, or of another agent ({str(error).splitlines()[0]})") from None


def _make_checkpoint(agent: BanditAgent) -> tf.train.Checkpoint:
    return tf.train.Checkpoint(learner=agent.learner, train_step=agent.train_step_counter)
