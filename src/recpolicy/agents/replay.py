"""A replay buffer in variables: a compiled loop writes blocks into it and draws batches from it.

C blocks of N steps; O observation, A actions.
"""

from typing import NamedTuple

import tensorflow as tf

from recpolicy.agents.experience import Experience, flatten
from recpolicy.core.tensorflow_random import uniform


class Batch(NamedTuple):
    """A batch of single steps drawn from the replay buffer, [n, ...]."""

    observation: tf.Tensor  # [n, O]
    action: tf.Tensor  # [n]
    reward: tf.Tensor  # [n]
    terminated: tf.Tensor  # [n] bool
    next_observation: tf.Tensor  # [n, O]
    next_mask: tf.Tensor  # [n, A] bool


class Replay(tf.Module):
    """A ring buffer of the last C blocks."""

    def __init__(self, blocks: int, steps: int, width: int, actions: int):
        super().__init__(name="replay")

        def ring(kind: tf.DType, *shape: int) -> tf.Variable:
            return tf.Variable(tf.zeros([blocks, steps, *shape], kind), trainable=False)

        self._rings = (
            ring(tf.float32, width), ring(tf.int32), ring(tf.float32), ring(tf.bool), ring(tf.float32, width),
            ring(tf.bool, actions),
        )  # fmt: skip
        self._blocks, self._steps = blocks, steps
        self.written = tf.Variable(0, trainable=False, name="written")

    def write(self, experience: Experience) -> None:
        """Write a block."""
        place = self.written % self._blocks
        parts = (
            experience.observation, experience.action, experience.reward, experience.terminated,
            experience.next_observation, experience.next_mask,
        )  # fmt: skip
        for ring, part in zip(self._rings, parts, strict=True):
            ring.scatter_update(tf.IndexedSlices(flatten(part)[tf.newaxis], place[tf.newaxis]))
        self.written.assign_add(1)

    def draw(self, size: int, seed: tf.Tensor) -> Batch:
        """Draw `size` steps uniformly, with replacement, from all that is in."""
        filled = tf.minimum(self.written, self._blocks) * self._steps
        row = tf.cast(uniform([size], seed) * tf.cast(filled, tf.float32), tf.int32)
        flat = [tf.reshape(ring, [self._blocks * self._steps, *ring.shape[2:]]) for ring in self._rings]
        return Batch(*(tf.gather(ring, tf.minimum(row, filled - 1)) for ring in flat))
