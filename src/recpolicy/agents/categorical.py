"""The softmax policy over masked logits as pure functions: sampling, log-probabilities, entropy, divergence.

logits [B, A] are MASKED where an action is not allowed, so its probability and its gradient are exactly 0.
"""

import math

import numpy as np
import tensorflow as tf

MASKED = -1e9
"""Finite, so that 0 * log 0 stays 0 in gradients; exp(MASKED - max) is exactly 0 in float32."""
_BELOW_ONE = 1.0 - 2.0**-23


def mask_logits(logits: tf.Tensor, mask: tf.Tensor | None) -> tf.Tensor:
    """Return logits with MASKED where `mask` is false."""
    return logits if mask is None else tf.where(mask, logits, MASKED)


def draw(logits: tf.Tensor, point: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return actions [B] int32 of softmax(logits) at uniform points [B], and their log-probabilities [B].

    We search the distribution function in two levels of sqrt(A) blocks: first a block, then an action in it. This
    avoids the prefix sum over all actions. An action of probability 0 is never drawn.
    """
    actions = logits.shape[1]
    size = math.isqrt(actions - 1) + 1
    blocks = -(-actions // size)
    top = row_max(logits)
    rest = [[0, 0], [0, blocks * size - actions]]
    padded = tf.reshape(tf.pad(logits, rest, constant_values=MASKED), [-1, blocks, size])
    mass = tf.reduce_sum(tf.exp(padded - top[:, :, tf.newaxis]), axis=2)  # [B, blocks]
    block, before, total = _search(mass, point[:, tf.newaxis], None)
    # Recomputing one block's exponentials is cheaper than storing those of all blocks.
    inside = tf.exp(tf.gather(padded, block, batch_dims=1) - top)  # [B, size]
    within, _, _ = _search(inside, point[:, tf.newaxis] * total - before, total)
    action = block * size + within
    chosen = tf.gather(logits, action, batch_dims=1)
    return action, chosen - top[:, 0] - tf.math.log(total[:, 0])


def draw_slate(logits: tf.Tensor, points: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Draw slates without replacement, place by place, from softmax(logits) [B, A] at uniform points [B, K].

    Returns the actions [B, K] int32 and the log-probability [B, K] of each, given those before it; the sum is that of
    the slate (Plackett-Luce). At least K actions must be allowed.
    """
    places = []
    for point in tf.unstack(points, axis=1):
        action, log_probability = draw(logits, point)
        places.append((action, log_probability))
        logits = tf.where(action[:, tf.newaxis] == tf.range(logits.shape[1]), MASKED, logits)
    actions, log_probabilities = zip(*places, strict=True)
    return tf.stack(actions, axis=1), tf.stack(log_probabilities, axis=1)


def _search(mass: tf.Tensor, point: tf.Tensor, whole: tf.Tensor | None) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Return the first entry [B] whose prefix sum exceeds the point, the mass before it [B, 1] and the total [B, 1].

    `point` is a share of the total if `whole` is None, else a mass.
    """
    count = mass.shape[1]
    prefix = tf.matmul(mass, tf.constant(np.triu(np.ones((count, count), np.float32))))
    possible = mass > 0.0
    total = tf.reduce_max(tf.where(possible, prefix, 0.0), axis=1, keepdims=True)
    # Rounding may put the point at or above the last prefix sum; moved just below it, there is always an entry.
    target = tf.minimum(point * total if whole is None else point, total * _BELOW_ONE)
    index = tf.reduce_min(tf.where(possible & (prefix > target), tf.range(count), count), axis=1)
    return index, tf.gather(prefix - mass, index, batch_dims=1)[:, tf.newaxis], total


def row_max(table: tf.Tensor) -> tf.Tensor:
    """Return the largest entry of each row [B, 1] of float32 `table` [B, A], without gradient.

    We compare the bits as integers in the order of the floats: XLA compiles that on CPUs to code three times as fast as
    its maximum of floats, which minds NaN.
    """
    return _ordered(tf.reduce_max(_ordered(tf.bitcast(table, tf.int32)), axis=1, keepdims=True), tf.float32)


def _ordered(bits: tf.Tensor, kind: tf.DType = tf.int32) -> tf.Tensor:
    """Map the bits of floats to integers of the same order, or back: negative floats count downwards."""
    flipped = tf.bitwise.bitwise_and(tf.bitwise.right_shift(bits, 31), tf.int32.max)
    return tf.bitcast(tf.bitwise.bitwise_xor(bits, flipped), kind)


def log_probability(logits: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """Return log softmax(logits) [B] of `action` [B]."""
    return at(tf.nn.log_softmax(logits), action)


def log_probability_and_entropy(logits: tf.Tensor, action: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return log softmax(logits) [B] of `action` [B] and the entropy [B] in nats, over one pass of the exponentials."""
    shifted = logits - row_max(logits)
    weight = tf.exp(shifted)
    total = tf.reduce_sum(weight, axis=1)
    log_total = tf.math.log(total)
    # A masked action has weight 0 and a shifted logit that is huge but finite: their product is 0.
    entropy = log_total - tf.reduce_sum(weight * shifted, axis=1) / total
    return at(shifted, action) - log_total, entropy


def at(table: tf.Tensor, action: tf.Tensor) -> tf.Tensor:
    """Return the entries [B] of `table` [B, A] at `action` [B]; a gather's gradient would be a slow scatter."""
    chosen = action[:, tf.newaxis] == tf.range(table.shape[1])
    return tf.reduce_sum(tf.where(chosen, table, 0.0), axis=1)
