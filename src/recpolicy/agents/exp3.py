"""EXP3: exponential weights for arms whose rewards an adversary may choose; no context.

p = (1 - gamma) softmax(w) + gamma / A over the allowed arms; the played arm's weight grows by gamma / A * r' / p, with
r' the reward scaled to [0, 1] (an unbiased estimate of every arm's reward). Source: Auer, Cesa-Bianchi, Freund &
Schapire 2002, section 3. Unlike the paper, we draw all actions of a batch from one distribution and sum their gains.
"""

from typing import Any

import tensorflow as tf

from recpolicy.agents import action_distributions
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import BanditAgent, Estimate, ExportedPolicy, Learner
from recpolicy.agents.observation import Observation
from recpolicy.agents.ucb1 import ArmMeans, check_reward_range
from recpolicy.core.config import Number, PositiveFraction, config_dataclass


@config_dataclass
class EXP3Config:
    """Settings of EXP3."""

    gamma: PositiveFraction = 0.1
    """Share of uniform exploration and learning rate, in (0, 1]."""
    min_reward: Number = 1.0
    """Smallest possible reward."""
    max_reward: Number = 5.0
    """Largest possible reward."""

    def __post_init__(self) -> None:
        check_reward_range(self.min_reward, self.max_reward)


class EXP3(Learner):
    """An EXP3 learner: exponential weights, and mean rewards for rating estimates only."""

    learns_from_logs = False

    def __init__(self, arms: int, config: EXP3Config):
        super().__init__(name="exp3")
        self._config = config
        self._weight = tf.Variable(tf.zeros([arms]), trainable=False, name="exp3/weight")  # [A], log scale
        self._arms = ArmMeans(arms, "exp3")

    def estimate(self, observation: Observation) -> Estimate:
        """Return mean rewards (mid-scale where untried) and widths, equal for all contexts."""
        return self._arms.estimate(observation.context, 0.5 * (self._config.min_reward + self._config.max_reward))

    def behavior_probabilities(self, observation: Observation) -> tf.Tensor:
        """Return the softmax of the weights, mixed with the uniform distribution."""
        return action_distributions.with_uniform_mix(
            self.greedy_probabilities(observation), self._config.gamma, observation.mask
        )

    def greedy_probabilities(self, observation: Observation) -> tf.Tensor:
        """Return the softmax of the weights: EXP3's greedy policy is a distribution, too."""
        weight = tf.broadcast_to(self._weight, [tf.shape(observation.context)[0], tf.size(self._weight)])
        return action_distributions.boltzmann(weight, 1.0, observation.mask)

    def update(self, observation: Observation, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        """Add the importance-weighted gains of the batch."""
        config, arms = self._config, self._weight.shape[0]
        acted = action_distributions.with_uniform_mix(
            self.behavior_probabilities(observation), self.uniform_mix, observation.mask
        )
        probability = tf.gather(acted, action, batch_dims=1)
        gain = (reward - config.min_reward) / (config.max_reward - config.min_reward) / probability  # [B]
        total = tf.linalg.matvec(tf.one_hot(action, arms), gain, transpose_a=True)  # [A]
        weight = self._weight + config.gamma / arms * total
        # A constant shift changes no probability and keeps the weights from overflowing.
        self._weight.assign(weight - tf.reduce_max(weight))
        return self._arms.update(action, reward)

    def export(self) -> ExportedPolicy:
        """Return weights and means as arrays."""
        mean, width = self.estimate(Observation(tf.zeros([1, 1]), None, None))
        arrays = {"mean": mean[0].numpy(), "width": width[0].numpy(), "weight": self._weight.numpy()}
        return ExportedPolicy("arms", "exponential_weights", {"gamma": self._config.gamma}, arrays)


def make_exp3(
    spec: Any, action_spec: Any, config: EXP3Config, arms: ItemFeatures | None = None, seed: int = 0
) -> BanditAgent:
    """Return an EXP3 agent; it uses nothing of `arms`."""
    del arms
    return BanditAgent(spec, action_spec, EXP3(int(action_spec.maximum) + 1, config), seed=seed)
