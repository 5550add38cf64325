"""Train a network on pairs of contexts and actions, and export it as arrays for NumPy (models/network_reward.py).

n contexts, m actions, N rounds, E outputs. The network reads the dense columns of a context and an action. The columns
of a category whose encoding is `embedding` pass through a table of vectors. Hidden layers are dense, then normalized if
wanted, then ReLU. The loss is the weighted mean squared error of the reward of the action shown.

Three parts of the training are linear at the end and become parts of the kernels: tables of vectors, batch
normalization with the moments of all training rounds, and the standardization of rewards. Layer normalization stays.
Sources: Ioffe & Szegedy 2015 (1502.03167); Ba, Kiros & Hinton 2016 (1607.06450); Guo & Berkhahn 2016 (1604.06737).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DivergedError
from recpolicy.core.seeds import generator
from recpolicy.core.types import Array
from recpolicy.data.features.encoder import FeatureEncoder
from recpolicy.data.features.schema import PARTS
from recpolicy.models.feature_agent_configs import FeatureNetworkConfig
from recpolicy.models.network_reward import EPSILON
from recpolicy.models.reward_model import Pairs
from recpolicy.training.divergence import check_squared_error
from recpolicy.training.offline import learn_in_batches

_ROWS = 1 << 15
"""Rounds at once when moments are computed."""


@dataclass(frozen=True)
class EmbeddedColumns:
    """Dense columns of one category, which a table of vectors replaces."""

    start: int
    stop: int
    dim: int


def embedded_columns(encoder: FeatureEncoder) -> list[EmbeddedColumns]:
    """Return the columns of categories with the encoding `embedding`, among those of context and action."""
    found, start = [], 0
    for part in PARTS:
        for item in encoder.fitted[part]:
            stop = start + len(item.dense_names())
            if item.embedding_dim:
                found.append(EmbeddedColumns(start, stop, item.embedding_dim))
            start = stop
    return found


class PairNetwork(tf.Module):
    """A network over pairs; `outputs` learned features, and the reward as a linear function of them if more than 1."""

    def __init__(
        self, width: int, embedded: list[EmbeddedColumns], outputs: int, config: FeatureNetworkConfig, seed: int
    ):
        super().__init__(name="pair_network")
        self._embedded, self._normalization = embedded, config.normalization
        inside = {column for block in embedded for column in range(block.start, block.stop)}
        self._plain = [column for column in range(width) if column not in inside]
        self._tables = [
            tf.Variable(_glorot(seed, f"table {i}", block.stop - block.start, block.dim))
            for i, block in enumerate(embedded)
        ]
        sizes = [len(self._plain) + sum(block.dim for block in embedded), *config.layers, outputs]
        layers = range(len(sizes) - 1)
        self.kernels = [tf.Variable(_glorot(seed, f"layer {i}", sizes[i], sizes[i + 1])) for i in layers]
        self.biases = [tf.Variable(np.zeros(sizes[i + 1], np.float32)) for i in layers]
        hidden = config.layers if config.normalization != "none" else ()
        self._gains = [tf.Variable(np.ones(size, np.float32)) for size in hidden]
        self._shifts = [tf.Variable(np.zeros(size, np.float32)) for size in hidden]
        self.moments: list[tuple[Array, Array]] = []
        """Mean and variance of each hidden unit over the training rounds, for batch normalization after training."""
        self._reward = [] if outputs == 1 else [tf.Variable(_glorot(seed, "reward", outputs, 1)), tf.Variable([0.0])]

    def start_from(self, layers: Mapping[str, Array], mean: float, std: float) -> None:
        """Take the layers of an exported network over the same columns.

        Args:
            layers: Arrays of `export`. The last layer gives rewards, or features to be learned.
            mean: Mean of the unit in which this network learns rewards.
            std: Standard deviation of this unit.

        Raises:
            ConfigError: The layers have other sizes, or their parts cannot be told apart any more.
        """
        if self._embedded or self._normalization == "batch":
            raise ConfigError(
                "a network with tables of vectors, or with batch normalization, cannot start from another: an artifact"
                " holds these parts multiplied into its kernels. Use the encoding one_hot, and normalization none or"
                " layer"
            )
        own = {f"kernel_{i}": kernel for i, kernel in enumerate(self.kernels)}
        own |= {f"bias_{i}": bias for i, bias in enumerate(self.biases)}
        own |= {f"gain_{i}": gain for i, gain in enumerate(self._gains)}
        own |= {f"shift_{i}": shift for i, shift in enumerate(self._shifts)}
        theirs = {name: array.shape for name, array in layers.items()}
        ours = {name: tuple(variable.shape) for name, variable in own.items()}
        if theirs != ours:
            name = next(name for name in sorted({*theirs, *ours}) if theirs.get(name) != ours.get(name))
            raise ConfigError(
                f"another network: {name} is {theirs.get(name, 'missing')} there, {ours.get(name, 'missing')} here;"
                " take its layers and its normalization"
            )
        last = len(self.kernels) - 1
        for name, variable in own.items():
            array = np.asarray(layers[name], np.float64)
            if not self._reward and name == f"bias_{last}":
                array = array - mean
            if not self._reward and name in (f"kernel_{last}", f"bias_{last}"):
                array = array / std
            variable.assign(array.astype(np.float32))

    def encode(self, x: tf.Tensor, training: bool = False, layers: int | None = None) -> tf.Tensor:
        """Return the outputs [B, E] at x [B, C + D]; with `layers`, what enters the normalization of that layer."""
        blocks = zip(self._embedded, self._tables, strict=True)
        parts = [
            tf.gather(x, self._plain, axis=1),
            *(x[:, block.start : block.stop] @ table for block, table in blocks),
        ]
        z = tf.concat(parts, axis=1)
        for index, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            z = z @ kernel + bias
            if index == layers:
                return z
            if index < len(self.kernels) - 1:
                z = tf.nn.relu(self._normalized(z, index, training))
        return z

    def rewards(self, x: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Return the standardized rewards [B]."""
        z = self.encode(x, training)
        if self._reward:
            z = z @ self._reward[0] + self._reward[1]
        return z[:, 0]

    def _normalized(self, z: tf.Tensor, index: int, training: bool) -> tf.Tensor:
        if self._normalization == "none":
            return z
        if self._normalization == "layer":
            mean, variance = tf.nn.moments(z, axes=[1], keepdims=True)
        elif training:
            mean, variance = tf.nn.moments(z, axes=[0], keepdims=True)
        else:
            mean, variance = (part.astype(np.float32) for part in self.moments[index])
        return (z - mean) * tf.math.rsqrt(variance + EPSILON) * self._gains[index] + self._shifts[index]

    def fix_moments(self, pairs: Pairs) -> None:
        """Take the moments of batch normalization from the training rounds, layer after layer."""
        self.moments = []
        for index in range(len(self._gains) if self._normalization == "batch" else 0):
            total, squares = np.zeros(self.biases[index].shape), np.zeros(self.biases[index].shape)
            for x in pair_blocks(pairs):
                z = self.encode(tf.constant(x), layers=index).numpy().astype(np.float64)
                total, squares = total + z.sum(axis=0), squares + np.square(z).sum(axis=0)
            mean = total / len(pairs)
            self.moments.append((mean, np.maximum(squares / len(pairs) - mean * mean, 0.0)))

    def export(self) -> dict[str, NDArray[np.float64]]:
        """Return the layers as arrays over the dense columns, for models/network_reward.py."""
        arrays: dict[str, NDArray[np.float64]] = {}
        for index, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            arrays[f"kernel_{index}"] = kernel.numpy().astype(np.float64)
            arrays[f"bias_{index}"] = bias.numpy().astype(np.float64)
        for index, (gain, shift) in enumerate(zip(self._gains, self._shifts, strict=True)):
            if self._normalization == "layer":
                arrays[f"gain_{index}"] = gain.numpy().astype(np.float64)
                arrays[f"shift_{index}"] = shift.numpy().astype(np.float64)
                continue
            mean, variance = self.moments[index]
            factor = gain.numpy() / np.sqrt(variance + EPSILON)
            arrays[f"kernel_{index}"] *= factor
            arrays[f"bias_{index}"] = (arrays[f"bias_{index}"] - mean) * factor + shift.numpy()
        arrays["kernel_0"] = self._over_columns(arrays["kernel_0"])
        return arrays

    def _over_columns(self, kernel: Array) -> Array:
        """Return the first kernel over the dense columns [C + D, H], the tables of vectors multiplied in."""
        width = len(self._plain) + sum(block.stop - block.start for block in self._embedded)
        over, place = np.zeros((width, kernel.shape[1])), len(self._plain)
        over[self._plain] = kernel[:place]
        for block, table in zip(self._embedded, self._tables, strict=True):
            over[block.start : block.stop] = table.numpy().astype(np.float64) @ kernel[place : place + block.dim]
            place += block.dim
        return over


