"""Trainable encoders of the last n items of a session: a GRU and a small causal Transformer.

B sessions, n places, F item features, H units, C context. The input of an item is [f, liked f, liked] with its features
f, and empty places never count. The encoder replaces the items in the observation by the encoding of the newest place,
which is 0 before the first item: [context, items, steps] -> [context, encoding, steps].

    gru          z, r, c from input and state, oldest item first; state <- z state + (1 - z) c
    transformer  input + position of the place, newest first; each block adds the attention of a place to itself and
                 older ones, then a ReLU layer; both see normalized rows. The output is normalized, too

A place never sees newer ones. recpolicy/inference/sequence_encoders.py has the same in NumPy; a test compares the two.
Sources: Cho et al. 2014 (1406.1078), in the form with one product per state; Vaswani et al. 2017 (1706.03762), with
normalization first, as Kang & McAuley 2018 (1808.09781) use it for items.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras

from recpolicy.core.config import Size, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.core.seeds import integer_seed
from recpolicy.models.sequence_layout import SequenceLayout, encoder_shapes

PREFIX = "encoder/"
"""Start of the names of an encoder's arrays in an exported policy."""
_MASKED, _VARIANCE = -1e9, 1e-6


@config_dataclass
class SequenceEncoderConfig:
    """Settings of the encoder that the views `gru` and `transformer` add to each network."""

    sequence_units: Size = 32
    """Units H of the encoding."""
    transformer_layers: Size = 1
    """Blocks of the Transformer."""
    transformer_heads: Size = 2
    """Attention heads of a block; they divide `sequence_units`."""


class SequenceEncoder(tf_keras.layers.Layer):
    """The first layer of a network: it encodes the last items in an observation."""

    def __init__(self, layout: SequenceLayout, config: SequenceEncoderConfig, seed: int):
        """Use `seed` for the initial weights."""
        super().__init__(name="sequence_encoder")
        if layout.kind == "transformer" and config.sequence_units % config.transformer_heads:
            raise ConfigError(
                f"sequence_units is {config.sequence_units}: expected a multiple of transformer_heads,"
                f" {config.transformer_heads}"
            )
        self._layout, self._heads = layout, config.transformer_heads
        self._parts: dict[str, tf.Variable] = {}
        for name, shape in encoder_shapes(layout, config.sequence_units, config.transformer_layers).items():
            initial = tf_keras.initializers.GlorotUniform(integer_seed(seed, name)) if _random(name) else "zeros"
            self._parts[name] = self.add_weight(name=name, shape=shape, initializer=initial)

    def call(self, observation: tf.Tensor) -> tf.Tensor:
        """Return the observation [B, C + H + 1] with the encoding in place of the items."""
        return encode(self._parts, self._layout, self._heads, observation)

    def named_weights(self) -> dict[str, tf.Variable]:
        """Return the weights by their names in an exported policy."""
        return {PREFIX + name: weight for name, weight in self._parts.items()}

    def words(self) -> dict[str, Any]:
        """Return what is no weight, by its names in an exported policy."""
        layout = self._layout
        words = {"kind": layout.kind, "places": layout.places, "heads": self._heads}
        return {PREFIX + name: np.array(word) for name, word in words.items()}


def encoder_weights(network: tf_keras.Sequential) -> dict[str, tf.Variable]:
    """Return the weights of a network's encoder by their names in an exported policy; none without an encoder."""
    first = network.layers[0]
    return first.named_weights() if isinstance(first, SequenceEncoder) else {}


def encoder_arrays(network: tf_keras.Sequential) -> dict[str, Any]:
    """Return a network's encoder as arrays, by their names in an exported policy; none without an encoder."""
    first = network.layers[0]
    words = first.words() if isinstance(first, SequenceEncoder) else {}
    return words | {name: weight.numpy() for name, weight in encoder_weights(network).items()}


def exported_encoder(arrays: Mapping[str, Any], prefix: str = "") -> Callable[[tf.Tensor], tf.Tensor]:
    """Return the encoder of an exported policy's network; the identity if it has none."""
    start = prefix + PREFIX
    if start + "kind" not in arrays:
        return tf.identity
    weights = {
        name.removeprefix(start): tf.constant(np.asarray(array, np.float32))
        for name, array in arrays.items()
        if name.startswith(start) and np.asarray(array).dtype.kind == "f"
    }
    features = (weights["input"].shape[0] - 1) // 2
    layout = SequenceLayout(str(arrays[start + "kind"]), int(arrays[start + "places"]), features)
    heads = int(arrays[start + "heads"])
    return lambda observation: encode(weights, layout, heads, observation)


