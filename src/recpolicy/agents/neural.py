"""A neural reward model and the two agents that explore over it: epsilon-greedy and Boltzmann.

B batch, A arms, D context. The network predicts every arm's reward from the context; the loss is the mean squared error
of the arm that was played, one Adam step a batch. Two heads: `plain` has one output per arm. `dot` corrects the user's
embedding and scores arms by dot product with theirs: reward = offset_a + embedding_a . (x[:D] + f(x)). f is zero at the
start, so training begins at the rating model, and 1,682 arms cost one matrix product. Where arms have attributes, f has
an output more for each of them, and attributes_a . f(x)[D:] is added. Sources: TF-Agents'
NeuralEpsilonGreedyAgent (the plain form); Sutton & Barto 2018, sections 2.2 and 2.8.
"""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf
import tf_keras

from recpolicy.agents import action_distributions
from recpolicy.agents.categorical import mask_logits
from recpolicy.agents.divergence_limit import REFERENCE_KL, ReferenceLimit, SoftenedLimitConfig, kl_divergence
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import BanditAgent, Estimate, ExportedPolicy, Learner
from recpolicy.agents.observation import Observation, context_width
from recpolicy.agents.sequence_encoders import SequenceEncoder, encoder_weights
from recpolicy.core.config import Fraction, LearningRate, Size, Temperature, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.core.seeds import integer_seed

Probabilities = Callable[[tf.Tensor, float, tf.Tensor | None], tf.Tensor]


@config_dataclass
class NetworkConfig(SoftenedLimitConfig):
    """Settings of the reward network; `reference_temperature` is in units of reward."""

    layers: tuple[Size, ...] = (64, 64)
    """Units of the hidden layers (ReLU)."""
    head: Literal["dot", "plain"] = "dot"
    """`dot`: score arms by their embeddings; `plain`: one output per arm."""
    learning_rate: LearningRate = 0.001
    """Adam's step size."""


@config_dataclass
class EpsilonGreedyConfig(NetworkConfig):
    """Settings of neural epsilon-greedy."""

    epsilon: Fraction = 0.05
    """Share of uniform actions, in [0, 1]."""


@config_dataclass
class BoltzmannConfig(NetworkConfig):
    """Settings of neural Boltzmann exploration."""

    temperature: Temperature = 0.1
    """Softmax temperature in units of reward; must be > 0."""


