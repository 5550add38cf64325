"""Neural LinUCB: LinUCB over features learned by a network.

For the first `encoder_batches` updates the network trains and acts epsilon-greedy over its reward layer. Then it is
frozen and LinUCB continues on its features. Each arm's prior mean is its row of the reward layer. Source: Riquelme,
Tucker & Snoek 2018 (1802.09127); TF-Agents' NeuralLinUCBAgent, which does not use the reward layer as the prior.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from recpolicy.agents import action_distributions
from recpolicy.agents import linear_posterior as linear
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import BanditAgent, Estimate, ExportedPolicy, Learner
from recpolicy.agents.neural import NetworkPart, layer_arrays, load_networks, make_network
from recpolicy.agents.observation import Observation, context_width
from recpolicy.core.config import (
    CountOrZero,
    Fraction,
    LearningRate,
    NonNegativeNumber,
    Precision,
    Size,
    config_dataclass,
)
from recpolicy.core.errors import ConfigError


@config_dataclass
class NeuralLinUCBConfig:
    """Settings of neural LinUCB."""

    layers: tuple[Size, ...] = (64,)
    """Units of the encoder's hidden layers (ReLU)."""
    encoding_dim: Size = 16
    """Width of the learned features."""
    encoder_batches: CountOrZero = 1000
    """Updates that train the network before LinUCB takes over."""
    epsilon: Fraction = 0.1
    """Share of uniform actions while the network trains."""
    alpha: NonNegativeNumber = 1.0
    """Multiplier of the confidence width after that phase."""
    precision: Precision = 10.0
    """Weight of the prior mean, in observations per direction; must be > 0."""
    learning_rate: LearningRate = 0.003
    """Adam's step size."""


class NeuralLinUCB(Learner):
    """A neural LinUCB learner: first a network, then linear posteriors over its features."""

    def __init__(
        self, encoder: tf_keras.Sequential, optimizer: tf_keras.optimizers.Optimizer, arms: int, middle: float,
        config: NeuralLinUCBConfig,
    ):  # fmt: skip
        super().__init__(name="neural_linucb")
        self._encoder, self._optimizer, self._config = encoder, optimizer, config
        start = np.zeros((arms, config.encoding_dim + 1), np.float32)
        start[:, -1] = middle  # middle of the reward scale, so that the first steps need not learn it
        self._posterior = linear.Posterior(start, config.precision, "neural_linucb")
        self._reward_layer = tf.Variable(start, name="reward_layer")  # [A, E + 1]
        self._batches = tf.Variable(0, dtype=tf.int64, trainable=False, name="batches")
        self._trained = [*encoder.trainable_variables, self._reward_layer]
        optimizer.build(self._trained)

    def features(self, observation: Observation) -> tf.Tensor:
        """Return the learned features with a constant, [B, E + 1]."""
        return linear.with_bias(self._encoder(observation.context))

    def estimate(self, observation: Observation) -> Estimate:
        """Return posterior means and widths; while the network trains, its reward layer gives the mean."""
        x = self.features(observation)
        return Estimate(linear.means(self._posterior.theta, x), linear.widths(self._posterior.covariance, x))

    def behavior_probabilities(self, observation: Observation) -> tf.Tensor:
        """Return the epsilon-greedy distribution first, then the upper-confidence one."""
        mean, width = self.estimate(observation)
        first = action_distributions.epsilon_greedy(mean, self._config.epsilon, observation.mask)
        later = action_distributions.upper_confidence(mean, width, self._config.alpha, observation.mask)
        return tf.where(self._batches < self._config.encoder_batches, first, later)

    def update(self, observation: Observation, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        """Take a gradient step, or Sherman-Morrison steps once the network is frozen."""
        trains = self._batches < self._config.encoder_batches
        self._batches.assign_add(1)
        return tf.cond(
            trains,
            lambda: self._train_network(observation, action, reward),
            lambda: self._posterior.update(action, self.features(observation), reward),
        )

    def _train_network(self, observation: Observation, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            guess = linear.means(self._reward_layer, self.features(observation))
            loss = tf.reduce_mean(tf.square(reward - tf.gather(guess, action, batch_dims=1)))
        self._optimizer.apply_gradients(zip(tape.gradient(loss, self._trained), self._trained, strict=True))
        self._posterior.theta.assign(self._reward_layer)
        return loss

    def start_from(self, arrays: Mapping[str, Any]) -> None:
        """Copy the encoder and the reward layer of an exported policy; the widths start at the prior."""
        shape, own = np.shape(arrays["theta"]), tuple(self._reward_layer.shape)
        if shape != own:
            raise ConfigError(f"another network: theta has the shape {shape}, here it is {own}")
        load_networks(arrays, NetworkPart(self._encoder))
        self._reward_layer.assign(arrays["theta"])
        self._posterior.theta.assign(self._reward_layer)

    def export(self) -> ExportedPolicy:
        """Return the encoder layers and posterior, with the head of the current phase."""
        arrays = layer_arrays(self._encoder)
        arrays |= {"theta": self._posterior.theta.numpy(), "covariance": self._posterior.covariance.numpy()}
        if int(self._batches.numpy()) < self._config.encoder_batches:
            return ExportedPolicy("encoded_linear", "epsilon_greedy", {"epsilon": self._config.epsilon}, arrays)
        return ExportedPolicy("encoded_linear", "upper_confidence", {"alpha": self._config.alpha}, arrays)


def make_neural_linucb(
    spec: Any, action_spec: Any, config: NeuralLinUCBConfig, arms: ItemFeatures | None = None, seed: int = 0
) -> BanditAgent:
    """Return a neural LinUCB agent; of `arms` it uses the reward scale only."""
    encoder = make_network(context_width(spec), config.layers, config.encoding_dim, seed, zero=False)
    middle = 0.0 if arms is None else sum(arms.scale) / 2
    optimizer = tf_keras.optimizers.Adam(config.learning_rate)
    learner = NeuralLinUCB(encoder, optimizer, int(action_spec.maximum) + 1, middle, config)
    return BanditAgent(spec, action_spec, learner, seed=seed)
