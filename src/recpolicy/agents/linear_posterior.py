"""Bayesian linear regression per arm, updated one observation at a time.

A arms, D features. Each arm keeps theta [D] (posterior mean) and P [D, D] (posterior covariance over noise variance,
the inverse of LinUCB's A). One observation (x, r) of arm a is a Sherman-Morrison step, also known as recursive least
squares: g = P x / (1 + x'Px); theta += g (r - x.theta); P <- P - g (Px)'. With theta_0 = m and P_0 = I / precision this
is ridge regression toward m. Source: Li et al. 2010 (WWW), algorithm 1; Sherman & Morrison 1950.

A forgetting factor f < 1 first moves P towards the prior: P <- f P + (1 - f) P_0. The estimate stays; its uncertainty
returns to the prior's, in directions that are not observed, too. P never exceeds P_0: both terms and the step keep
P <= P_0. Dividing P by f instead lets unobserved directions grow without bound. Source: stabilized linear forgetting,
Milek & Kraus 1995; docs/decisions/0020-learning-that-stays-finite.md.
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.models.recursive_regression import fold_batch


class Posterior(tf.Module):
    """The variables of A independent linear regressions."""

    def __init__(self, prior_mean: NDArray[np.float32], precision: float, name: str):
        super().__init__(name=name)
        arms, features = prior_mean.shape
        self._precision = precision
        self.theta = tf.Variable(prior_mean, trainable=False, name=f"{name}/theta")  # [A, D]
        covariance = np.broadcast_to(np.eye(features, dtype=np.float32) / precision, (arms, features, features))
        self.covariance = tf.Variable(covariance, trainable=False, name=f"{name}/covariance")  # [A, D, D]

    def update(self, arm: tf.Tensor, features: tf.Tensor, reward: tf.Tensor, forgetting: float = 1.0) -> tf.Tensor:
        """Take in a batch in its order (arm [B], features [B, D], reward [B]); returns the squared error before."""
        theta, covariance = self.theta.read_value(), self.covariance.read_value()
        guess = tf.einsum("bd,bd->b", tf.gather(theta, arm), features)
        theta, covariance = fold_batch(theta, covariance, arm, features, reward, forgetting, self._precision)
        self.theta.assign(theta)
        self.covariance.assign(covariance)
        return tf.reduce_mean(tf.square(reward - guess))


def means(theta: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Return the expected rewards [B, A] at x [B, D]."""
    return tf.matmul(x, theta, transpose_b=True)


def widths(covariance: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Return sqrt(x' P_a x) [B, A] for every arm: one product over the T = D (D + 1) / 2 triangle entries."""
    arms, size, _ = covariance.shape
    row, column = np.triu_indices(size)
    outer = tf.gather(x, row, axis=1) * tf.gather(x, column, axis=1)  # [B, T]
    triangle = tf.gather(tf.reshape(covariance, [arms, size * size]), row * size + column, axis=1)  # [A, T]
    triangle *= np.where(row == column, 1.0, 2.0).astype(np.float32)
    return tf.sqrt(tf.maximum(tf.matmul(outer, triangle, transpose_b=True), 0.0))


def with_bias(context: tf.Tensor) -> tf.Tensor:
    """Append the constant 1 to each context: [B, D + 1]."""
    return tf.concat([context, tf.ones_like(context[:, :1])], axis=-1)
