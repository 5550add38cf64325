"""One observation at a time: Sherman-Morrison steps of Bayesian linear regressions, in TensorFlow.

One observation (x, r) of a regression with posterior mean theta [D] and covariance P [D, D] over the noise variance
gives g = P x / (1 + x'Px); theta += g (r - x.theta); P <- P - g (Px)'. Forgetting first moves P towards the prior:
P <- f P + (1 - f) I / precision. models/user_posterior.py has the step in NumPy and float64. B batch, A regressions, D
features. Sources: Sherman & Morrison 1950; stabilized linear forgetting, Milek & Kraus 1995.
"""

import tensorflow as tf


def fold_batch(
    theta: tf.Tensor, covariance: tf.Tensor, arm: tf.Tensor, features: tf.Tensor, reward: tf.Tensor,
    forgetting: float = 1.0, precision: float = 1.0,
) -> tuple[tf.Tensor, tf.Tensor]:  # fmt: skip
    """Update the posteriors with a batch, row after row; return the new theta [A, D] and covariance [A, D, D]."""

    def one(row: tf.Tensor, theta: tf.Tensor, covariance: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        # tf.gather, not [row]: XLA spends seconds on folding a slice's start at compile time, at every call.
        a, x = tf.gather(arm, row), tf.gather(features, row)
        before = forget(tf.gather(covariance, a), forgetting, precision)
        new_theta, new_covariance = recursive_step(tf.gather(theta, a), before, x, tf.gather(reward, row))
        theta = tf.tensor_scatter_nd_update(theta, [[a]], new_theta[tf.newaxis])
        covariance = tf.tensor_scatter_nd_update(covariance, [[a]], new_covariance[tf.newaxis])
        return row + 1, theta, covariance

    rows = tf.shape(arm)[0]
    _, theta, covariance = tf.while_loop(lambda row, *_: row < rows, one, (tf.constant(0), theta, covariance))
    return theta, covariance


def forget(covariance: tf.Tensor, forgetting: float, precision: float) -> tf.Tensor:
    """Return f P + (1 - f) I / precision for a covariance [D, D]; P itself for f = 1."""
    if forgetting == 1:
        return covariance
    return forgetting * covariance + (1.0 - forgetting) / precision * tf.eye(covariance.shape[-1])


def recursive_step(
    theta: tf.Tensor, covariance: tf.Tensor, x: tf.Tensor, reward: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Update one arm with one observation: theta [D], covariance [D, D], x [D], reward scalar."""
    direction = tf.linalg.matvec(covariance, x)  # [D]
    gain = direction / (1.0 + tf.tensordot(x, direction, 1))  # [D]
    theta = theta + gain * (reward - tf.tensordot(x, theta, 1))
    return theta, covariance - gain[:, tf.newaxis] * direction[tf.newaxis, :]
