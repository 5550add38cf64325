"""The dual-V variant: one actor, two value networks, and one advantage that mixes likes and return days.

T requests, B chains, H weights, O observation. V_I values likes with a discount for each request, V_T the cost of
return days with a discount between sessions. Both advantages are standardized, and the actor follows

    (1 - alpha) A_I - alpha A_T

alpha rises from 0 to its final value in the first half of the training, since V_T learns slowly. A code that is widely
copied has no done mask: it adds the value of the first request of another user's session to the last one of this
user's. Here nothing follows a terminated chain, the value of the next state follows a chain that is cut, and the end of
a session terminates neither. The update is that of PPO with a Gaussian of fixed width. Source: Schulman et al. 2017
(1707.06347).
"""

import numpy as np
import tensorflow as tf

from recpolicy.agents.returns import discounted_sums, standardize
from recpolicy.agents.rlur import Actors, RLURConfig, retention_targets
from recpolicy.agents.session_networks import SessionNetworkConfig, Trainer
from recpolicy.agents.stacked_networks import StackedNetworks
from recpolicy.core.config import Fraction, LearningRate, PositiveFraction, Size, config_dataclass
from recpolicy.core.seeds import integer_seed


@config_dataclass
class DualValueConfig:
    """Settings of the dual-V variant."""

    alpha: Fraction = 0.3
    """Final share of the return in the advantage."""
    gamma_immediate: Fraction = 0.99
    """Discount of likes for each request."""
    gamma_sessions: Fraction = 0.95
    """Discount of return days between sessions."""
    gae_lambda: Fraction = 0.9
    """Share of longer returns in the advantages."""
    noise: PositiveFraction = 0.3
    """Standard deviation of the Gaussian actor."""
    clip_range: PositiveFraction = 0.2
    """Largest change of a probability ratio that is rewarded."""
    layers: tuple[Size, ...] = (32, 32)
    """Units of the hidden layers (ReLU)."""
    learning_rate: LearningRate = 0.0007
    """Adam's step size."""


def alpha_at(progress: tf.Tensor | float, alpha: float) -> tf.Tensor:
    """Return the share of the return at a progress of 0..1: a ramp over the first half, then `alpha`."""
    return alpha * tf.minimum(2.0 * tf.cast(progress, tf.float32), 1.0)


def chain_advantages(
    reward: tf.Tensor, value: tf.Tensor, next_value: tf.Tensor, last: tf.Tensor, terminated: tf.Tensor,
    gamma_sessions: float, gamma_requests: float, gae_lambda: float,
) -> tf.Tensor:  # fmt: skip
    """Return advantages [T, B] over the sessions of a chain; the block's end cuts the chain.

    The discount is gamma_sessions after a session's last request and gamma_requests otherwise; nothing follows a
    terminated chain.
    """
    delta = retention_targets(reward, last, terminated, next_value, gamma_sessions, gamma_requests) - value
    go_on = gae_lambda * tf.where(last, gamma_sessions, gamma_requests) * tf.where(terminated, 0.0, 1.0)
    return discounted_sums(delta, go_on)


def mixed_advantage(immediate: tf.Tensor, cost: tf.Tensor, alpha: tf.Tensor | float) -> tf.Tensor:
    """Return (1 - alpha) A_I - alpha A_T of standardized advantages; a return day is a cost."""
    return (1.0 - alpha) * standardize(immediate) - alpha * standardize(cost)


class DualValue(tf.Module):
    """Actor and value networks of the variant."""

    def __init__(self, observation: int, heads: int, config: DualValueConfig | None = None, seed: int = 0):
        super().__init__(name="dual_value")
        self.config = config = config or DualValueConfig()
        self.actor = Actors(observation, heads, config.layers, seed, "dual_actor")
        self.values = StackedNetworks(2, observation, config.layers, 1, integer_seed(seed, "values"), "values", 0.1)
        adam = SessionNetworkConfig(learning_rate=config.learning_rate, max_grad_norm=1.0)
        self._trainer = Trainer([*self.actor.networks.weights, *self.values.weights], adam)

    def restart(self, seed: int) -> None:
        """Start anew."""
        for networks in (self.actor.networks, self.values):
            networks.restart(integer_seed(seed, networks.name))
        self.actor.separate.assign(RLURConfig().activity_actors)
        self._trainer.restart()

    def advantages(
        self, observation: tf.Tensor, next_observation: tf.Tensor, like: tf.Tensor, cost: tf.Tensor, last: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
        """Return advantages of likes and of costs, and the targets of both values, all [T, B]."""
        config, shape = self.config, tf.shape(like)
        now, following = (
            tf.reshape(self.values(tf.reshape(part, [-1, part.shape[-1]])), tf.concat([[2], shape], axis=0))
            for part in (observation, next_observation)
        )
        never = tf.zeros_like(last)
        immediate = chain_advantages(
            like, now[0], following[0], last, never, config.gamma_immediate, config.gamma_immediate, config.gae_lambda
        )
        returns = chain_advantages(
            cost, now[1], following[1], last, never, config.gamma_sessions, 1.0, config.gae_lambda
        )
        return immediate, returns, now[0] + immediate, now[1] + returns

    def update(
        self, observation: tf.Tensor, action: tf.Tensor, mean: tf.Tensor, advantage: tf.Tensor, targets: tf.Tensor
    ) -> tf.Tensor:
        """Take a step on a batch: observation [B, O], action and its mean [B, H], advantage [B], targets [2, B]."""
        config = self.config
        with tf.GradientTape() as tape:
            log_ratio = tf.reduce_sum(
                tf.square(action - mean) - tf.square(action - self.actor(observation)), axis=1
            ) / (2.0 * np.square(config.noise))  # fmt: skip
            ratio = tf.exp(tf.clip_by_value(log_ratio, -10.0, 10.0))
            clipped = tf.clip_by_value(ratio, 1.0 - config.clip_range, 1.0 + config.clip_range)
            policy = -tf.reduce_mean(tf.minimum(ratio * advantage, clipped * advantage))
            value = tf.reduce_mean(tf.square(self.values(observation)[..., 0] - targets))
            loss = policy + 0.5 * value
        self._trainer.descend(tape, loss)
        return loss