def encode(weights: Mapping[str, tf.Tensor], layout: SequenceLayout, heads: int, observation: tf.Tensor) -> tf.Tensor:
    """Return [context, encoding, steps] [B, C + H + 1] of observations [B, O]."""
    context = observation.shape[1] - layout.width
    tokens = tf.reshape(observation[:, context:-1], [-1, layout.places, layout.token])
    features, liked, filled = tf.split(tokens, [layout.features, 1, 1], axis=2)
    inputs = tf.concat([features, liked * features, liked], axis=2)  # [B, n, 2 F + 1]
    run = _gru if layout.kind == "gru" else _transformer
    encoding = run(weights, _dense(weights, inputs, "input"), filled, heads)
    return tf.concat([observation[:, :context], encoding, observation[:, -1:]], axis=1)


def _gru(weights: Mapping[str, tf.Tensor], inputs: tf.Tensor, filled: tf.Tensor, heads: int) -> tf.Tensor:  # noqa: ARG001
    """Return the state [B, H] after the newest item; inputs [B, n, 3 H], filled [B, n, 1]."""
    kernel, bias = tf.convert_to_tensor(weights["recurrent"]), tf.convert_to_tensor(weights["recurrent_bias"])
    state = tf.zeros_like(inputs[:, 0, : kernel.shape[0]])
    for place in reversed(range(inputs.shape[1])):
        update, reset, change = tf.split(inputs[:, place], 3, axis=1)
        own_update, own_reset, own_change = tf.split(tf.matmul(state, kernel) + bias, 3, axis=1)
        new = tf.tanh(change + tf.sigmoid(reset + own_reset) * own_change)
        state += filled[:, place] * (1.0 - tf.sigmoid(update + own_update)) * (new - state)
    return state


def _transformer(weights: Mapping[str, tf.Tensor], inputs: tf.Tensor, filled: tf.Tensor, heads: int) -> tf.Tensor:
    """Return the output [B, H] of the newest place; inputs [B, n, H], filled [B, n, 1]."""
    places, units = inputs.shape[1], inputs.shape[2]
    rows = inputs + weights["position"]
    older = np.triu(np.ones((places, places), np.float32))  # a place sees itself and the older ones behind it
    visible = tf.constant(older)[tf.newaxis] * tf.transpose(filled, [0, 2, 1]) > 0.0  # [B, n, n]
    layers = sum(name.startswith("attention_") for name in weights)
    for layer in range(layers):
        keys, values = tf.split(_dense(weights, _normalized(rows), f"memory_{layer}", bias=False), 2, axis=2)
        if layer == layers - 1:  # the newest place alone is read
            rows, visible = rows[:, :1], visible[:, :1]
        queries = _dense(weights, _normalized(rows), f"query_{layer}", bias=False)
        seen = _attention(queries, keys, values, visible, heads)
        rows += _dense(weights, seen, f"attention_{layer}", bias=False)
        hidden = tf.nn.relu(_dense(weights, _normalized(rows), f"hidden_{layer}"))
        rows += _dense(weights, hidden, f"output_{layer}")
    return tf.reshape(_normalized(rows), [-1, units]) * filled[:, 0]


def _attention(queries: tf.Tensor, keys: tf.Tensor, values: tf.Tensor, visible: tf.Tensor, heads: int) -> tf.Tensor:
    """Return the attention [B, q, H] of queries [B, q, H] to keys and values [B, n, H]; visible [B, q, n].

    Sums of elementwise products: XLA compiles products of many tiny matrices badly.
    """
    count, places, units = queries.shape[1], keys.shape[1], keys.shape[2]
    size = units // heads
    query = tf.reshape(queries, [-1, count, 1, heads, size])
    key, value = (tf.reshape(part, [-1, 1, places, heads, size]) for part in (keys, values))
    odds = tf.reduce_sum(query * key, axis=4) / np.float32(np.sqrt(size))  # [B, q, n, heads]
    share = tf.nn.softmax(tf.where(visible[..., tf.newaxis], odds, _MASKED), axis=2)
    return tf.reshape(tf.reduce_sum(share[..., tf.newaxis] * value, axis=2), [-1, count, units])


def _normalized(rows: tf.Tensor) -> tf.Tensor:
    """Return rows [..., H] of mean 0 and variance 1."""
    centered = rows - tf.reduce_mean(rows, axis=-1, keepdims=True)
    return centered * tf.math.rsqrt(tf.reduce_mean(tf.square(centered), axis=-1, keepdims=True) + _VARIANCE)


def _dense(weights: Mapping[str, tf.Tensor], rows: tf.Tensor, name: str, *, bias: bool = True) -> tf.Tensor:
    """Apply a dense layer to rows [B, n, K] as one matrix product."""
    kernel = tf.convert_to_tensor(weights[name])
    flat = tf.matmul(tf.reshape(rows, [-1, kernel.shape[0]]), kernel)
    flat = flat + weights[f"{name}_bias"] if bias else flat
    return tf.reshape(flat, [-1, rows.shape[1], kernel.shape[1]])


def _random(name: str) -> bool:
    """Return True for weights that start at random: all but biases and what a block adds at first."""
    return not name.endswith("_bias") and not name.startswith("output_")
