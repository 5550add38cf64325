"""A feature policy in TensorFlow: probabilities of encoded requests, also as a SavedModel.

n requests, A actions, C and D dense columns. The encoder stays in NumPy: it makes dense columns of raw features, and
everything after it is one graph in double precision. It gives the same probabilities as `FeaturePolicy`, which
tests/training/test_feature_export.py holds to 1e-6.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from recpolicy.agents import action_distributions
from recpolicy.core.errors import ConfigError
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.models.bilinear import BilinearModel
from recpolicy.models.network_reward import EPSILON, EncodedModel, NetworkModel, count_layers
from recpolicy.models.reward_model import Arrays

Head = Callable[[tf.Tensor, tf.Tensor, Mapping[str, float], tf.Tensor], tf.Tensor]

_HEADS: Mapping[str, Head] = {
    "upper_confidence": lambda mean, width, settings, mask: action_distributions.upper_confidence(
        mean, width, settings["alpha"], mask
    ),
    "thompson": lambda mean, width, settings, mask: action_distributions.thompson(
        mean, settings["scale"] * width, mask
    ),
    "epsilon_greedy": lambda mean, _, settings, mask: action_distributions.epsilon_greedy(
        mean, settings["epsilon"], mask
    ),
    "boltzmann": lambda mean, _, settings, mask: action_distributions.boltzmann(mean, settings["temperature"], mask),
    "squarecb": lambda mean, _, settings, mask: action_distributions.squarecb(mean, settings["gamma"], mask),
}


class FeaturePolicyModule(tf.Module):
    """A feature policy whose model reads dense columns.

    Raises:
        ConfigError: The model has no form in TensorFlow: hashed features, or a model per action id.
    """

    def __init__(self, policy: FeaturePolicy):
        super().__init__(name="feature_policy")
        if not isinstance(policy.model, BilinearModel | NetworkModel | EncodedModel):
            raise ConfigError(f"a model {policy.model.name} has no form in TensorFlow; NumPy answers for it")
        self._policy, self._model = policy, policy.model
        columns = len(policy.encoder.context_names), len(policy.encoder.action_names)
        context = tf.TensorSpec([None, columns[0]], tf.float32, "context")
        action = tf.TensorSpec([None, None, columns[1]], tf.float32, "action")
        mask = tf.TensorSpec([None, None], tf.bool, "mask")
        self.probabilities = tf.function(self._probabilities, input_signature=[context, action, mask], autograph=False)
        """Return probability [n, A] and score [n, A] of contexts [n, C] and actions [n, A, D] that `mask` allows."""

    def _probabilities(self, context: tf.Tensor, action: tf.Tensor, mask: tf.Tensor) -> dict[str, tf.Tensor]:
        policy = self._policy
        x, a = tf.cast(context, tf.float64), tf.cast(action, tf.float64)
        mean, width = (part * policy.reward_std for part in self._estimate(x, a))
        probability = _HEADS[policy.head](mean, width, policy.settings, mask)
        return {
            "probability": action_distributions.with_uniform_mix(probability, policy.uniform_mix, mask),
            "score": mean,
        }

    def _estimate(self, x: tf.Tensor, a: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return mean and width [n, A]; a network has the width 0."""
        if isinstance(self._model, BilinearModel):
            return _bilinear(self._model, x, a)
        repeated = tf.repeat(x[:, tf.newaxis], tf.shape(a)[1], axis=1)  # [n, A, C]
        pair = tf.concat([repeated, a], axis=2)
        if isinstance(self._model, EncodedModel):
            encoded = _layers(self._model.layers, pair)  # [n, A, E]
            flat = tf.reshape(encoded, [-1, encoded.shape[-1]])
            mean, width = _bilinear(self._model.linear, flat, tf.zeros([tf.shape(flat)[0], 1, 0], tf.float64))
            shape = tf.shape(a)[:2]
            return tf.reshape(mean, shape), tf.reshape(width, shape)
        mean = _layers(self._model.arrays, pair)[:, :, 0]
        return mean, tf.zeros_like(mean)


def _bilinear(model: BilinearModel, x: tf.Tensor, a: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return mean and width [n, A] at contexts [n, C] and actions [n, A, D]."""
    ones = tf.ones_like(a[:, :, :1]) if a.shape[-1] else tf.ones([tf.shape(a)[0], tf.shape(a)[1], 1], tf.float64)
    repeated = tf.repeat(x[:, tf.newaxis], tf.shape(a)[1], axis=1)
    left, right = tf.concat([ones, repeated], axis=2), tf.concat([ones, a], axis=2)
    if not model.interactions:
        left, right = tf.concat([left, a], axis=2), ones
    weights = model.moment.size
    shape = [tf.shape(a)[0], tf.shape(a)[1], weights]
    phi = tf.reshape(left[:, :, :, tf.newaxis] * right[:, :, tf.newaxis, :], shape)  # [n, A, K]
    mean = tf.linalg.matvec(phi, tf.constant(model.theta.ravel()))
    square = tf.reduce_sum(tf.einsum("nak,kl->nal", phi, tf.constant(model.covariance)) * phi, axis=-1)
    return mean, tf.sqrt(tf.maximum(square, 0.0))


def _layers(layers: Arrays, z: tf.Tensor) -> tf.Tensor:
    """Return the outputs [n, A, E] of the layers at [n, A, C + D]."""
    count = count_layers(layers)
    for index in range(count):
        z = tf.einsum("nak,kl->nal", z, tf.constant(layers[f"kernel_{index}"])) + layers[f"bias_{index}"]
        if f"gain_{index}" in layers:
            mean, variance = tf.nn.moments(z, axes=[2], keepdims=True)
            z = (z - mean) * tf.math.rsqrt(variance + EPSILON) * layers[f"gain_{index}"] + layers[f"shift_{index}"]
        if index < count - 1:
            z = tf.nn.relu(z)
    return z


def write_feature_saved_model(policy: FeaturePolicy, folder: Path) -> None:
    """Write the policy as a SavedModel for plain `tf.saved_model.load`; raise ConfigError for a model without one."""
    silence_libraries()
    module = FeaturePolicyModule(policy)
    tf.saved_model.save(module, str(folder), signatures=module.probabilities)


def dense_request(policy: FeaturePolicy, context: Mapping[str, Any], actions: Any) -> tuple[Any, Any]:
    """Return the dense columns [1, C] and [1, A, D] of a request, as the module reads them."""
    pairs = policy.encoded(context, actions)
    return pairs.context.astype(np.float32), pairs.action[np.newaxis].astype(np.float32)
