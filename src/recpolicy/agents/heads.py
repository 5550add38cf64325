"""From estimates to the probability of each action: the stochastic heads.

mean, width and the returned probabilities are [B, A]; mask is [B, A] bool or None. Rows sum to 1, masked arms get
exactly 0, and ties share alike, so the probability that a policy reports is the one with which it acts.
recpolicy/serving/heads.py holds the same heads in NumPy; tests/serving/test_heads.py holds the two together.
"""

import math

import numpy as np
import tensorflow as tf

_QUADRATURE = 128
"""Points of the Thompson integral; with 128 the probabilities are within 2e-3 of sampling (tests/agents/test_heads.py)."""
_TAIL = 5.0


def masked(scores: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Scores [B, A] with -inf where an action is not allowed."""
    return scores if mask is None else tf.where(mask, scores, -float("inf"))


def uniform(like: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """All allowed actions alike."""
    allowed = tf.ones_like(like) if mask is None else tf.cast(mask, like.dtype)
    return allowed / tf.reduce_sum(allowed, axis=-1, keepdims=True)


def greedy(scores: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """The best-scored action; exact ties share its probability."""
    scores = masked(scores, mask)
    best = tf.cast(scores >= tf.reduce_max(scores, axis=-1, keepdims=True), tf.float32)
    return best / tf.reduce_sum(best, axis=-1, keepdims=True)


def upper_confidence(mean: tf.Tensor, width: tf.Tensor, alpha: float, mask: tf.Tensor | None) -> tf.Tensor:
    """Greedy in mean + alpha * width."""
    return greedy(mean + alpha * width, mask)


def epsilon_greedy(mean: tf.Tensor, epsilon: float, mask: tf.Tensor | None) -> tf.Tensor:
    """Uniform with probability epsilon, else greedy; the greedy action can be drawn by both."""
    return epsilon * uniform(mean, mask) + (1.0 - epsilon) * greedy(mean, mask)


def boltzmann(mean: tf.Tensor, temperature: float, mask: tf.Tensor | None) -> tf.Tensor:
    """Softmax of mean / temperature."""
    return tf.nn.softmax(masked(mean / temperature, mask), axis=-1)


def thompson(mean: tf.Tensor, width: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """P(arm has the largest draw) for independent draws N(mean, width^2): Thompson sampling's true probabilities.

    P(a) = integral of phi_a(z) prod_{b != a} Phi_b(z) dz, as the sum over cells of [Phi_a(z') - Phi_a(z)] times the
    others' product at the middle; exact for arms narrower than a cell too, and normalised at the end.
    """
    width = tf.maximum(width, 1e-6)
    low = tf.reduce_max(masked(mean - _TAIL * width, mask), axis=-1, keepdims=True)  # below it the best is improbable
    high = tf.reduce_max(masked(mean + _TAIL * width, mask), axis=-1, keepdims=True)
    edges = low + (high - low) * tf.linspace(0.0, 1.0, _QUADRATURE + 1)  # [B, G + 1]
    middles = 0.5 * (edges[:, 1:] + edges[:, :-1])  # [B, G]

    def standard(z: tf.Tensor) -> tf.Tensor:
        return (z[:, tf.newaxis, :] - mean[..., tf.newaxis]) / width[..., tf.newaxis]  # [B, A, ...]

    cells = tf.experimental.numpy.diff(_normal_cdf(standard(edges)), axis=-1)  # [B, A, G]
    log_below = tf.math.log(tf.maximum(_normal_cdf(standard(middles)), 1e-30))  # [B, A, G]
    if mask is not None:
        log_below = tf.where(mask[..., tf.newaxis], log_below, 0.0)
    others = tf.reduce_sum(log_below, axis=1, keepdims=True) - log_below  # [B, A, G]
    mass = tf.reduce_sum(cells * tf.exp(others), axis=-1)  # [B, A]
    mass = mass if mask is None else tf.where(mask, mass, 0.0)
    return mass / tf.reduce_sum(mass, axis=-1, keepdims=True)


def with_floor(probabilities: tf.Tensor, floor: float, mask: tf.Tensor | None) -> tf.Tensor:
    """Mix with the uniform policy: every allowed action gets at least floor / allowed."""
    return probabilities if not floor else (1.0 - floor) * probabilities + floor * uniform(probabilities, mask)


def sample(probabilities: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Actions [B] int32 drawn from the rows; `seed` int32 [2]. An action of probability 0 is never drawn."""
    below = tf.cumsum(probabilities, axis=-1)  # [B, A]
    # uniform is in [0, 1); scaling by the row's own sum keeps rounding from pointing past the last action.
    point = tf.random.stateless_uniform([tf.shape(probabilities)[0], 1], seed) * below[:, -1:]
    return tf.reduce_sum(tf.cast(below <= point, tf.int32), axis=-1)


def _normal_cdf(z: tf.Tensor) -> tf.Tensor:
    return 0.5 * tf.math.erfc(-z * np.float32(1.0 / math.sqrt(2.0)))
