"""RLUR: reinforcement learning for user retention, with the naive agents that it is compared with as settings.

B requests, H weights (the action), O observation. Two pairs of critics estimate two costs and gains of a weight vector:

    Q_T(s, a) = c + g Q_T'(s', mu'(s'))
    Q_I(s, a) = likes + rnd_coef bonus + gamma_immediate Q_I'(s', mu'(s'))

c is the cost of the return day at the last request of a session, and 0 at others; g is gamma_sessions at that request
and gamma_requests (1) at others.

The discount acts between sessions only, so every request of a session has the full cost of its return day. The bonus
is random network distillation: the error of an encoder, trained by that error alone, against a fixed random one. It
enters Q_I only, detached. The actor minimizes lambda_return Q_T - lambda_immediate Q_I. One actor serves users of low
activity, another those of high activity. Returns are normalized by the user's own short-return probability, and a soft
regularizer limits the divergence from the policy that acted. Twin critics, delayed actor updates and smoothed targets
are those of TD3. Sources: Cai et al. 2023 (2302.01724); Fujimoto et al. 2018 (1802.09477); Burda et al. 2018
(1810.12894). `gamma_requests` below 1 is the discount of public code, in which early requests see less of the return.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.agents.session_networks import SessionNetworkConfig, Trainer
from recpolicy.agents.stacked_networks import StackedNetworks
from recpolicy.core.config import (
    Fraction,
    LearningRate,
    NonNegativeNumber,
    PositiveFraction,
    Size,
    config_dataclass,
)
from recpolicy.core.seeds import integer_seed
from recpolicy.core.tensorflow_random import split, uniform
from recpolicy.core.types import Floats

GROUPS = 2
"""Actors: of users with low and with high activity."""
_MAX_LOG_FACTOR = 5.0
_GRADIENT_NORM = 10.0
_ENCODED = 16  # outputs of the encoders of random network distillation


@config_dataclass
class RLURConfig:
    """Settings of RLUR; the naive agents and the ablations are settings of it."""

    lambda_return: NonNegativeNumber = 10.0
    """Weight of the return cost, whose mean is 1; 0 is the agent of immediate rewards."""
    lambda_immediate: NonNegativeNumber = 1.0
    """Weight of immediate rewards."""
    gamma_sessions: Fraction = 0.95
    """Discount of the retention critic between sessions."""
    gamma_requests: Fraction = 1.0
    """Its discount inside a session: 1 for RLUR, the discount between sessions for a naive agent."""
    gamma_immediate: Fraction = 0.9
    """Discount of the immediate critic for each request."""
    rnd_coef: NonNegativeNumber = 0.1
    """Weight of the exploration bonus in the immediate critic; 0 disables it."""
    normalize_returns: bool = True
    """Divide return days by the user's own short-return probability."""
    activity_actors: bool = True
    """Separate actors for users of low and of high activity."""
    regularizer: NonNegativeNumber = 0.1
    """Strength of the soft regularizer; 0 disables it. At the article's 1.5, a training of 20 blocks hardly moves."""
    noise: PositiveFraction = 0.3
    """Standard deviation of the Gaussian actor, in units of weights of -1..1."""
    target_policy_noise: Fraction = 0.1
    """Standard deviation of the noise on target actions, clipped at twice that."""
    tau: PositiveFraction = 0.01
    """Share by which target networks move at each update."""
    layers: tuple[Size, ...] = (32, 32)
    """Units of the hidden layers (ReLU) of each network."""
    critic_learning_rate: LearningRate = 0.001
    """Adam's step size of critics and encoder."""
    actor_learning_rate: LearningRate = 0.0003
    """Adam's step size of the actors."""


