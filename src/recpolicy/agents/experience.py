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


class SlateExperience(NamedTuple):
    """A block of steps that each show a slate of K items."""

    steps: Experience
    """`action` and `log_probability` are [T, B, K]: of each item, given those at the places before it."""
    read: tf.Tensor  # [T, B, K] bool, places that the user read
    liked: tf.Tensor  # [T, B, K] bool, at most one per slate


def flatten(block: tf.Tensor) -> tf.Tensor:
    """Reshape [T, B, ...] to [T B, ...]."""
    return tf.reshape(block, [block.shape[0] * block.shape[1], *block.shape[2:]])


def slate_items(slates: SlateExperience) -> Experience:
    """Return an experience of slates as one of single items: K columns per session, [T, B K].

    The mask of a place excludes the items at the places before it, and its reward is that of a like of its item.
    """
    experience = slates.steps
    steps, batch, places = experience.action.shape
    taken = tf.one_hot(experience.action, experience.mask.shape[2], dtype=tf.int32)  # [T, B, K, A]
    free = experience.mask[:, :, tf.newaxis] & (tf.cumsum(taken, axis=2, exclusive=True) == 0)
    repeated = {
        name: tf.repeat(getattr(experience, name), places, axis=1)
        for name in ("observation", "reward", "terminated", "truncated", "next_observation")
    }
    repeated["reward"] *= tf.cast(join_places(slates.liked), tf.float32)
    return Experience(
        **repeated, mask=tf.reshape(free, [steps, batch * places, free.shape[3]]), next_mask=None,
        action=join_places(experience.action), log_probability=join_places(experience.log_probability),
    )  # fmt: skip


def join_places(part: tf.Tensor) -> tf.Tensor:
    """Reshape [T, B, K] to [T, B K]."""
    return tf.reshape(part, [part.shape[0], part.shape[1] * part.shape[2]])
