"""The networks of session agents: one scores items, one estimates the value of an observation.

B sessions, An items, O observation, D embedding, G genres. Three heads score items from the observation x:

    dot      score_a = (offset_a + embedding_a . x[:D] + features_a . f(x)) / temperature
    tower    score_a = (offset_a + embedding_a . x[:D] + (features_a + t(features_a)) . f(x)) / temperature
    plain    score_a = f(x)_a

features_a is the item's embedding and genres; f and t, the item tower, are ReLU networks. With `dot` and `tower` both
start at 0, so an untrained policy ranks exactly as the rating model does. 1,682 items cost one matrix product, and a
new item needs only its embedding and genres. Source of towers: Yi et al. 2019 (10.1145/3298689.3346996).
"""

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

from recpolicy.agents.categorical import mask_logits
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.neural import NetworkPart, layer_arrays, load_networks, make_network
from recpolicy.agents.observation import context_width
from recpolicy.agents.reward_normalizer import RewardNormalizerConfig
from recpolicy.agents.sequence_encoders import SequenceEncoder, SequenceEncoderConfig, encoder_arrays
from recpolicy.core.config import LearningRate, NonNegativeNumber, Size, Temperature, config_dataclass
from recpolicy.core.seeds import integer_seed
from recpolicy.models.sequence_layout import SequenceLayout

TOWER = "tower/"
"""Start of the names of the item tower's layers in an exported policy."""
_BETA_1, _BETA_2, _EPSILON = 0.9, 0.999, 1e-5


@config_dataclass
class SessionNetworkConfig(SequenceEncoderConfig, RewardNormalizerConfig):
    """Settings of the networks and their optimizer."""

    layers: tuple[Size, ...] = (64, 64)
    """Units of the hidden layers (ReLU) of each network."""
    head: Literal["dot", "tower", "plain"] = "dot"
    """`dot`: score items by their embeddings and genres, starting as the rating model; `tower`: with a trained
    correction of these features; `plain`: one output per item."""
    tower_layers: tuple[Size, ...] = (64,)
    """Units of the hidden layers (ReLU) of the item tower."""
    temperature: Temperature = 0.15
    """Points of expected rating that multiply an item's odds by e (dot and tower head); must be > 0."""
    learning_rate: LearningRate = 0.0007
    """Adam's step size."""
    max_grad_norm: NonNegativeNumber = 0.5
    """Largest gradient norm over all weights; larger gradients are scaled down. 0 disables the limit."""