class Batch(NamedTuple):
    """B requests with what followed."""

    observation: tf.Tensor  # [B, O]; the last number is above 0 for users of high activity
    action: tf.Tensor  # [B, H]
    behavior_mean: tf.Tensor  # [B, H], mean of the Gaussian that acted
    explored: tf.Tensor  # [B] bool, the weights were uniform, so there is no policy to stay near to
    like: tf.Tensor  # [B]
    cost: tf.Tensor  # [B], of the return day; 0 unless `last`
    last: tf.Tensor  # [B] bool, the session ended here
    terminated: tf.Tensor  # [B] bool, the chain ended here for good, so nothing follows
    next_observation: tf.Tensor  # [B, O]


def retention_targets(
    cost: tf.Tensor, last: tf.Tensor, terminated: tf.Tensor, next_value: tf.Tensor,
    gamma_sessions: tf.Tensor | float, gamma_requests: tf.Tensor | float = 1.0,
) -> tf.Tensor:  # fmt: skip
    """Return y = cost + g V(s') [B], with g = gamma_sessions after a session's last request, else gamma_requests."""
    gamma = tf.where(last, gamma_sessions, gamma_requests)
    return cost + gamma * tf.where(terminated, 0.0, next_value)


def normalized_return(day: Floats, short: Floats, threshold: float, cap: float = 3.0, floor: float = 0.05) -> Floats:
    """Return clip(T / ((1 - T') T_beta), 0, cap), with 1 - T' of at least `floor`.

    By Markov's inequality E[T] >= T_beta (1 - T'), so users who always come back soon and users who rarely do get
    costs of the same order.

    Args:
        day: T, return days.
        short: T', the probability of a return within `threshold` days, from features that the policy cannot move.
        threshold: T_beta, a percentile of the return days.
        cap: Largest value. floor: Smallest 1 - T'.
    """
    return np.clip(day / (np.maximum(1.0 - short, floor) * threshold), 0.0, cap)


def actor_cost(
    return_value: tf.Tensor, immediate_value: tf.Tensor, lambda_return: tf.Tensor | float,
    lambda_immediate: tf.Tensor | float,
) -> tf.Tensor:  # fmt: skip
    """Return lambda_return Q_T - lambda_immediate Q_I [B], which the actor minimizes: a return time is a cost."""
    return lambda_return * return_value - lambda_immediate * immediate_value


def drift_factor(log_probability: tf.Tensor, behavior: tf.Tensor, strength: tf.Tensor | float) -> tf.Tensor:
    """Return exp(max(strength (log p(a|s) - log p_b(a|s)), 0)) [B], at most e^5: 1 where p <= p_b, above 1 beyond."""
    return tf.exp(tf.clip_by_value(strength * (log_probability - behavior), 0.0, _MAX_LOG_FACTOR))


def regularized_loss(cost: tf.Tensor, factor: tf.Tensor) -> tf.Tensor:
    """Return the mean of factor times cost, with the cost shifted and scaled to be at least 0 with mean 1.

    A factor above 1 penalizes only a positive loss: on a negative one it would reward drift.
    """
    lowest = tf.stop_gradient(tf.reduce_min(cost))
    scale = tf.stop_gradient(tf.reduce_mean(cost) - lowest)
    return tf.reduce_mean(factor * (cost - lowest)) / tf.maximum(scale, 1e-6)


def start_levels(config: RLURConfig, requests: float, likes: float) -> tuple[float, float]:
    """Return values of both critics if every session has cost 1 and `requests` requests with `likes` likes each."""
    inside = config.gamma_requests ** (requests - 1)
    return inside / max(1.0 - config.gamma_sessions * inside, 0.01), likes / max(1.0 - config.gamma_immediate, 0.01)


