"""A common form for the observations of all environments.

An observation is a tensor [B, D], or a dict with `global` [B, D] and, optionally, `per_arm` [B, A, K] (candidate
features) and `mask` [B, A] (int32, 1 where an action is allowed; TF-Agents' time steps cannot hold booleans).
"""

from typing import Any, NamedTuple

import tensorflow as tf


class Observation(NamedTuple):
    """The contexts of B users, and the features and mask of the actions."""

    context: tf.Tensor  # [B, D]
    per_arm: tf.Tensor | None  # [B, A, K]
    mask: tf.Tensor | None  # [B, A] bool


def read_observation(observation: Any) -> Observation:
    """Return the observation's parts."""
    if isinstance(observation, dict):
        mask = observation.get("mask")
        return Observation(
            observation["global"], observation.get("per_arm"), None if mask is None else tf.cast(mask, tf.bool)
        )
    return Observation(observation, None, None)


def context_width(time_step_spec: Any) -> int:
    """Return the width D of the context in a time step spec."""
    observation = time_step_spec.observation
    spec = observation["global"] if isinstance(observation, dict) else observation
    return int(spec.shape[0])
