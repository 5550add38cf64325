"""LinUCB, hybrid: a shared model over pair features plus one linear model per arm.

E[r] = z.beta + x.theta_a. Li et al. 2010, algorithm 2, keeps A0, b0 and per arm A_a, B_a, b_a. We keep what the
formulas use, P_a = A_a^-1, C_a = A_a^-1 B_a, c_a = A_a^-1 b_a, the inverse of A0, and beta; then
    e = z - C_a'x,   mean = e.beta + x.c_a,   width^2 = e' A0^-1 e + x' P_a x,
and one observation (x, z, r) is three recursive least-squares steps (tests compare them with the paper's formulas):
    d = P x, n = 1 + x'd, g = d / n:   C += g e',  c += g (r - x.c),  P -= g d',
    h = A0^-1 e, m = n + e'h:          beta += h (r - x.c - e.beta) / m,  A0^-1 -= h h' / m.
With forgetting below 1, P and A0^-1 first return towards their priors (linear_posterior.py); C, c and beta stay.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.agents import action_distributions
from recpolicy.agents import linear_posterior as linear
from recpolicy.agents.item_features import ItemFeatures
from recpolicy.agents.learner import BanditAgent, Estimate, ExportedPolicy, Learner
from recpolicy.agents.linucb_shared import pair_features, require_pair_features
from recpolicy.agents.observation import Observation, context_width
from recpolicy.models.feature_agent_configs import HybridLinUCBConfig
from recpolicy.models.pair_features import PairFeatures, prior_weights
from recpolicy.models.recursive_regression import forget

State = tuple[tf.Tensor, ...]
"""P [A, D, D], C [A, D, K], c [A, D], A0^-1 [K, K], beta [K]."""
_PARTS = ("covariance", "cross", "center", "shared_covariance", "beta")


class HybridLinUCB(Learner):
    """A hybrid LinUCB learner: a shared posterior and per-arm posteriors, updated together."""

    def __init__(self, features: PairFeatures, arms: int, width: int, config: HybridLinUCBConfig):
        super().__init__(name="linucb_hybrid")
        self._config, self._pairs = config, features
        d, k = width + 1, features.width
        start: tuple[NDArray[np.floating], ...] = (
            np.broadcast_to(np.eye(d) / config.arm_precision, (arms, d, d)), np.zeros((arms, d, k)),
            np.zeros((arms, d)), np.eye(k) / config.shared_precision, prior_weights(features.rank, k),
        )  # fmt: skip
        self._state = tuple(
            tf.Variable(part.astype(np.float32), trainable=False, name=f"linucb_hybrid/{name}")
            for name, part in zip(_PARTS, start, strict=True)
        )

    def estimate(self, observation: Observation) -> Estimate:
        """Return the posterior means and widths of all arms."""
        x, z = linear.with_bias(observation.context), pair_features(self._pairs, observation)
        return Estimate(*hybrid_estimate(tuple(part.read_value() for part in self._state), x, z))

    def behavior_probabilities(self, observation: Observation) -> tf.Tensor:
        """Return the greedy distribution over mean + alpha * width."""
        mean, width = self.estimate(observation)
        return action_distributions.upper_confidence(mean, width, self._config.alpha, observation.mask)

    def update(self, observation: Observation, action: tf.Tensor, reward: tf.Tensor) -> tf.Tensor:
        """Apply one recursive step per row, in order."""
        x = linear.with_bias(observation.context)
        z = tf.gather(pair_features(self._pairs, observation), action, batch_dims=1)  # [B, K]
        old = tuple(part.read_value() for part in self._state)
        guess = tf.gather(self.estimate(observation).mean, action, batch_dims=1)

        def update_row(row: tf.Tensor, *state: tf.Tensor) -> tuple[tf.Tensor, ...]:
            arm, x_row, z_row, paid = (tf.gather(part, row) for part in (action, x, z, reward))
            return row + 1, *hybrid_step(state, arm, x_row, z_row, paid, self._config)

        rows = tf.shape(action)[0]
        new = tf.while_loop(lambda row, *_: row < rows, update_row, (tf.constant(0), *old))[1:]
        for variable, value in zip(self._state, new, strict=True):
            variable.assign(value)
        return tf.reduce_mean(tf.square(reward - guess))

    def restore(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        """Load the exported arrays, with covariances [A, D, D]."""
        for name, part in zip(_PARTS, self._state, strict=True):
            part.assign(arrays[name])

    def export(self) -> ExportedPolicy:
        """Return the arrays for the upper-confidence head."""
        arrays = {name: part.numpy() for name, part in zip(_PARTS, self._state, strict=True)}
        arrays["prior_precision"] = np.array([self._config.shared_precision, self._config.arm_precision], np.float32)
        arrays |= self._pairs.arrays()
        return ExportedPolicy("hybrid", "upper_confidence", {"alpha": self._config.alpha}, arrays)


def hybrid_estimate(state: State, x: tf.Tensor, z: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the mean and width [B, A] at x [B, D], z [B, A, K]."""
    covariance, cross, center, shared_covariance, beta = state
    arms, d, k = cross.shape
    explained = tf.matmul(x, tf.reshape(tf.transpose(cross, [1, 0, 2]), [d, arms * k]))  # [B, A * K]
    rest = z - tf.reshape(explained, [-1, arms, k])  # [B, A, K]
    mean = tf.einsum("bak,k->ba", rest, beta) + linear.means(center, x)
    shared = tf.reduce_sum(tf.einsum("bak,kl->bal", rest, shared_covariance) * rest, axis=-1)
    own = tf.square(linear.widths(covariance, x))
    return mean, tf.sqrt(tf.maximum(shared + own, 0.0))


