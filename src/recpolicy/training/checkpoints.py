"""Checkpoints of a training: what is saved together, and the refusal of what does not fit."""

from pathlib import Path
from typing import Any

import tensorflow as tf

from recpolicy.core.errors import ArtifactError


def checkpoints_of(folder: Path, **parts: Any) -> tf.train.CheckpointManager:
    """A manager of the last two checkpoints of the named parts in `folder`."""
    return tf.train.CheckpointManager(tf.train.Checkpoint(**parts), str(folder / "checkpoints"), max_to_keep=2)


def restore(manager: tf.train.CheckpointManager, folder: Path) -> None:
    """Take up the latest checkpoint, if there is one; raises ArtifactError when it is damaged or of another agent."""
    latest = manager.latest_checkpoint
    if latest is None:
        return
    try:
        # Everything saved must have its place here, so that a checkpoint of another agent is refused.
        manager.checkpoint.restore(latest).assert_consumed()
    except (AssertionError, ValueError, tf.errors.OpError) as error:
        message = str(error).splitlines()[0]
        raise ArtifactError(f"{folder}: its checkpoint is of another agent or damaged ({message})") from None