class ItemScores(tf.Module):
    """A network that scores all items from the observation."""

    def __init__(
        self, network: tf_keras.Sequential, arms: ItemFeatures | None, temperature: float, name: str = "scores",
        tower: tf_keras.Sequential | None = None,
    ):  # fmt: skip
        super().__init__(name=name)
        self.network, self.tower, self.temperature = network, tower, temperature
        self._table = None if arms is None else tf.constant(dot_head_features(arms).T)  # [D + G, A]
        self._offset = None if arms is None else tf.constant(arms.offset)
        self._rank = 0 if arms is None else arms.embedding.shape[1]

    @property
    def weights(self) -> list[tf.Variable]:
        """The weights of the network and of any tower, in a fixed order."""
        parts = (self.network,) if self.tower is None else (self.network, self.tower)
        return [weight for part in parts for weight in part.trainable_variables]

    def __call__(self, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return scores [B, A], MASKED where not allowed."""
        return self.of(observation, observation, mask)

    def of(self, inputs: tf.Tensor, observation: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
        """Return scores [B, A] for other network inputs, such as the output of a trunk."""
        return mask_logits(self._score(self.network(inputs), observation), mask)

    def with_state_value(self, observation: tf.Tensor, inputs: tf.Tensor | None = None) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the network's last output [B] as the value, and unmasked scores [B, A] from the other outputs.

        `inputs` replaces the observation as the network's input, such as the output of a trunk.
        """
        output = self.network(observation if inputs is None else inputs)
        return output[:, -1], self._score(output[:, :-1], observation)

    def dueling_values(self, observation: tf.Tensor, inputs: tf.Tensor | None = None) -> tf.Tensor:
        """Return Q = V(s) + score - mean score [B, A], unmasked; V is the network's last output."""
        state, scores = self.with_state_value(observation, inputs)
        return state[:, tf.newaxis] + scores - tf.reduce_mean(scores, axis=1, keepdims=True)

    def _score(self, output: tf.Tensor, observation: tf.Tensor) -> tf.Tensor:
        if self._table is None:
            return output
        if self.tower is not None:
            both = tf.concat([observation[:, : self._rank], output], axis=1)
            return (self._offset + tf.matmul(both, self._moved_table(self.tower))) / self.temperature
        start = tf.pad(observation[:, : self._rank], [[0, 0], [0, output.shape[1] - self._rank]])
        return (self._offset + tf.matmul(start + output, self._table)) / self.temperature

    def _moved_table(self, tower: tf_keras.Sequential) -> tf.Tensor:
        """Return the embeddings over the vectors of the tower, [2 D + G, A]."""
        features: tf.Tensor = self._table
        vectors = features + tf.transpose(tower(tf.transpose(features)))
        return tf.concat([features[: self._rank], vectors], axis=0)

    def load(self, arrays: Mapping[str, Any]) -> None:
        """Copy network and tower of an exported policy; see `load_networks`."""
        load_networks(arrays, *self.parts())

    def parts(self, first: int = 0) -> list[NetworkPart]:
        """Return the network, whose layers start at `first`, and any tower, for `load_networks`."""
        tower = [] if self.tower is None else [NetworkPart(self.tower, TOWER)]
        return [NetworkPart(self.network, first=first), *tower]

    def arrays(self, unit: float = 1.0) -> dict[str, NDArray[np.generic]]:
        """Return the layers and any item tables as arrays whose scores, and value, are `unit` times the network's."""
        layers, tables = layer_arrays(self.network), self.tables()
        last = len(layers) // 2 - 1
        # With item tables the temperature scales the scores; only an output for the value is left to scale.
        scaled = slice(0 if self._table is None else self._table.shape[0], None)
        for name in (f"kernel_{last}", f"bias_{last}"):
            layers[name] = layers[name].copy()
            layers[name][..., scaled] *= np.float32(unit)
        if tables:
            tables["temperature"] = np.array(self.temperature / unit, np.float32)
        return layers | tables | encoder_arrays(self.network)

    def tables(self) -> dict[str, NDArray[np.generic]]:
        """Return item features [D + G, A], offsets [A] and scoring settings; none with the plain head.

        With a tower, the table is [2 D + G, A], and the tower's layers are there, too.
        """
        if self._table is None or self._offset is None:
            return {}
        table, layers = self._table, {}
        if self.tower is not None:
            table = self._moved_table(self.tower)
            layers = {TOWER + name: array for name, array in layer_arrays(self.tower).items()}
        return layers | {
            "table": table.numpy(), "table_offset": self._offset.numpy(),
            "rank": np.array(self._rank), "temperature": np.array(self.temperature, np.float32),
        }  # fmt: skip


def dot_head_features(arms: ItemFeatures) -> NDArray[np.float32]:
    """Return the features of each item for the dot head, [A, D + G]."""
    return arms.embedding if arms.genres is None else np.concatenate([arms.embedding, arms.genres], axis=1)


def make_scores(
    spec: Any,
    action_spec: Any,
    config: SessionNetworkConfig,
    arms: ItemFeatures | None,
    seed: int,
    name: str = "scores",
    state_value: bool = False,
    sequence: SequenceLayout | None = None,
) -> ItemScores:
    """Return a score network; without `arms` its head is plain. `state_value` adds an output for the value.

    With `sequence`, an encoder of its own reads the last items in the observation.
    """
    dot = config.head != "plain" and arms is not None
    outputs = dot_head_features(arms).shape[1] if dot and arms is not None else int(action_spec.maximum) + 1
    outputs += state_value
    encoder = make_encoder(config, sequence, seed, name)
    network = make_network(context_width(spec), config.layers, outputs, integer_seed(seed, name), dot, encoder)
    return ItemScores(network, arms if dot else None, config.temperature, name, make_tower(config, arms, seed, name))


def make_tower(
    config: SessionNetworkConfig, arms: ItemFeatures | None, seed: int, name: str
) -> tf_keras.Sequential | None:
    """Return the item tower of the scores `name`, which starts at 0; None for another head or without `arms`."""
    if config.head != "tower" or arms is None:
        return None
    width = dot_head_features(arms).shape[1]
    return make_network(width, config.tower_layers, width, integer_seed(seed, f"{name}/tower"), zero=True)


def make_value(
    spec: Any, config: SessionNetworkConfig, seed: int, sequence: SequenceLayout | None = None
) -> tf_keras.Sequential:
    """Return a value network [B, O] -> [B, 1] that starts at 0."""
    encoder = make_encoder(config, sequence, seed, "value")
    return make_network(context_width(spec), config.layers, 1, integer_seed(seed, "value"), zero=True, encoder=encoder)


def make_encoder(
    config: SessionNetworkConfig, sequence: SequenceLayout | None, seed: int, name: str
) -> SequenceEncoder | None:
    """Return the encoder of the network `name`; None without a sequence to read."""
    return None if sequence is None else SequenceEncoder(sequence, config, integer_seed(seed, f"{name}/encoder"))


class Trainer(tf.Module):
    """An Adam optimizer over a list of weights (P numbers) that bounds and reports the gradient's norm.

    Keras' Adam updates each weight with a dozen small kernels, which cost more than the gradients of these small
    networks. Here the moments of all weights are one vector. Source: Kingma & Ba 2015 (1412.6980), algorithm 1.
    """

    def __init__(self, weights: list[tf.Variable], config: SessionNetworkConfig):
        super().__init__(name="trainer")
        self._weights, self._limit, self._rate = weights, config.max_grad_norm, config.learning_rate
        self._sizes = [int(np.prod(weight.shape)) for weight in weights]
        self._first = tf.Variable(tf.zeros([sum(self._sizes)]), trainable=False, name="first_moment")
        self._second = tf.Variable(tf.zeros([sum(self._sizes)]), trainable=False, name="second_moment")
        self._count = tf.Variable(0.0, trainable=False, name="count")

    @property
    def weights(self) -> list[tf.Variable]:
        """The weights that a step changes."""
        return self._weights

    def restart(self) -> None:
        """Forget all steps, for a new training with the same variables."""
        for variable in (self._first, self._second, self._count):
            variable.assign(tf.zeros_like(variable))

    def descend(self, tape: tf.GradientTape, loss: tf.Tensor) -> tf.Tensor:
        """Take one gradient step on `loss`; return the gradient's norm before it is bounded."""
        gradients = tape.gradient(loss, self._weights, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        gradient = tf.concat([tf.reshape(part, [-1]) for part in gradients], axis=0)  # [P]
        norm = tf.norm(gradient)
        if self._limit:
            gradient *= self._limit / tf.maximum(norm, self._limit)
        count = self._count.assign_add(1.0)
        first = self._first.assign(_BETA_1 * self._first + (1.0 - _BETA_1) * gradient)
        second = self._second.assign(_BETA_2 * self._second + (1.0 - _BETA_2) * tf.square(gradient))
        unbiased = first / (1.0 - tf.pow(_BETA_1, count))
        scale = tf.sqrt(second / (1.0 - tf.pow(_BETA_2, count))) + _EPSILON
        steps = tf.split(self._rate * unbiased / scale, self._sizes)
        for weight, step in zip(self._weights, steps, strict=True):
            weight.assign_sub(tf.reshape(step, weight.shape))
        return norm
