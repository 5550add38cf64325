"""Estimate the reward of each item in the catalog of a saved policy, in NumPy: one function per kind of learner.

n users, A arms, D embedding, K pair features. Each function takes the learner's arrays and the Situation and returns an
Estimate. They repeat the `estimate` methods of recpolicy/agents/; tests/inference compare the two for every agent.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.inference.sequence_encoders import encode_sequence
from recpolicy.models.fold_in import quadratic_forms
from recpolicy.models.user_posterior import unpack_covariance

Array = NDArray[Any]
Arrays = Mapping[str, Array]


ADDED_ARM, ADDED_PRIOR = "added_arm", "added_prior"
"""Arrays of a policy: arms [M] that were added after the training, and their packed prior covariances [M, T]."""


@dataclass(frozen=True)
class PolicyInput:
    """The contexts of the users and the rating model's view of the catalog."""

    context: Array  # [n, >= D], the first D entries are the user's embedding
    embedding: Array  # [A, D]
    offset: Array  # [A]
    rating: Array  # [n, A] the rating model's expectation: offset + embedding . context[:D]
    history_state: Array | None = None  # [n, M] what a session policy sees of the session; None for the other kinds
    widths: bool = True  # False: linear estimators leave out width and std_ratio, which take most of their time


@dataclass(frozen=True)
class Estimate:
    """Estimated rewards of n users and A arms."""

    mean: Array  # [n, A] expected reward
    width: Array | None  # [n, A] in units of the rating noise; None where the learner does not know
    score: Array  # [n, A] what the policy is greedy in when it does not explore
    bound: Array | None = None  # [n, A] what it is greedy in when it explores, where that is no head's to compute
    std_ratio: Array | None = None  # [n, A] share of the rating model's uncertainty that is left, where it began there
    session_value: Array | None = None  # [n] expected discounted reward of the rest of the session


def pack_symmetric(matrices: Array) -> Array:
    """Return upper triangles of [A, D, D] as [A, D (D + 1) / 2]; off-diagonals doubled, so x'Px = packed . outer(x)."""
    rows, columns = np.triu_indices(matrices.shape[-1])
    return matrices[:, rows, columns] * np.where(rows == columns, 1.0, 2.0).astype(matrices.dtype)


def unpack_symmetric(packed: Array, size: int) -> Array:
    """Return the matrices [A, D, D] of triangles [A, D (D + 1) / 2] whose off-diagonals are doubled."""
    rows, columns = np.triu_indices(size)
    matrices = np.empty((len(packed), size, size), packed.dtype)
    matrices[:, rows, columns] = matrices[:, columns, rows] = packed / np.where(rows == columns, 1.0, 2.0)
    return matrices


def quadratic(packed: Array, x: Array) -> Array:
    """Return x' P_a x [n, A] for packed P [A, T] and x [n, D]."""
    rows, columns = np.triu_indices(x.shape[-1])
    return np.maximum((x[:, rows] * x[:, columns]) @ packed.T, 0.0)


def _linear(arrays: Arrays, situation: PolicyInput) -> Estimate:
    x = _with_bias(situation.context) if arrays["bias"] else situation.context
    return _posterior(arrays, x, situation.widths)


def _encoded_linear(arrays: Arrays, situation: PolicyInput) -> Estimate:
    return _posterior(arrays, encoded_context(arrays, situation.context), situation.widths)


def encoded_context(arrays: Arrays, context: Array) -> Array:
    """Return the features [n, E + 1] that a network learned, with a constant."""
    return _with_bias(_layers(arrays, context))


def _posterior(arrays: Arrays, x: Array, widths: bool) -> Estimate:
    mean = x @ arrays["theta"].T
    if not widths:
        return Estimate(mean, None, mean)
    width = np.sqrt(quadratic(arrays["covariance"], x))
    if "prior_precision" not in arrays:
        return Estimate(mean, width, mean)
    prior = _prior_variance(arrays, x, arrays["prior_precision"])
    return Estimate(mean, width, mean, std_ratio=width / np.sqrt(prior))


