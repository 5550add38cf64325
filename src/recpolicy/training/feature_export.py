"""A feature policy in TensorFlow: probabilities of encoded requests, also as a SavedModel.

n requests, A actions, C and D dense columns, F and G hashed features. The encoder and the hashes of names stay in
NumPy: they make numbers of raw features (`encoded_request`). Everything after them is one graph in double precision. It
gives the same probabilities as `FeaturePolicy`, which tests/training/test_feature_export.py holds to 1e-6.

Models read different numbers. Dense models read `context` [n, C] and `action` [n, A, D]; the model per action id also
reads `arm` [n, A], the place of each id among its ids. The hashed model reads indices and values of features,
`context_index` and `context_value` [n, F], `action_index` and `action_value` [n, A, G]; rows are padded with value 0.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.agents import action_distributions
from recpolicy.core.tensorflow_setup import silence_libraries
from recpolicy.data.features.encoder import SparseRows
from recpolicy.data.features.hashing import CONSTANT, PAIR_MIX, PAIR_PRIME
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.inference.rank_request import Action
from recpolicy.models.bilinear import BilinearModel
from recpolicy.models.hashed_linear import WEIGHT
from recpolicy.models.hashed_reward import HashedModel
from recpolicy.models.hybrid_linear import HybridModel
from recpolicy.models.network_reward import EPSILON, EncodedModel, NetworkModel, count_layers
from recpolicy.models.reward_model import Arrays, Pairs

Head = Callable[[tf.Tensor, tf.Tensor, Mapping[str, float], tf.Tensor], tf.Tensor]
Tensors = Mapping[str, tf.Tensor]
Estimates = tuple[tf.Tensor, tf.Tensor]
"""Mean and width [n, A]; the width is 0 where a model has none."""

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
    """A feature policy as a graph over encoded requests."""

    def __init__(self, policy: FeaturePolicy):
        super().__init__(name="feature_policy")
        self._policy, self._form = policy, _FORMS[type(policy.model)]
        # A table that a graph reads must be a variable: as a constant, each trace would hold a copy of it.
        self._tables = {name: tf.Variable(table, trainable=False) for name, table in self._form.tables(policy.model)}
        mask = tf.TensorSpec([None, None], tf.bool, "mask")
        specs = {**self._form.specs(policy), "mask": mask}
        self.probabilities = tf.function(self._probabilities, input_signature=[specs], autograph=False)
        """Return probability [n, A] and score [n, A] of encoded requests and the `mask` [n, A] of allowed actions."""

    def _probabilities(self, request: Tensors) -> dict[str, tf.Tensor]:
        policy, mask = self._policy, request["mask"]
        estimates = self._form.estimate(policy.model, request, self._tables)
        mean, width = (part * policy.reward_std for part in estimates)
        probability = _HEADS[policy.head](mean, width, policy.settings, mask)
        return {
            "probability": action_distributions.with_uniform_mix(probability, policy.uniform_mix, mask),
            "score": mean,
        }


def _dense_specs(policy: FeaturePolicy) -> dict[str, tf.TensorSpec]:
    context, action = len(policy.encoder.context_names), len(policy.encoder.action_names)
    return {
        "context": tf.TensorSpec([None, context], tf.float32, "context"),
        "action": tf.TensorSpec([None, None, action], tf.float32, "action"),
    }


def _dense_request(policy: FeaturePolicy, pairs: Pairs) -> dict[str, NDArray[Any]]:
    del policy
    return {"context": pairs.context.astype(np.float32), "action": pairs.action[np.newaxis].astype(np.float32)}


def _hybrid_specs(policy: FeaturePolicy) -> dict[str, tf.TensorSpec]:
    return {**_dense_specs(policy), "arm": tf.TensorSpec([None, None], tf.int32, "arm")}


def _hybrid_request(policy: FeaturePolicy, pairs: Pairs) -> dict[str, NDArray[Any]]:
    assert isinstance(policy.model, HybridModel)
    arm = policy.model.arm(pairs.action_id).astype(np.int32)[np.newaxis]
    return {**_dense_request(policy, pairs), "arm": arm}


def _hashed_specs(policy: FeaturePolicy) -> dict[str, tf.TensorSpec]:
    del policy
    return {
        f"{part}_{name}": tf.TensorSpec([None] * rank, kind, f"{part}_{name}")
        for part, rank in (("context", 2), ("action", 3))
        for name, kind in (("index", tf.uint32), ("value", tf.float32))
    }


def _hashed_request(policy: FeaturePolicy, pairs: Pairs) -> dict[str, NDArray[Any]]:
    del policy
    (context_index, context_value), (action_index, action_value) = _padded(pairs.context), _padded(pairs.action)
    return {
        "context_index": context_index, "context_value": context_value,
        "action_index": action_index[np.newaxis], "action_value": action_value[np.newaxis],
    }  # fmt: skip


def _padded(rows: SparseRows) -> tuple[NDArray[np.uint32], NDArray[np.float32]]:
    """Return index and value [n, F] of hashed features, 0 after the last one of a row."""
    count = np.diff(rows.start)
    real = np.arange(int(count.max(initial=0))) < count[:, np.newaxis]
    index, value = np.zeros(real.shape, np.uint32), np.zeros(real.shape, np.float32)
    index[real], value[real] = rows.index, rows.value
    return index, value


def _bilinear(model: BilinearModel, request: Tensors, tables: Tensors) -> Estimates:
    del tables
    return _posterior(model, *_dense(request))


def _network(model: NetworkModel, request: Tensors, tables: Tensors) -> Estimates:
    del tables
    mean = _layers(model.arrays, _pairs(*_dense(request)))[:, :, 0]
    return mean, tf.zeros_like(mean)


def _encoded(model: EncodedModel, request: Tensors, tables: Tensors) -> Estimates:
    del tables
    encoded = _layers(model.layers, _pairs(*_dense(request)))  # [n, A, E]
    flat = tf.reshape(encoded, [-1, encoded.shape[-1]])
    estimates = _posterior(model.linear, flat, tf.zeros([tf.shape(flat)[0], 1, 0], tf.float64))
    mean, width = (tf.reshape(part, tf.shape(encoded)[:2]) for part in estimates)
    return mean, width


def _hybrid(model: HybridModel, request: Tensors, tables: Tensors) -> Estimates:
    """See models/hybrid_linear.py for the formulas."""
    context, action = _dense(request)
    x = tf.concat([tf.ones_like(context[:, :1]), context], axis=1) if context.shape[1] else _ones(context)
    cross, center, covariance = (tf.gather(tables[name], request["arm"]) for name in ("cross", "center", "covariance"))
    rest = _regressors(model.shared, context, action) - tf.einsum("nd,nadk->nak", x, cross)
    mean = tf.linalg.matvec(rest, tables["beta"]) + tf.einsum("nd,nad->na", x, center)
    shared = tf.reduce_sum(tf.einsum("nak,kl->nal", rest, tables["shared_covariance"]) * rest, axis=2)
    own = tf.einsum("nd,nade,ne->na", x, covariance, x)
    return mean, tf.sqrt(tf.maximum(shared + own, 0.0))


def _hashed(model: HashedModel, request: Tensors, tables: Tensors) -> Estimates:
    """See models/hashed_linear.py for the features of a pair."""
    linear, weight = model.linear, tables["weight"]
    context, action = request["context_index"], request["action_index"]
    x = tf.cast(request["context_value"], tf.float64)  # [n, F]
    a = tf.cast(request["action_value"], tf.float64)  # [n, A, G]

    def weights(index: tf.Tensor) -> tf.Tensor:
        mask = tf.constant((1 << linear.bits) - 1, tf.uint32)
        return tf.gather(weight, tf.cast(tf.bitwise.bitwise_and(index, mask), tf.int32))

    constant = weights(tf.constant(CONSTANT, tf.uint32))
    of_context = tf.reduce_sum(weights(context) * x, axis=1, keepdims=True)
    total = constant + of_context + tf.reduce_sum(weights(action) * a, axis=2)
    if linear.interactions:
        index = _pair_indices(context[:, tf.newaxis, :, tf.newaxis], action[:, :, tf.newaxis, :])  # [n, A, F, G]
        total += tf.einsum("nafg,nf,nag->na", weights(index), x, a)
    mean = model.low + model.span * total
    return mean, tf.zeros_like(mean)


def _pair_indices(first: tf.Tensor, second: tf.Tensor) -> tf.Tensor:
    """Return the index of the product of two features; see data/features/hashing.py."""

    def shifted(index: tf.Tensor, bits: int) -> tf.Tensor:
        return tf.bitwise.right_shift(index, tf.constant(bits, tf.uint32))

    pairs = tf.bitwise.bitwise_xor(first * tf.constant(PAIR_PRIME, tf.uint32), second)
    pairs = tf.bitwise.bitwise_xor(pairs, shifted(pairs, 15)) * tf.constant(PAIR_MIX, tf.uint32)
    return tf.bitwise.bitwise_xor(pairs, shifted(pairs, 13))


def _dense(request: Tensors) -> tuple[tf.Tensor, tf.Tensor]:
    """Return contexts [n, C] and actions [n, A, D] in double precision."""
    return tf.cast(request["context"], tf.float64), tf.cast(request["action"], tf.float64)


def _pairs(context: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """Return each context with each of its actions [n, A, C + D]."""
    return tf.concat([tf.repeat(context[:, tf.newaxis], tf.shape(action)[1], axis=1), action], axis=2)


def _ones(like: tf.Tensor) -> tf.Tensor:
    """Return ones [..., 1]."""
    return tf.ones(tf.concat([tf.shape(like)[:-1], [1]], axis=0), tf.float64)


def _regressors(model: BilinearModel, x: tf.Tensor, a: tf.Tensor) -> tf.Tensor:
    """Return the regressors [n, A, K] of contexts [n, C] and actions [n, A, D]."""
    repeated = tf.repeat(x[:, tf.newaxis], tf.shape(a)[1], axis=1)
    left, right = tf.concat([_ones(a), repeated], axis=2), tf.concat([_ones(a), a], axis=2)
    if not model.interactions:
        left, right = tf.concat([left, a], axis=2), _ones(a)
    products = left[:, :, :, tf.newaxis] * right[:, :, tf.newaxis, :]
    return tf.reshape(products, [tf.shape(a)[0], tf.shape(a)[1], model.moment.size])


def _posterior(model: BilinearModel, x: tf.Tensor, a: tf.Tensor) -> Estimates:
    """Return mean and width [n, A] at contexts [n, C] and actions [n, A, D]."""
    phi = _regressors(model, x, a)
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


@dataclass(frozen=True)
class _Form:
    """The graph of a kind of reward model."""

    specs: Callable[[FeaturePolicy], dict[str, tf.TensorSpec]]
    """Returns the numbers that it reads of a request."""
    request: Callable[[FeaturePolicy, Pairs], dict[str, NDArray[Any]]]
    """Returns these numbers of the pairs [A] of one request."""
    estimate: Callable[[Any, Tensors, Tensors], Estimates]
    """Returns the estimates of the model, the numbers of requests and the tables."""
    tables: Callable[[Any], Sequence[tuple[str, NDArray[np.float64]]]] = lambda _: ()
    """Returns the arrays from which it gathers."""


_FORMS: Mapping[type[Any], _Form] = {
    BilinearModel: _Form(_dense_specs, _dense_request, _bilinear),
    NetworkModel: _Form(_dense_specs, _dense_request, _network),
    EncodedModel: _Form(_dense_specs, _dense_request, _encoded),
    HybridModel: _Form(_hybrid_specs, _hybrid_request, _hybrid, lambda model: tuple(model.solution._asdict().items())),
    HashedModel: _Form(
        _hashed_specs, _hashed_request, _hashed, lambda model: (("weight", model.linear.table[:, WEIGHT]),)
    ),
}


def write_feature_saved_model(policy: FeaturePolicy, folder: Path) -> None:
    """Write the policy as a SavedModel for plain `tf.saved_model.load`."""
    silence_libraries()
    module = FeaturePolicyModule(policy)
    tf.saved_model.save(module, str(folder), signatures=module.probabilities)


def encoded_request(
    policy: FeaturePolicy, context: Mapping[str, Any], actions: Sequence[Action]
) -> dict[str, NDArray[Any]]:
    """Return the numbers of one request, as the module reads them; the mask of allowed actions is left to add."""
    return _FORMS[type(policy.model)].request(policy, policy.encoded(context, actions))