def hybrid_step(
    state: State, arm: tf.Tensor, x: tf.Tensor, z: tf.Tensor, reward: tf.Tensor, config: HybridLinUCBConfig
) -> State:
    """Update with one observation: arm scalar, x [D], z [K], reward scalar."""
    covariance, cross, center, shared_covariance, beta = state
    p, c_z, c_r = tf.gather(covariance, arm), tf.gather(cross, arm), tf.gather(center, arm)
    p = forget(p, config.forgetting, config.arm_precision)
    shared_covariance = forget(shared_covariance, config.forgetting, config.shared_precision)
    direction = tf.linalg.matvec(p, x)  # [D]
    scale = 1.0 + tf.tensordot(x, direction, 1)
    gain = direction / scale
    rest = z - tf.linalg.matvec(c_z, x, transpose_a=True)  # [K]
    residual = reward - tf.tensordot(x, c_r, 1)
    shared_direction = tf.linalg.matvec(shared_covariance, rest)  # [K]
    shared_scale = scale + tf.tensordot(rest, shared_direction, 1)
    where = [[arm]]
    return (
        tf.tensor_scatter_nd_update(covariance, where, (p - gain[:, tf.newaxis] * direction)[tf.newaxis]),
        tf.tensor_scatter_nd_update(cross, where, (c_z + gain[:, tf.newaxis] * rest)[tf.newaxis]),
        tf.tensor_scatter_nd_update(center, where, (c_r + gain * residual)[tf.newaxis]),
        shared_covariance - shared_direction[:, tf.newaxis] * shared_direction / shared_scale,
        beta + shared_direction * (residual - tf.tensordot(rest, beta, 1)) / shared_scale,
    )


def make_linucb_hybrid(
    spec: Any, action_spec: Any, config: HybridLinUCBConfig, arms: ItemFeatures | None = None, seed: int = 0
) -> BanditAgent:
    """Return a hybrid LinUCB agent that starts as the rating model."""
    pairs = require_pair_features(arms, spec, "linucb_hybrid")
    learner = HybridLinUCB(pairs, int(action_spec.maximum) + 1, context_width(spec), config)
    return BanditAgent(spec, action_spec, learner, seed=seed)
