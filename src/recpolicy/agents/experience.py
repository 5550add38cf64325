"""What an agent of sessions learns from: T steps of B sessions side by side, time first.

`terminated`: the user left, so nothing follows; `truncated`: the session was cut, so what would have followed is to be
estimated from `next_observation`, which is what was seen after the step and before any restart.
"""

from typing import NamedTuple

import tensorflow as tf


class Experience(NamedTuple):
    """A block of steps as one behavior policy took them."""

    observation: tf.Tensor  # [T, B, D + M]
    mask: tf.Tensor  # [T, B, A] bool
    action: tf.Tensor  # [T, B] int32
    log_probability: tf.Tensor  # [T, B] of the action, under the policy that took it
    reward: tf.Tensor  # [T, B]
    terminated: tf.Tensor  # [T, B] bool
    truncated: tf.Tensor  # [T, B] bool
    next_observation: tf.Tensor  # [T, B, D + M]
    next_mask: tf.Tensor | None  # [T, B, A] bool; None unless the learner asks for it


def flatten(block: tf.Tensor) -> tf.Tensor:
    """[T, B, ...] as [T B, ...]."""
    return tf.reshape(block, [block.shape[0] * block.shape[1], *block.shape[2:]])
