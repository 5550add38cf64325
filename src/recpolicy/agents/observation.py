"""What a policy sees, in one form whatever the environment's observation looks like.

An observation is a tensor [B, D], or a dict with `global` [B, D] and, where there are any, `per_arm` [B, A, K]
(candidate features) and `mask` [B, A] (int32, 1 where an action is allowed: TF-Agents' time steps hold no booleans).
"""

from typing import Any, NamedTuple

import tensorflow as tf


class Observation(NamedTuple):
    """B users' contexts, and what is known of the actions."""

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


def split_mask(observation: dict[str, tf.Tensor]) -> tuple[dict[str, tf.Tensor], tf.Tensor]:
    """Split as TF-Agents' agents want it: their `observation_and_action_constraint_splitter`."""
    return {key: value for key, value in observation.items() if key != "mask"}, observation["mask"]


def context_width(time_step_spec: Any) -> int:
    """D, the width of the context in a time step spec."""
    observation = time_step_spec.observation
    spec = observation["global"] if isinstance(observation, dict) else observation
    return int(spec.shape[0])