class Actors(tf.Module):
    """A deterministic policy: head weights in -1..1, by a network for each activity group."""

    def __init__(self, observation: int, heads: int, layers: tuple[int, ...], seed: int, name: str = "actor"):
        super().__init__(name=name)
        self.networks = StackedNetworks(GROUPS, observation, layers, heads, seed, name, small=0.1)
        self.separate = tf.Variable(True, trainable=False, name="separate")

    def __call__(self, observation: tf.Tensor) -> tf.Tensor:
        """Return weights [B, H]; without separate actors, the first network serves all users."""
        low, high = tf.unstack(self.networks(observation))
        second = (observation[:, -1:] > 0) & self.separate
        return tf.tanh(tf.where(second, high, low))

    def assign_constant(self, weights: NDArray[np.floating]) -> None:
        """Make the policy a constant weight vector [H]."""
        for variable in self.networks.weights:
            variable.assign(tf.zeros_like(variable))
        inside = np.clip(weights, -0.999, 0.999)
        last = self.networks.biases[-1]
        last.assign(tf.broadcast_to(tf.constant(np.arctanh(inside), tf.float32), last.shape))


class RLUR(tf.Module):
    """Critics, actors and encoder of RLUR. Settings are variables, so all variants share a compiled program."""

    def __init__(self, observation: int, heads: int, config: RLURConfig | None = None, seed: int = 0):
        super().__init__(name="rlur")
        config = config or RLURConfig()
        width = observation + heads

        def critics(name: str) -> StackedNetworks:
            return StackedNetworks(2, width, config.layers, 1, integer_seed(seed, name), name)

        self.actor = Actors(observation, heads, config.layers, seed)
        self.target_actor = Actors(observation, heads, config.layers, seed, "target_actor")
        self.critic, self.target_critic = critics("return_critic"), critics("target_return_critic")
        self.immediate, self.target_immediate = critics("immediate_critic"), critics("target_immediate_critic")
        self.encoder, self.fixed_encoder = (
            StackedNetworks(1, observation, config.layers[:1], _ENCODED, seed, name) for name in ("encoder", "fixed")
        )
        rates = {"critic": config.critic_learning_rate, "actor": config.actor_learning_rate}
        adam = {
            name: SessionNetworkConfig(learning_rate=rate, max_grad_norm=_GRADIENT_NORM) for name, rate in rates.items()
        }
        self._critic_trainer = Trainer(self.critic.weights, adam["critic"])
        self._immediate_trainer = Trainer(self.immediate.weights, adam["critic"])
        self._encoder_trainer = Trainer(self.encoder.weights, adam["critic"])
        self._actor_trainer = Trainer(self.actor.networks.weights, adam["actor"])
        self.settings = {
            name: tf.Variable(0.0, trainable=False, name=name)
            for name in (
                "lambda_return", "lambda_immediate", "gamma_sessions", "gamma_requests", "gamma_immediate", "rnd_coef",
                "regularizer", "noise", "target_policy_noise", "tau",
            )
        }  # fmt: skip
        self.restart(config, seed)

    def restart(self, config: RLURConfig, seed: int, levels: tuple[float, float] = (0.0, 0.0)) -> None:
        """Start anew with settings of the same layers and learning rates.

        `levels` are the values of the retention critic and of the immediate critic at the start. Twenty sessions of
        mean cost add up to 20, which a critic that starts at 0 would spend the training on.
        """
        for name, variable in self.settings.items():
            variable.assign(float(getattr(config, name)))
        for networks in (self.actor.networks, self.critic, self.immediate, self.encoder, self.fixed_encoder):
            networks.restart(integer_seed(seed, networks.name))
        for networks, level in zip((self.critic, self.immediate), levels, strict=True):
            networks.biases[-1].assign(tf.fill(networks.biases[-1].shape, tf.constant(level, tf.float32)))
        for actor in (self.actor, self.target_actor):
            actor.separate.assign(config.activity_actors)
        self._follow(1.0)
        for trainer in (self._critic_trainer, self._immediate_trainer, self._encoder_trainer, self._actor_trainer):
            trainer.restart()

    def bonus(self, observation: tf.Tensor) -> tf.Tensor:
        """Return the error [B] of the encoder against the fixed one; large where few observations were."""
        difference = self.encoder(observation)[0] - tf.stop_gradient(self.fixed_encoder(observation)[0])
        return tf.reduce_mean(tf.square(difference), axis=1)

    def targets(self, batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the targets [B] of the retention critic and of the immediate critic; no gradient flows through."""
        settings, limit = self.settings, 2.0 * self.settings["target_policy_noise"]
        noise = settings["target_policy_noise"] * normal(tf.shape(batch.action), seed)
        action = self.target_actor(batch.next_observation) + tf.clip_by_value(noise, -limit, limit)
        following = tf.concat([batch.next_observation, tf.clip_by_value(action, -1.0, 1.0)], axis=1)
        days = tf.reduce_max(self.target_critic(following)[..., 0], axis=0)  # the pessimistic one of a cost
        likes = tf.reduce_min(self.target_immediate(following)[..., 0], axis=0)
        reward = batch.like + settings["rnd_coef"] * self.bonus(batch.observation)
        wanted = retention_targets(
            batch.cost, batch.last, batch.terminated, days, settings["gamma_sessions"], settings["gamma_requests"]
        )
        immediate = reward + settings["gamma_immediate"] * tf.where(batch.terminated, 0.0, likes)
        return tf.stop_gradient(wanted), tf.stop_gradient(immediate)

    def update_critics(self, batch: Batch, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Take a step of both critics and of the encoder; return the losses of the critics."""
        targets = self.targets(batch, seed)
        inputs, losses = tf.concat([batch.observation, batch.action], axis=1), []
        parts = ((self.critic, self._critic_trainer), (self.immediate, self._immediate_trainer))
        for (networks, trainer), target in zip(parts, targets, strict=True):
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(tf.square(networks(inputs)[..., 0] - target))
            trainer.descend(tape, loss)
            losses.append(loss)
        with tf.GradientTape() as tape:
            error = tf.reduce_mean(self.bonus(batch.observation))
        self._encoder_trainer.descend(tape, error)
        return losses[0], losses[1]

    def update_actor(self, batch: Batch, seed: tf.Tensor) -> tf.Tensor:
        """Take a step of the actors, and move all targets; return the actor's cost less that of logged actions."""
        settings = self.settings
        point = normal(tf.shape(batch.action), seed)
        # The cost of the logged action takes out what differs between users: the regularizer multiplies the rest.
        logged_cost = tf.stop_gradient(self._cost(batch.observation, batch.action))
        with tf.GradientTape() as tape:
            mean = self.actor(batch.observation)
            cost = self._cost(batch.observation, mean) - logged_cost
            drawn = mean + settings["noise"] * point
            own, logged = (_log_density(drawn, center, settings["noise"]) for center in (mean, batch.behavior_mean))
            factor = tf.where(batch.explored, 1.0, drift_factor(own, logged, settings["regularizer"]))
            loss = regularized_loss(cost, factor)
        self._actor_trainer.descend(tape, loss)
        self._follow(settings["tau"])
        return tf.reduce_mean(cost)

    def _cost(self, observation: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
        """Return the actor's cost [B] of actions by the first critic of each pair."""
        inputs, settings = tf.concat([observation, action], axis=1), self.settings
        return actor_cost(
            self.critic(inputs)[0, :, 0], self.immediate(inputs)[0, :, 0], settings["lambda_return"],
            settings["lambda_immediate"],
        )  # fmt: skip

    def _follow(self, rate: tf.Tensor | float) -> None:
        self.target_actor.networks.copy_from(self.actor.networks, rate)
        self.target_critic.copy_from(self.critic, rate)
        self.target_immediate.copy_from(self.immediate, rate)


def normal(shape: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Return standard normal numbers by the method of Box and Muller 1958, equal in eager mode and compiled."""
    radius, angle = (uniform(shape, part) for part in split(seed, 2))
    return tf.sqrt(-2.0 * tf.math.log(1.0 - radius)) * tf.cos(2.0 * np.pi * angle)


def _log_density(action: tf.Tensor, mean: tf.Tensor, std: tf.Tensor) -> tf.Tensor:
    """Return the log-density [B] of a Gaussian with independent components, up to its constant."""
    return -0.5 * tf.reduce_sum(tf.square((action - mean) / std), axis=1)