def _prior_variance(arrays: Arrays, x: Array, precision: Array) -> Array:
    """Return the variance that an arm's own model began with [n, 1], or [n, A] if arms were added since."""
    prior = (x * x).sum(axis=1, keepdims=True) / precision
    if ADDED_ARM not in arrays:
        return prior
    prior = np.repeat(prior, len(arrays["covariance"]), axis=1)
    prior[:, arrays[ADDED_ARM]] = quadratic(arrays[ADDED_PRIOR], x)
    return prior


def _shared(arrays: Arrays, situation: PolicyInput) -> Estimate:
    z = _pair_features(arrays, situation)  # [n, A, K]
    mean = z @ arrays["theta"]
    if not situation.widths:
        return Estimate(mean, None, mean)
    width = np.sqrt(np.maximum(((z @ arrays["covariance"]) * z).sum(axis=-1), 0.0))
    prior = np.sqrt((z * z).sum(axis=-1) / arrays["prior_precision"])
    return Estimate(mean, width, mean, std_ratio=width / prior)


def _hybrid(arrays: Arrays, situation: PolicyInput) -> Estimate:
    x = _with_bias(situation.context)
    z = _pair_features(arrays, situation)
    rest = z - np.einsum("nd,adk->nak", x, arrays["cross"], optimize=True)
    mean = rest @ arrays["beta"] + x @ arrays["center"].T
    if not situation.widths:
        return Estimate(mean, None, mean)
    square = ((rest @ arrays["shared_covariance"]) * rest).sum(axis=-1) + quadratic(arrays["covariance"], x)
    width = np.sqrt(np.maximum(square, 0.0))
    shared, own = arrays["prior_precision"]
    prior = np.sqrt((z * z).sum(axis=-1) / shared + _prior_variance(arrays, x, own))
    return Estimate(mean, width, mean, std_ratio=width / prior)


def _user(arrays: Arrays, situation: PolicyInput) -> Estimate:
    """See recpolicy.agents.linucb_user."""
    rank = situation.embedding.shape[1]
    mean = situation.rating + arrays["error_mean"]
    if not situation.widths:
        return Estimate(mean, None, mean)
    variance = np.broadcast_to(arrays["error_variance"], mean.shape)
    prior = np.broadcast_to(arrays["prior_error_variance"], mean.shape)
    packed = situation.context[:, rank:]
    if packed.shape[1]:
        of_user = quadratic_forms(situation.embedding, unpack_covariance(packed, rank))
        variance, prior = variance + of_user, prior + of_user
    width = np.sqrt(variance) / arrays["noise_std"]
    return Estimate(mean, width, mean, std_ratio=np.sqrt(variance / prior))


def _mlp(arrays: Arrays, situation: PolicyInput) -> Estimate:
    mean = _layers(arrays, situation.context)
    if "embedding" in arrays:
        rank = arrays["embedding"].shape[1]
        output = mean
        mean = arrays["offset"] + (situation.context[:, :rank] + output[:, :rank]) @ arrays["embedding"].T
        if "item_attributes" in arrays:
            mean = mean + output[:, rank:] @ arrays["item_attributes"].T
    return Estimate(mean, None, mean)


def _arms(arrays: Arrays, situation: PolicyInput) -> Estimate:
    shape = situation.rating.shape
    named = (name for name in ("mean", "width", "weight", "score") if name in arrays)
    spread = {name: np.broadcast_to(arrays[name], shape) for name in named}
    return Estimate(spread["mean"], spread["width"], spread.get("weight", spread["mean"]), spread.get("score"))


def _rating_model(arrays: Arrays, situation: PolicyInput) -> Estimate:
    score = np.broadcast_to(arrays["score"], situation.rating.shape) if "score" in arrays else situation.rating
    return Estimate(situation.rating, None, score)


def _session(arrays: Arrays, situation: PolicyInput) -> Estimate:
    x = _seen(situation)
    score = _item_scores(arrays, x, _layers(arrays, x))
    value = _layers(arrays, x, "value/")[:, 0]
    return Estimate(situation.rating, None, score, session_value=value)


def _session_values(arrays: Arrays, situation: PolicyInput) -> Estimate:
    x = _seen(situation)
    output = _layers(arrays, x)
    if arrays["dueling"]:
        score = _item_scores(arrays, x, output[:, :-1])
        score = output[:, -1:] + score - score.mean(axis=1, keepdims=True)
    else:
        score = _item_scores(arrays, x, output)
    return Estimate(situation.rating, None, score, session_value=score.max(axis=1) + value_offset(arrays))


