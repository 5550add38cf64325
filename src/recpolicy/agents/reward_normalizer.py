"""Normalization of rewards by their running standard deviation, inside a compiled training in sessions.

T steps, B sessions. Step sizes, gradient limits and loss weights then mean the same for rewards of any scale. A learner
learns in units of the standard deviation so far; its values, exported arrays and reported values are in the original
unit. The variables are part of the learner, so a checkpoint holds them.
"""

import tensorflow as tf

from recpolicy.core.config import config_dataclass
from recpolicy.data.reward_scale import MIN_RELATIVE_VARIANCE, Moments, merged_moments


@config_dataclass
class RewardNormalizerConfig:
    """The setting of all agents that can normalize rewards."""

    normalize_reward: bool = False
    """Divide rewards by their running standard deviation while learning; values stay in the original unit."""


class RewardNormalizer(tf.Module):
    """The moments of all rewards so far; without variables, and with the unit 1, if it is not enabled."""

    def __init__(self, enabled: bool):
        super().__init__(name="rewards")
        # Double precision: after many blocks, single precision would lose those of the next one.
        self._moments = [
            tf.Variable(0.0, dtype=tf.float64, trainable=False, name=name)
            for name in (Moments._fields if enabled else ())
        ]

    @property
    def std(self) -> tf.Tensor:
        """The unit of learning: the standard deviation so far; 1 before two different rewards."""
        if not self._moments:
            return tf.constant(1.0)
        _, mean, variance = self._moments
        differ = variance > MIN_RELATIVE_VARIANCE * tf.square(mean)
        return tf.cast(tf.where(differ, tf.sqrt(variance), 1.0), tf.float32)

    def take_in(self, reward: tf.Tensor, weight: tf.Tensor | None = None) -> None:
        """Merge the moments of rewards; `weight` is 0 for entries that are padding, 1 for others."""
        if not self._moments:
            return
        reward = tf.cast(reward, tf.float64)
        weight = tf.ones_like(reward) if weight is None else tf.cast(weight, tf.float64)
        count = tf.reduce_sum(weight)
        mean = tf.reduce_sum(weight * reward) / count
        variance = tf.reduce_sum(weight * tf.square(reward - mean)) / count
        merged = merged_moments(Moments(*self._moments), Moments(count, mean, variance))
        for variable, moment in zip(self._moments, merged, strict=True):
            variable.assign(moment)

    def normalized(self, reward: tf.Tensor) -> tf.Tensor:
        """Return rewards in the unit of learning."""
        return reward / self.std if self._moments else reward

    def original(self, values: tf.Tensor) -> tf.Tensor:
        """Return values in the original unit of rewards."""
        return values * self.std if self._moments else values

    def original_square(self, values: tf.Tensor) -> tf.Tensor:
        """Return squared values in the original unit of rewards, squared."""
        return values * tf.square(self.std) if self._moments else values