class NeuralReward(Learner):
    """A learner with a reward network and an exploration head."""

    def __init__(
        self, network: tf_keras.Sequential, optimizer: tf_keras.optimizers.Optimizer, arms: ItemFeatures | None,
        head: str, explore: Probabilities, setting: tuple[str, float], name: str,
    ):  # fmt: skip
        super().__init__(name=name)
        self._network, self._optimizer = network, optimizer
        self._explore, self._head_name, self._setting = explore, head, setting
        self._tables = None if arms is None else (tf.constant(arms.embedding), tf.constant(arms.offset))
        self._attributes = None if arms is None or arms.attributes is None else tf.constant(arms.attributes)
        optimizer.build(network.trainable_variables)

    _limit: ReferenceLimit | None = None

    def limit_divergence(self, config: SoftenedLimitConfig) -> None:
        """Limit the divergence from the network as it is now, in all updates; call it before anything is compiled."""
        reference = constant_layers(layer_arrays(self._network))
        self._limit = ReferenceLimit(reference, config.reference_kl_coef, config.max_reference_kl)
        self._temperature = config.reference_temperature
        self._divergence = tf.Variable(0.0, trainable=False, name=REFERENCE_KL)

    def end_limit(self) -> dict[str, Any]:
        """Drop the limit, which a policy does not need; return the last batch's divergence and if it was stopped."""
        if self._limit is None:
            return {}
        stopped, last = bool(self._limit.stopped.numpy()), float(self._divergence.numpy())
        del self._limit, self._divergence  # the class's None is left
        return {REFERENCE_KL: last, "stopped_at_limit": stopped}

    def rewards(self, context: tf.Tensor) -> tf.Tensor:
        """Return the predicted rewards [B, A]."""
        return self._rewards_from(self._network(context), context)

    def _rewards_from(self, output: tf.Tensor, context: tf.Tensor) -> tf.Tensor:
        """Return the rewards [B, A] of a network's output."""
        if self._tables is None:
            return output
        embedding, offset = self._tables
        rank = embedding.shape[1]
        reward = offset + tf.matmul(context[:, :rank] + output[:, :rank], embedding, transpose_b=True)
        if self._attributes is not None:
            reward += tf.matmul(output[:, rank:], self._attributes, transpose_b=True)
        return reward

    def estimate(self, observation: Observation) -> Estimate:
        """Return the predicted rewards; the network has no uncertainty estimate."""
        mean = self.rewards(observation.context)
        return Estimate(mean, tf.zeros_like(mean))

    def behavior_probabilities(self, observation: Observation) -> tf.Tensor:
        """Return the head's probabilities."""
        return self._explore(self.rewards(observation.context), self._setting[1], observation.mask)

    def update(self, observation: Observation, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        """Take one gradient step on the played arms' squared errors."""
        weights, limit = self._network.trainable_variables, self._limit
        with tf.GradientTape() as tape:
            mean = self.rewards(observation.context)
            loss = tf.reduce_mean(tf.square(reward - tf.gather(mean, action, batch_dims=1)))
            penalized = loss
            if limit is not None:
                divergence = self._divergence_of(mean, observation, limit)
                penalized += limit.coefficient * divergence
                self._divergence.assign(divergence)

        def step() -> tf.Tensor:
            self._optimizer.apply_gradients(zip(tape.gradient(penalized, weights), weights, strict=True))
            return loss

        if limit is None:
            return step()
        return limit.take_step(
            weights, step, lambda: self._divergence_of(self.rewards(observation.context), observation, limit)
        )

    def _divergence_of(self, mean: tf.Tensor, observation: Observation, limit: ReferenceLimit) -> tf.Tensor:
        """Return the mean divergence of the softmax of rewards [B, A] from that of the initial network."""
        first = self._rewards_from(limit.reference(observation.context), observation.context)
        own, other = (mask_logits(part / self._temperature, observation.mask) for part in (mean, first))
        return tf.reduce_mean(kl_divergence(own, other))

    def start_from(self, arrays: Mapping[str, Any]) -> None:
        """Copy the network of an exported policy; see `load_networks`."""
        load_networks(arrays, NetworkPart(self._network))

    def export(self) -> ExportedPolicy:
        """Return the layers and arm tables as arrays."""
        arrays = layer_arrays(self._network)
        if self._tables is not None:
            arrays |= {"embedding": self._tables[0].numpy(), "offset": self._tables[1].numpy()}
        if self._attributes is not None:
            arrays["item_attributes"] = self._attributes.numpy()
        name, value = self._setting
        return ExportedPolicy("mlp", self._head_name, {name: value}, arrays)


def dense_layers(network: tf_keras.Sequential) -> list[tf_keras.layers.Dense]:
    """Return the dense layers; before them a network may have an encoder."""
    return [layer for layer in network.layers if isinstance(layer, tf_keras.layers.Dense)]


def layer_arrays(network: tf_keras.Sequential) -> dict[str, Any]:
    """Return the kernels and biases of the dense layers, in order."""
    arrays = {}
    for index, layer in enumerate(dense_layers(network)):
        arrays[f"kernel_{index}"], arrays[f"bias_{index}"] = (weight.numpy() for weight in layer.weights)
    return arrays


def constant_layers(arrays: Mapping[str, Any]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return the function of exported dense layers, ReLU between them."""
    count = sum(name.startswith("kernel_") for name in arrays)
    layers = [
        tuple(tf.constant(np.asarray(arrays[f"{part}_{index}"], np.float32)) for part in ("kernel", "bias"))
        for index in range(count)
    ]

    def output(x: tf.Tensor) -> tf.Tensor:
        for index, (kernel, bias) in enumerate(layers):
            x = tf.matmul(x, kernel) + bias
            x = tf.nn.relu(x) if index < count - 1 else x
        return x

    return output


class NetworkPart(NamedTuple):
    """A network, and the place of its layers among the arrays of an exported policy."""

    network: tf_keras.Sequential
    prefix: str = ""
    """Start of the names of its arrays."""
    first: int = 0
    """Number of its first dense layer."""

    def weights(self) -> dict[str, tf.Variable]:
        """Return the weights of the dense layers and of any encoder by the names of their arrays."""
        named = {f"{self.prefix}{name}": weight for name, weight in encoder_weights(self.network).items()}
        for index, layer in enumerate(dense_layers(self.network), self.first):
            names = f"{self.prefix}kernel_{index}", f"{self.prefix}bias_{index}"
            named |= dict(zip(names, layer.weights, strict=True))
        return named


def load_networks(arrays: Mapping[str, Any], *parts: NetworkPart) -> None:
    """Copy the layers of an exported policy into networks.

    Raises ConfigError if a layer of any of them is missing or has another shape; then nothing is copied.
    """
    named = {name: weight for part in parts for name, weight in part.weights().items()}
    for name, weight in named.items():
        shape = np.shape(arrays[name]) if name in arrays else None
        if shape != tuple(weight.shape):
            raise ConfigError(f"another network: {name} has the shape {shape}, here it is {tuple(weight.shape)}")
    for name, weight in named.items():
        weight.assign(arrays[name])


def make_network(
    width: int, layers: tuple[int, ...], outputs: int, seed: int, zero: bool, encoder: SequenceEncoder | None = None
) -> tf_keras.Sequential:
    """Return a ReLU network with seeded weights; `zero` sets its last layer to 0. An encoder reads the input first."""
    initial = [tf_keras.initializers.GlorotUniform(integer_seed(seed, f"layer {i}")) for i in range(len(layers) + 1)]
    hidden = [tf_keras.layers.Dense(n, "relu", kernel_initializer=initial[i]) for i, n in enumerate(layers)]
    last = tf_keras.layers.Dense(outputs, kernel_initializer="zeros" if zero else initial[-1])
    network = tf_keras.Sequential([*([] if encoder is None else [encoder]), *hidden, last])
    network.build((None, width))
    return network


def dot_outputs(arms: ItemFeatures) -> int:
    """Return the number of outputs of a dot head: a correction of the user's embedding, and a weight per attribute."""
    return arms.embedding.shape[1] + (0 if arms.attributes is None else arms.attributes.shape[1])


def _learner(
    spec: Any, action_spec: Any, config: NetworkConfig, arms: ItemFeatures | None, seed: int, head: str,
    explore: Probabilities, setting: tuple[str, float],
) -> NeuralReward:  # fmt: skip
    dot = config.head == "dot" and arms is not None
    if arms is not None and arms.attributes is not None and not dot:
        raise ConfigError("features: the head plain has one output an item and reads no attributes of items; set dot")
    outputs = dot_outputs(arms) if dot and arms is not None else int(action_spec.maximum) + 1
    network = make_network(context_width(spec), config.layers, outputs, seed, zero=dot)
    optimizer = tf_keras.optimizers.Adam(config.learning_rate)
    return NeuralReward(network, optimizer, arms if dot else None, head, explore, setting, head)


def make_epsilon_greedy(
    spec: Any, action_spec: Any, config: EpsilonGreedyConfig, arms: ItemFeatures | None = None, seed: int = 0
) -> BanditAgent:
    """Return a neural epsilon-greedy agent; without `arms` its head is plain."""
    setting = ("epsilon", config.epsilon)
    learner = _learner(
        spec, action_spec, config, arms, seed, "epsilon_greedy", action_distributions.epsilon_greedy, setting
    )
    return BanditAgent(spec, action_spec, learner, seed=seed)


def make_boltzmann(
    spec: Any, action_spec: Any, config: BoltzmannConfig, arms: ItemFeatures | None = None, seed: int = 0
) -> BanditAgent:
    """Return a neural Boltzmann agent; without `arms` its head is plain."""
    setting = ("temperature", config.temperature)
    learner = _learner(spec, action_spec, config, arms, seed, "boltzmann", action_distributions.boltzmann, setting)
    return BanditAgent(spec, action_spec, learner, seed=seed)
