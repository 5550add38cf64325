"""Experience of session agents: T steps of B parallel sessions, time first.

`terminated`: the user left, so no reward follows. `truncated`: the session was cut, so learners estimate the later
rewards from `next_observation`. That is the observation after the step and before any restart.
"""

from typing import NamedTuple

import tensorflow as tf


class Experience(NamedTuple):
    """A block of steps of one behavior policy."""

    observation: tf.Tensor  # [T, B, D + M]
    mask: tf.Tensor  # [T, B, A] bool
    action: tf.Tensor  # [T, B] int32
    log_probability: tf.Tensor  # [T, B] of the action, under the policy that took it
    reward: tf.Tensor  # [T, B]
    terminated: tf.Tensor  # [T, B] bool
    truncated: tf.Tensor  # [T, B] bool
    next_observation: tf.Tensor  # [T, B, D + M]
    next_mask: tf.Tensor | None  # [T, B, A] bool; None unless the learner needs it


def flatten(block: tf.Tensor) -> tf.Tensor:
    """Reshape [T, B, ...] to [T B, ...]."""
    return tf.reshape(block, [block.shape[0] * block.shape[1], *block.shape[2:]])
