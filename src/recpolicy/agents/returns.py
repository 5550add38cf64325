"""Returns and advantages of blocks of steps, as pure functions; all [T, B], time first.

A block may hold several sessions one after the other: `terminated` and `truncated` mark their ends. Sources: Sutton &
Barto 2018, chapters 6 and 12; Schulman et al. 2015 (generalized advantage estimation, 1506.02438).
"""

from typing import NamedTuple

import tensorflow as tf


class Advantages(NamedTuple):
    """Advantages of the actions and targets of the value network."""

    advantage: tf.Tensor  # [T, B]
    target: tf.Tensor  # [T, B], value + advantage


def td_errors(
    reward: tf.Tensor, value: tf.Tensor, next_value: tf.Tensor, terminated: tf.Tensor, gamma: float
) -> tf.Tensor:
    """Return delta_t = r_t + gamma V(s_t+1) - V(s_t), with V(s_t+1) = 0 after termination but not after truncation."""
    return reward + gamma * tf.where(terminated, 0.0, next_value) - value


def discounted_sums(term: tf.Tensor, go_on: tf.Tensor) -> tf.Tensor:
    """Return y_t = term_t + go_on_t y_t+1, with y_T = 0, by doubling: log2 T steps instead of T steps."""
    steps, reach = term.shape[0], 1
    while reach < steps:
        beyond = tf.zeros_like(term[:reach])
        term += go_on * tf.concat([term[reach:], beyond], axis=0)
        go_on *= tf.concat([go_on[reach:], beyond], axis=0)
        reach *= 2
    return term


def generalized_advantages(
    reward: tf.Tensor,
    value: tf.Tensor,
    next_value: tf.Tensor,
    terminated: tf.Tensor,
    truncated: tf.Tensor,
    gamma: float,
    gae_lambda: float,
) -> Advantages:
    """Return A_t = sum_k (gamma lambda)^k delta_t+k within each session; `gae_lambda` is lambda.

    Lambda 0 gives the one-step errors. Lambda 1 gives n-step returns minus values: rewards count until the session or
    block ends, and the value estimate replaces the rest. With short blocks that is A2C's advantage, with whole sessions
    the Monte Carlo one.
    """
    delta = td_errors(reward, value, next_value, terminated, gamma)
    go_on = gamma * gae_lambda * tf.cast(~(terminated | truncated), tf.float32)
    advantage = discounted_sums(delta, go_on)
    return Advantages(advantage, advantage + value)


def standardize(values: tf.Tensor, weight: tf.Tensor | None = None) -> tf.Tensor:
    """Scale to mean 0 and standard deviation 1 over entries of weight 1; constant input gives zeros."""
    weight = tf.ones_like(values) if weight is None else weight
    count = tf.maximum(tf.reduce_sum(weight), 1.0)
    centered = values - tf.reduce_sum(weight * values) / count
    deviation = tf.sqrt(tf.reduce_sum(weight * tf.square(centered)) / count)
    return tf.where(deviation > 1e-6, centered / tf.maximum(deviation, 1e-6), 0.0)


def explained_variance(predicted: tf.Tensor, target: tf.Tensor) -> tf.Tensor:
    """Return 1 - Var(target - predicted) / Var(target); 0 for a constant target."""
    variance = tf.math.reduce_variance(target)
    rest = tf.math.reduce_variance(target - predicted)
    return tf.where(variance > 1e-8, 1.0 - rest / tf.maximum(variance, 1e-8), 0.0)
