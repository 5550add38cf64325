"""Action distributions: turn estimates into the probability of each action.

mean, width and the returned probabilities are [B, A]; mask is [B, A] bool or None. Rows sum to 1, masked arms get
exactly 0, and tied arms get equal shares, so a policy reports the exact probability of its action.
recpolicy/inference/action_distributions.py has the same functions in NumPy; tests/inference/test_numpy_distributions.py
compares them.
"""

import math

import tensorflow as tf

from recpolicy.core import tensorflow_random

_QUADRATURE = 64
"""Cells of the Thompson integral; with 64 the probabilities are within 5e-4
(tests/agents/test_action_distributions.py)."""
_TAIL = 5.0


def masked(scores: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Return scores [B, A] with -inf where an action is not allowed."""
    return scores if mask is None else tf.where(mask, scores, tf.constant(-float("inf"), scores.dtype))


def uniform(like: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Return equal probabilities for all allowed actions."""
    allowed = tf.ones_like(like) if mask is None else tf.cast(mask, like.dtype)
    return allowed / tf.reduce_sum(allowed, axis=-1, keepdims=True)


def greedy(scores: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Return probability 1 for the best-scored action; exact ties share it equally."""
    scores = masked(scores, mask)
    best = tf.cast(scores >= tf.reduce_max(scores, axis=-1, keepdims=True), scores.dtype)
    return best / tf.reduce_sum(best, axis=-1, keepdims=True)


def upper_confidence(mean: tf.Tensor, width: tf.Tensor, alpha: float, mask: tf.Tensor | None) -> tf.Tensor:
    """Return the greedy distribution over mean + alpha * width."""
    return greedy(mean + alpha * width, mask)


def epsilon_greedy(mean: tf.Tensor, epsilon: float, mask: tf.Tensor | None) -> tf.Tensor:
    """Return the mixture: uniform with probability epsilon, else greedy. Both parts include the greedy action."""
    return epsilon * uniform(mean, mask) + (1.0 - epsilon) * greedy(mean, mask)


def boltzmann(mean: tf.Tensor, temperature: float, mask: tf.Tensor | None) -> tf.Tensor:
    """Return the softmax of mean / temperature."""
    return tf.nn.softmax(masked(mean / temperature, mask), axis=-1)


def squarecb(mean: tf.Tensor, gamma: tf.Tensor | float, mask: tf.Tensor | None) -> tf.Tensor:
    """Return 1 / (allowed + gamma (best - mean)) for each action but the best, which gets the rest; ties share it."""
    scores = masked(mean, mask)
    gap = tf.reduce_max(scores, axis=-1, keepdims=True) - scores  # infinite where masked
    best = gap <= 0.0
    allowed = tf.reduce_sum(tf.cast(tf.math.is_finite(gap), mean.dtype), axis=-1, keepdims=True)
    zero = tf.zeros_like(gap)
    others = tf.where(best, zero, 1.0 / (allowed + tf.where(best, zero, gamma * gap)))
    others = tf.where(tf.math.is_finite(gap), others, zero)  # gamma may be 0
    rest = 1.0 - tf.reduce_sum(others, axis=-1, keepdims=True)
    return tf.where(best, rest / tf.reduce_sum(tf.cast(best, mean.dtype), axis=-1, keepdims=True), others)


def thompson(mean: tf.Tensor, width: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Return P(arm has the largest draw) for independent draws N(mean, width^2), as in Thompson sampling.

    The largest draw has the distribution function F = prod_a Phi_a, so dF = F sum_a d(log Phi_a): each grid cell
    divides its increase of F among the arms in proportion to the increase of their log Phi. The grid starts uniform and
    is refined twice where F increases. This finds arms a thousand times narrower than others.
    """
    width = tf.maximum(width, 1e-6)
    low = tf.reduce_max(masked(mean - _TAIL * width, mask), axis=-1, keepdims=True)  # the maximum is hardly below it
    high = tf.reduce_max(masked(mean + _TAIL * width, mask), axis=-1, keepdims=True)
    steps = tf.cast(tf.linspace(0.0, 1.0, _QUADRATURE + 1), mean.dtype)
    edges = low + (high - low) * steps  # [B, G + 1]
    for _ in range(2):
        below = tf.exp(tf.reduce_sum(_log_below(edges, mean, width, mask), axis=1))  # [B, G + 1]
        # Squared: log Phi curves most where F is small, so the grid is densest there.
        edges = tf.concat([low, _inverse(tf.square(steps[1:-1]), below, edges), high], axis=-1)
    log_below = _log_below(edges, mean, width, mask)  # [B, A, G + 1]
    growth = log_below[..., 1:] - log_below[..., :-1]  # [B, A, G]
    below = tf.exp(tf.reduce_sum(log_below, axis=1))
    per_growth = tf.math.divide_no_nan(below[:, 1:] - below[:, :-1], tf.reduce_sum(growth, axis=1))  # [B, G]
    mass = tf.linalg.matvec(growth, per_growth)  # [B, A]
    return mass / tf.reduce_sum(mass, axis=-1, keepdims=True)


def with_uniform_mix(probabilities: tf.Tensor, uniform_mix: float, mask: tf.Tensor | None) -> tf.Tensor:
    """Mix with the uniform policy: every allowed action gets at least uniform_mix / allowed."""
    return (
        probabilities
        if not uniform_mix
        else (1.0 - uniform_mix) * probabilities + uniform_mix * uniform(probabilities, mask)
    )


def sample(probabilities: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Return actions [B] int32 drawn from the rows; `seed` int32 [2]. An action of probability 0 is never drawn."""
    return pick(probabilities, tensorflow_random.uniform([tf.shape(probabilities)[0], 1], seed))


def pick(probabilities: tf.Tensor, point: tf.Tensor) -> tf.Tensor:
    """Return the actions [B] int32 at the points [B, 1], in [0, 1), of the rows' distribution functions."""
    below = tf.cumsum(probabilities, axis=-1)  # [B, A]
    possible = probabilities > 0.0
    # XLA computes prefix sums in a tree, so rounding errors can increase them where the probability is 0. Hence we
    # count only possible actions and keep the point below their largest prefix sum.
    total = tf.reduce_max(tf.where(possible, below, 0.0), axis=-1, keepdims=True)
    actions = tf.range(tf.shape(probabilities)[1])
    return tf.reduce_min(tf.where(possible & (below > point * total), actions, actions.dtype.max), axis=-1)


def _log_below(z: tf.Tensor, mean: tf.Tensor, width: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Return log Phi((z - mean) / width) [B, A, G] at z [B, G], floored at log 1e-30; 0 for masked arms."""
    standard = (z[:, tf.newaxis, :] - mean[..., tf.newaxis]) / width[..., tf.newaxis]
    log_below = tf.math.log(tf.maximum(0.5 * tf.math.erfc(standard * -math.sqrt(0.5)), 1e-30))
    return log_below if mask is None else tf.where(mask[..., tf.newaxis], log_below, tf.zeros_like(log_below))


def _inverse(wanted: tf.Tensor, values: tf.Tensor, at: tf.Tensor) -> tf.Tensor:
    """Return the points [B, Q] where the increasing piecewise linear functions through (at, values) equal `wanted`."""
    last = tf.reduce_sum(tf.cast(values[:, tf.newaxis, :] <= wanted[:, tf.newaxis], tf.int32), axis=-1) - 1  # [B, Q]
    left = tf.clip_by_value(last, 0, tf.shape(values)[1] - 2)

    def pick(table: tf.Tensor, index: tf.Tensor) -> tf.Tensor:
        return tf.gather(table, index, batch_dims=1)

    value, start = pick(values, left), pick(at, left)
    share = tf.math.divide_no_nan(wanted - value, pick(values, left + 1) - value)
    return start + tf.clip_by_value(share, 0.0, 1.0) * (pick(at, left + 1) - start)
