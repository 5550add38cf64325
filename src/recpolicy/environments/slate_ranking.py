"""The ranking formula in TensorFlow: utilities and slates inside of compiled loops.

B requests, A items, H heads, K places. models/ranking_formula.py has the same in NumPy, with heads [B, A, H]. Here the
heads come first, because such sums are quicker. A test holds both forms equal.
"""

import tensorflow as tf


def utility(
    heads: tf.Tensor, weights: tf.Tensor, base: tf.Tensor | None = None, eligible: tf.Tensor | None = None
) -> tf.Tensor:
    """Return U [B, A], -inf for items that are not eligible.

    Args:
        heads: [B, H, A], scaled.
        weights: [B, H].
        base: [B, A], the part of U without a weight.
        eligible: [B, A] bool, such as items whose value reaches the reserve.
    """
    total = tf.reduce_sum(heads * weights[:, :, tf.newaxis], axis=1)
    total = total if base is None else total + base
    return total if eligible is None else tf.where(eligible, total, float("-inf"))


def best_items(score: tf.Tensor, k: int) -> tf.Tensor:
    """Return the k items [B, K] of highest scores [B, A], best first; of equal scores the first item, -1 for -inf.

    Repeated maxima: where other results depend on it, XLA compiles `top_k` to a sort of all items, ten times as slow.
    """
    items, chosen = tf.range(score.shape[1]), []
    for _ in range(k):
        highest = tf.reduce_max(score, axis=1, keepdims=True)
        best = tf.reduce_min(tf.where(score == highest, items, score.shape[1]), axis=1)
        chosen.append(tf.where(tf.math.is_inf(highest[:, 0]), -1, best))
        score = tf.where(items == best[:, tf.newaxis], float("-inf"), score)
    return tf.stack(chosen, axis=1)
