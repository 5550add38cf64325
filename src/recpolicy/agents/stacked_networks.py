"""Several small networks of equal shape as one: a layer of all N members is one batched matrix product.

B rows, N members, F inputs, O outputs. Twin critics of two rewards with their actors are many tiny networks, whose
single products cost more in overhead than in arithmetic.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from recpolicy.core.seeds import generator


class StackedNetworks(tf.Module):
    """N ReLU networks [B, F] -> [N, B, O]; `small` scales the last layer at the start."""

    def __init__(
        self, members: int, inputs: int, layers: Sequence[int], outputs: int, seed: int, name: str, small: float = 1.0
    ):
        super().__init__(name=name)
        self._sizes, self._members, self._small = [inputs, *layers, outputs], members, small
        arrays = self._fresh(seed)
        self.kernels = [tf.Variable(part, name=f"kernel_{i}") for i, part in enumerate(arrays)]
        self.biases = [
            tf.Variable(tf.zeros([members, 1, size]), name=f"bias_{i}") for i, size in enumerate(self._sizes[1:])
        ]

    def __call__(self, inputs: tf.Tensor) -> tf.Tensor:
        """Return the outputs [N, B, O] for inputs [B, F] of all members, or [N, B, F] of each."""
        values = inputs if len(inputs.shape) == 3 else inputs[tf.newaxis]
        for place, (kernel, bias) in enumerate(zip(self.kernels, self.biases, strict=True)):
            values = tf.matmul(values, kernel) + bias
            if place < len(self.kernels) - 1:
                values = tf.nn.relu(values)
        return values

    def restart(self, seed: int) -> None:
        """Assign fresh weights: the same variables serve the next training in the same compiled program."""
        for kernel, array in zip(self.kernels, self._fresh(seed), strict=True):
            kernel.assign(array)
        for bias in self.biases:
            bias.assign(tf.zeros_like(bias))

    def copy_from(self, other: "StackedNetworks", rate: float = 1.0) -> None:
        """Move the weights toward those of `other` by the share `rate`: w <- (1 - rate) w + rate other."""
        for mine, theirs in zip(self.weights, other.weights, strict=True):
            mine.assign((1.0 - rate) * mine + rate * theirs)

    @property
    def weights(self) -> list[tf.Variable]:
        """All variables."""
        return [*self.kernels, *self.biases]

    def _fresh(self, seed: int) -> list[np.ndarray]:
        """Return He-uniform kernels [N, in, out]."""
        rng = generator(seed, f"stacked/{self.name}")
        kernels = []
        for place, (inputs, outputs) in enumerate(zip(self._sizes, self._sizes[1:], strict=False)):
            bound = np.sqrt(6.0 / inputs) * (self._small if place == len(self._sizes) - 2 else 1.0)
            kernels.append(rng.uniform(-bound, bound, (self._members, inputs, outputs)).astype(np.float32))
        return kernels
