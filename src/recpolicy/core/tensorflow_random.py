"""Draw random numbers that are equal in eager mode, in a graph and compiled by XLA.

TensorFlow's stateless operations promise that only with a named algorithm (its automatic choice reads negative seeds
differently under XLA), and then for integers only, not for floats (measured with TensorFlow 2.20 on the CPU). Stepping
an environment and compiling it must give the same rounds, so everything random about a round comes from here.
Every `seed` is int32 [2].
"""

from typing import Any

import tensorflow as tf

_ALGORITHM = "philox"


def fold_in(seed: tf.Tensor, number: tf.Tensor) -> tf.Tensor:
    """Return the seed of a numbered member of a family."""
    return tf.random.experimental.stateless_fold_in(seed, tf.cast(number, tf.int32), alg=_ALGORITHM)


def split(seed: tf.Tensor, parts: int) -> list[tf.Tensor]:
    """Return independent seeds."""
    return tf.unstack(tf.random.split(seed, parts, alg=_ALGORITHM))


def as_stateless_seed(seed_or_number: Any, family: tf.Tensor) -> tf.Tensor:
    """Return a stateless seed from the seed argument of a TF-Agents policy: a pair, or a member of `family`.

    The member is drawn by the given integer or, without one, by TensorFlow's global (seeded) generator.
    """
    if isinstance(seed_or_number, tf.Tensor) and seed_or_number.shape == (2,):
        return seed_or_number
    number = tf.random.uniform(
        [], maxval=2**31 - 1, dtype=tf.int32, seed=seed_or_number if isinstance(seed_or_number, int) else None
    )
    return fold_in(family, number)


def integers(shape: Any, seed: tf.Tensor, low: int, high: int) -> tf.Tensor:
    """Return uniform int32 in low..high - 1."""
    return tf.random.stateless_uniform(shape, seed, low, high, tf.int32, alg=_ALGORITHM)


def uniform(shape: Any, seed: tf.Tensor) -> tf.Tensor:
    """Return uniform floats in [0, 1), multiples of 2^-24."""
    bits = tf.random.stateless_uniform(shape, seed, None, None, tf.uint32, alg=_ALGORITHM)
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24
