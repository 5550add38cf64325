"""UCB1: a bandit without context, greedy in mean + c (high - low) sqrt(2 ln N / n_a).

Rewards are scaled to [0, 1] internally. Every arm is tried once first: its bound is infinite, and ties are broken at
random. N is the number of rewards so far; a batch of B acts on the same counts. From a log we weight the means by 1 /
propensity and use effective counts (training/ipw_means.py). Source: Auer, Cesa-Bianchi & Fischer 2002.
"""

from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.agents import action_distributions
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import BanditAgent, Estimate, ExportedPolicy, Learner
from recpolicy.agents.observation import Observation
from recpolicy.core.config import NonNegativeNumber, Number, config_dataclass
from recpolicy.core.errors import ConfigError

_UNTRIED = 1e9
"""Finite stand-in for an infinite bound: larger than any other, and equal for all untried arms."""


@config_dataclass
class UCB1Config:
    """Settings of UCB1."""

    c: NonNegativeNumber = 1.0
    """Multiplier of the confidence width; 1 is the paper's."""
    min_reward: Number = 1.0
    """Smallest possible reward."""
    max_reward: Number = 5.0
    """Largest possible reward."""

    def __post_init__(self) -> None:
        check_reward_range(self.min_reward, self.max_reward)


def check_reward_range(min_reward: Number, max_reward: Number) -> None:
    """Raise ConfigError unless `max_reward` is larger than `min_reward`."""
    if max_reward <= min_reward:
        raise ConfigError(f"max_reward is {max_reward:g}: expected more than min_reward, {min_reward:g}")


class ArmMeans(tf.Module):
    """The counts and mean rewards of A arms."""

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
        # A running mean stays accurate in float32; a sum of millions of ratings would not.
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
        """Return means and widths [B, A], the same for every context; untried arms have the mean `untried`."""
        mean = tf.where(self.count > 0, self.mean, untried)
        width = tf.math.rsqrt(tf.maximum(self.count, 1.0))
        shape = [tf.shape(context)[0], tf.size(mean)]
        return Estimate(tf.broadcast_to(mean, shape), tf.broadcast_to(width, shape))


def upper_bounds(count: tf.Tensor, mean: tf.Tensor, c: float, span: float) -> tf.Tensor:
    """Return UCB1's index [A] on the scale of the rewards; `_UNTRIED` where count is 0."""
    total = tf.maximum(tf.reduce_sum(count), 1.0)
    bonus = c * span * tf.sqrt(2.0 * tf.math.log(total) / tf.maximum(count, 1.0))
    return tf.where(count > 0, mean + bonus, _UNTRIED)


class UCB1(Learner):
    """A UCB1 learner: optimistic context-free means."""

    def __init__(self, arms: int, config: UCB1Config):
        super().__init__(name="ucb1")
        self._config = config
        self._arms = ArmMeans(arms, "ucb1")

    @property
    def arms(self) -> ArmMeans:
        """The counts and means."""
        return self._arms

    def estimate(self, observation: Observation) -> Estimate:
        """Return mean rewards (mid-scale where untried) and widths, equal for all contexts."""
        return self._arms.estimate(observation.context, 0.5 * (self._config.min_reward + self._config.max_reward))

    def behavior_probabilities(self, observation: Observation) -> tf.Tensor:
        """Return the greedy distribution over the upper bounds."""
        span = self._config.max_reward - self._config.min_reward
        score = upper_bounds(self._arms.count, self._arms.mean, self._config.c, span)
        return action_distributions.greedy(
            tf.broadcast_to(score, [tf.shape(observation.context)[0], tf.size(score)]), observation.mask
        )

    def update(self, observation: Observation, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:  # noqa: ARG002
        """Update counts and means."""
        return self._arms.update(action, reward)

    def export(self) -> ExportedPolicy:
        """Return the means, widths and bounds as arrays."""
        span = self._config.max_reward - self._config.min_reward
        no_features = Observation(tf.zeros([1, 1]), None, None)
        mean, width = self.estimate(no_features)
        score = upper_bounds(self._arms.count, self._arms.mean, self._config.c, span)
        arrays = {"mean": mean[0].numpy(), "width": width[0].numpy(), "score": score.numpy()}
        return ExportedPolicy("arms", "optimistic", {}, arrays)


def make_ucb1(
    spec: Any, action_spec: Any, config: UCB1Config, arms: ItemFeatures | None = None, seed: int = 0
) -> BanditAgent:
    """Return a UCB1 agent; it uses nothing of `arms`."""
    del arms
    return BanditAgent(spec, action_spec, UCB1(int(action_spec.maximum) + 1, config), seed=seed)
