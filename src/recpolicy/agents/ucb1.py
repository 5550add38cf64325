"""UCB1: arms without context, greedy in mean + c (high - low) sqrt(2 ln N / n_a).

Rewards are scaled to [0, 1] inside; every arm is tried once first (its bound is infinite, ties are drawn). N is the
number of rewards seen; batches of B act on the same counts. From a log its means are weighted by 1 / propensity, and
its counts are effective ones (training/weighted_means.py). Source: Auer, Cesa-Bianchi & Fischer 2002.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.agents import action_distributions
from recpolicy.agents.item_features import Arms
from recpolicy.agents.learner import BanditAgent, Estimate, ExportedPolicy, Learner
from recpolicy.agents.observation import Observation
from recpolicy.core.errors import ConfigError

_UNTRIED = 1e9
"""Stands for an infinite bound: larger than any other, and equal for all untried arms."""


@dataclass(frozen=True, kw_only=True)
class UCB1Config:
    """Settings of UCB1."""

    c: float = 1.0
    """Multiplier of the confidence width; 1 is the paper's."""
    low: float = 1.0
    """Smallest possible reward."""
    high: float = 5.0
    """Largest possible reward."""


class ArmMeans(tf.Module):
    """Counts and mean rewards of A arms."""

    def __init__(self, arms: int, name: str):
        super().__init__(name=name)
        self.count = tf.Variable(tf.zeros([arms]), trainable=False, name=f"{name}/count")  # [A]
        self.mean = tf.Variable(tf.zeros([arms]), trainable=False, name=f"{name}/mean")  # [A]

    def update(self, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        """Take in a batch; returns the mean squared error before it."""
        before = tf.gather(self.mean, action)
        chosen = tf.one_hot(action, self.count.shape[0])  # [B, A]
        added = tf.reduce_sum(chosen, axis=0)
        count = self.count + added
        # The running mean keeps float32 exact enough where a sum of millions of ratings would not.
        change = tf.linalg.matvec(chosen, reward, transpose_a=True) - added * self.mean
        self.mean.assign_add(tf.math.divide_no_nan(change, count))
        self.count.assign(count)
        return tf.reduce_mean(tf.square(reward - before))

    def include(self, count: NDArray[np.floating], mean: NDArray[np.floating]) -> None:
        """Take in `count` [A] rewards, fractions allowed, of this mean [A]."""
        added = tf.constant(count, tf.float32)
        total = self.count + added
        self.mean.assign_add(tf.math.divide_no_nan(added * (tf.constant(mean, tf.float32) - self.mean), total))
        self.count.assign(total)

    def estimate(self, context: tf.Tensor, untried: float) -> Estimate:
        """Means (`untried` where there is none) and widths, the same for every context: [B, A]."""
        mean = tf.where(self.count > 0, self.mean, untried)
        width = tf.math.rsqrt(tf.maximum(self.count, 1.0))
        shape = [tf.shape(context)[0], tf.size(mean)]
        return Estimate(tf.broadcast_to(mean, shape), tf.broadcast_to(width, shape))


def upper_bounds(count: tf.Tensor, mean: tf.Tensor, c: float, span: float) -> tf.Tensor:
    """UCB1's index [A] on the scale of the rewards; `_UNTRIED` where count is 0."""
    total = tf.maximum(tf.reduce_sum(count), 1.0)
    bonus = c * span * tf.sqrt(2.0 * tf.math.log(total) / tf.maximum(count, 1.0))
    return tf.where(count > 0, mean + bonus, _UNTRIED)


class UCB1(Learner):
    """Optimism over context-free means."""

    def __init__(self, arms: int, config: UCB1Config):
        if config.high <= config.low:
            raise ConfigError(f"ucb1: high {config.high}: expected more than low {config.low}")
        super().__init__(name="ucb1")
        self._config = config
        self._arms = ArmMeans(arms, "ucb1")

    @property
    def arms(self) -> ArmMeans:
        """Counts and means."""
        return self._arms

    def estimate(self, observation: Observation) -> Estimate:
        """Mean rewards (mid-scale where untried) and widths, alike for all contexts."""
        return self._arms.estimate(observation.context, 0.5 * (self._config.low + self._config.high))

    def explore(self, observation: Observation) -> tf.Tensor:
        """Greedy in the upper bounds."""
        span = self._config.high - self._config.low
        score = upper_bounds(self._arms.count, self._arms.mean, self._config.c, span)
        return action_distributions.greedy(
            tf.broadcast_to(score, [tf.shape(observation.context)[0], tf.size(score)]), observation.mask
        )

    def learn(self, observation: Observation, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:  # noqa: ARG002
        """Update counts and means."""
        return self._arms.update(action, reward)

    def export(self) -> ExportedPolicy:
        """Means, widths and bounds as arrays."""
        span = self._config.high - self._config.low
        one = Observation(tf.zeros([1, 1]), None, None)
        mean, width = self.estimate(one)
        score = upper_bounds(self._arms.count, self._arms.mean, self._config.c, span)
        arrays = {"mean": mean[0].numpy(), "width": width[0].numpy(), "score": score.numpy()}
        return ExportedPolicy("arms", "optimistic", {}, arrays)


def make_ucb1(spec: Any, action_spec: Any, config: UCB1Config, arms: Arms | None = None, seed: int = 0) -> BanditAgent:
    """Return a UCB1 agent; it uses nothing of `arms`."""
    del arms
    return BanditAgent(spec, action_spec, UCB1(int(action_spec.maximum) + 1, config), seed=seed)
