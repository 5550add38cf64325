"""Uniform random numbers that are the same everywhere: eager, in a graph, compiled by XLA.

TensorFlow's stateless integers are; its stateless floats are not (measured with TensorFlow 2.20 on the CPU). Stepping
an environment and compiling it must give the same rounds, so floats are made from integers here.
"""

from typing import Any

import tensorflow as tf


def uniform(shape: Any, seed: tf.Tensor) -> tf.Tensor:
    """Floats in [0, 1), multiples of 2^-24; `seed` int32 [2]."""
    bits = tf.random.stateless_uniform(shape, seed, None, None, tf.uint32)
    return tf.cast(tf.bitwise.right_shift(bits, tf.constant(8, tf.uint32)), tf.float32) * 2.0**-24
