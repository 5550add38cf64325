"""The score network of an exported session policy in TensorFlow, from its arrays; see session_networks.py.

n steps, A items, D embedding.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from recpolicy.agents.neural import constant_layers
from recpolicy.agents.sequence_encoders import exported_encoder
from recpolicy.agents.session_networks import TOWER


def exported_scores(arrays: Mapping[str, Any]) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return the function from observations [n, O] to unmasked scores [n, A] of a policy with a network."""
    encoder = exported_encoder(arrays)
    layers = constant_layers(arrays)
    head = _head(arrays)
    dueling = bool(arrays.get("dueling", False))

    def scores(observation: tf.Tensor) -> tf.Tensor:
        output = layers(encoder(observation))
        if not dueling:
            return head(output, observation)
        preference = head(output[:, :-1], observation)
        return output[:, -1:] + preference - tf.reduce_mean(preference, axis=1, keepdims=True)

    return scores


def _head(arrays: Mapping[str, Any]) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
    """Return the function from a network's output and the observation to scores."""
    if "table" not in arrays:
        return lambda output, _: output
    table, offset = _constant(arrays["table"]), _constant(arrays["table_offset"])
    rank, temperature = int(arrays["rank"]), float(arrays["temperature"])
    tower = f"{TOWER}kernel_0" in arrays

    def score(output: tf.Tensor, observation: tf.Tensor) -> tf.Tensor:
        start = observation[:, :rank]
        if tower:
            features = tf.concat([start, output], axis=1)
        else:
            features = tf.pad(start, [[0, 0], [0, output.shape[1] - rank]]) + output
        return (offset + tf.matmul(features, table)) / temperature

    return score


def _constant(array: Any) -> tf.Tensor:
    return tf.constant(np.asarray(array, np.float32))