def value_offset(arrays: Arrays) -> np.float32:
    """Return the constant by which the values of a session policy exceed its scores; 0 where it has none."""
    return np.float32(arrays.get("value_offset", 0.0))


def _session_table(arrays: Arrays, situation: PolicyInput) -> Estimate:
    x = _seen(situation)
    cell = np.zeros(len(x), np.int64)
    for index, column in enumerate(arrays["columns"]):
        cut = arrays[f"edges_{index}"]
        cell = cell * (len(cut) + 1) + (x[:, column, np.newaxis] > cut).sum(axis=1)
    score = arrays["q_table"][cell]
    if "embedding" in arrays:
        start = x[:, : arrays["embedding"].shape[1]] @ arrays["embedding"].T + arrays["offset"]
        score = score + start / arrays["temperature"]
    bound = _ucb1(score, arrays["visits"][cell], float(arrays["ucb"])) if "ucb" in arrays else None
    return Estimate(situation.rating, None, score, bound, session_value=score.max(axis=1))


def _ucb1(score: Array, visits: Array, c: float) -> Array:
    """See recpolicy.agents.q_learning.ucb1."""
    total = np.maximum(visits.sum(axis=1, keepdims=True), 1.0)
    bonus = np.float32(c) * np.sqrt(np.log(total) / np.maximum(visits, 1.0))
    return np.where(visits > 0, score + bonus, np.float32(1e6))


ESTIMATORS: Mapping[str, Callable[[Arrays, PolicyInput], Estimate]] = {
    "linear": _linear,
    "encoded_linear": _encoded_linear,
    "shared": _shared,
    "hybrid": _hybrid,
    "user": _user,
    "mlp": _mlp,
    "arms": _arms,
    "rating_model": _rating_model,
    "session": _session,
    "session_values": _session_values,
    "session_table": _session_table,
}


def _with_bias(x: Array) -> Array:
    return np.concatenate([x, np.ones((len(x), 1), x.dtype)], axis=1)


def _pair_features(arrays: Arrays, situation: PolicyInput) -> Array:
    """Return (p * q, o, 1) and features of attributes [n, A, K]; see models/pair_features.py."""
    product = situation.context[:, np.newaxis, : situation.embedding.shape[1]] * situation.embedding
    offset = np.broadcast_to(situation.offset[:, np.newaxis], (*product.shape[:2], 1))
    parts = [product, offset, np.ones_like(offset)]
    if "item_attributes" in arrays:
        attributes = np.broadcast_to(arrays["item_attributes"], (len(product), *arrays["item_attributes"].shape))
        parts.append(attributes)
        if arrays["attribute_interactions"]:
            x = situation.context[:, np.newaxis, situation.embedding.shape[1] :, np.newaxis]
            parts.append((x * attributes[:, :, np.newaxis, :]).reshape(*product.shape[:2], -1))
    return np.concatenate(parts, axis=-1)


def _seen(situation: PolicyInput) -> Array:
    """Return the observation [n, D + M] of a session policy."""
    assert situation.history_state is not None, "a session policy needs a history state"
    return np.concatenate([situation.context, situation.history_state], axis=1)


def _item_scores(arrays: Arrays, x: Array, output: Array) -> Array:
    """Return scores [n, A] from a network's output; see recpolicy.agents.session_networks."""
    if "table" not in arrays:
        return output
    rank = int(arrays["rank"])
    if "tower/kernel_0" in arrays:
        features = np.concatenate([x[:, :rank], output], axis=1)
    else:
        features = output.copy()
        features[:, :rank] += x[:, :rank]
    return (features @ arrays["table"] + arrays["table_offset"]) / arrays["temperature"]


def _layers(arrays: Arrays, x: Array, prefix: str = "") -> Array:
    """Apply any encoder of the last items, then dense layers with ReLU between them."""
    x = encode_sequence(arrays, x, prefix)
    count = sum(name.startswith(f"{prefix}kernel_") for name in arrays)
    for index in range(count):
        x = x @ arrays[f"{prefix}kernel_{index}"] + arrays[f"{prefix}bias_{index}"]
        if index < count - 1:
            x = np.maximum(x, 0.0)
    return x