def train_network(
    pairs: Pairs, reward: Array, weight: Array, encoder: FeatureEncoder, config: FeatureNetworkConfig, *,
    outputs: int = 1, epochs: int, batch_size: int, seed: int, source: str, initial: Mapping[str, Array] | None = None,
) -> tuple[PairNetwork, float, float]:  # fmt: skip
    """Return a network trained on rounds, and the mean and the standard deviation of its unit of reward.

    Args:
        pairs: The context and the action shown of N rounds, dense.
        reward: Their rewards [N].
        weight: Their importance weights [N].
        encoder: The encoder of the columns.
        config: Settings of the network.
        outputs: Number of learned features; 1: the reward itself.
        epochs: Passes over the rounds.
        batch_size: Rounds per step.
        seed: Seed of initial weights and of the order of rounds.
        source: Name of the log, for errors.
        initial: Exported layers to start from; None starts from random weights.

    Raises:
        ConfigError: The initial layers do not fit.
        DivergedError: The loss is not finite or absurdly large.
    """
    mean = float(np.average(reward, weights=weight))
    std = float(np.sqrt(np.average(np.square(reward - mean), weights=weight))) or 1.0
    width = pairs.context.shape[1] + pairs.action.shape[1]
    network = PairNetwork(width, embedded_columns(encoder), outputs, config, seed)
    if initial is not None:
        network.start_from(initial, mean, std)
    optimizer = tf_keras.optimizers.Adam(config.learning_rate)
    variables = network.trainable_variables
    optimizer.build(variables)
    actions = tf.constant(pairs.action, tf.float32)

    def update(context: tf.Tensor, offer: tf.Tensor, target: tf.Tensor, weights: tf.Tensor) -> tf.Tensor:
        x = tf.concat([context, tf.gather(actions, offer)], axis=1)
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(weights * tf.square(target - network.rewards(x, training=True)))
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    def check(losses: NDArray[np.float32]) -> None:
        fault = check_squared_error(float(losses.mean()), 1.0)
        if fault:
            raise DivergedError(
                f"training from {source} diverged: {fault}; no policy is written. A smaller learning_rate usually helps"
            )

    columns = (
        pairs.context[pairs.row].astype(np.float32), pairs.offer.astype(np.int32),
        ((reward - mean) / std).astype(np.float32), weight.astype(np.float32),
    )  # fmt: skip
    learn_in_batches(update, columns, check, epochs=epochs, batch=batch_size, seed=seed)
    network.fix_moments(pairs)
    return network, mean, std


def pair_blocks(pairs: Pairs) -> Any:
    """Yield the dense columns [b, C + D] of pairs, some at a time."""
    for first in range(0, len(pairs), _ROWS):
        block = slice(first, first + _ROWS)
        parts = [pairs.context[pairs.row[block]], pairs.action[pairs.offer[block]]]
        yield np.concatenate(parts, axis=1, dtype=np.float32)


def _glorot(seed: int, name: str, below: int, above: int) -> NDArray[np.float32]:
    """Return Glorot's uniform weights [below, above]."""
    limit = np.sqrt(6.0 / (below + above))
    return generator(seed, f"pair network/{name}").uniform(-limit, limit, (below, above)).astype(np.float32)
