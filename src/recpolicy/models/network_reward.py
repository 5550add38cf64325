"""Neural reward models of pairs in NumPy: dense layers over [context, action], and a linear posterior over features.

C context features, D action features, k pairs. The first layer is linear in both parts, so it is computed once per
context and once per action. Hidden layers have ReLU, and layer normalization before it where the arrays `gain_i` and
`shift_i` exist: (z - mean(z)) / sqrt(var(z) + EPSILON) * gain + shift. Batch normalization and embeddings of categories
are parts of the kernels. recpolicy/training/feature_networks.py trains the layers. Source of layer normalization: Ba,
Kiros & Hinton 2016 (1607.06450).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.core.types import Array
from recpolicy.models.bilinear import BilinearModel, check_shape, rows_as_pairs
from recpolicy.models.reward_model import Arrays, PairEstimate, Pairs

EPSILON = 1e-3
"""Added to the variance by both normalizations."""
MAX_LAYERS = 32
_BLOCK = 1 << 22


def apply_layers(layers: Arrays, pairs: Pairs) -> Array:
    """Return the outputs [k, E] of the network for the pairs."""
    count = count_layers(layers)
    first, width = layers["kernel_0"], pairs.context.shape[1]
    of_context = pairs.context @ first[:width] + layers["bias_0"]  # [n, H]
    of_action = pairs.action @ first[width:]  # [m, H]
    largest = max(layers[f"kernel_{index}"].shape[1] for index in range(count))
    size = max(1, _BLOCK // largest)
    parts = []
    for start in range(0, max(len(pairs), 1), size):
        block = slice(start, start + size)
        z = of_context[pairs.row[block]] + of_action[pairs.offer[block]]
        for index in range(1, count):
            z = _activated(layers, index - 1, z) @ layers[f"kernel_{index}"] + layers[f"bias_{index}"]
        parts.append(z)
    return np.concatenate(parts).astype(np.float64)


def _activated(layers: Arrays, index: int, z: Array) -> Array:
    """Return the activation of a hidden layer, after its normalization."""
    if f"gain_{index}" in layers:
        centered = z - z.mean(axis=1, keepdims=True)
        scale = np.sqrt(np.square(centered).mean(axis=1, keepdims=True) + EPSILON)
        z = centered / scale * layers[f"gain_{index}"] + layers[f"shift_{index}"]
    return np.maximum(z, 0.0)


def count_layers(layers: Arrays) -> int:
    """Return the number of dense layers."""
    return sum(name.startswith("kernel_") for name in layers)


def checked_layers(arrays: Arrays, width: tuple[int, int], outputs: int | None) -> dict[str, Any]:
    """Return the layers among saved arrays; raise ArtifactError unless they fit each other and the widths."""
    count, above = count_layers(arrays), sum(width)
    if not 1 <= count <= MAX_LAYERS:
        raise ArtifactError(f"{count} layers; expected 1 to {MAX_LAYERS}: train it again")
    layers = {}
    for index in range(count):
        kernel = arrays.get(f"kernel_{index}")
        below = kernel.shape[1] if kernel is not None and kernel.ndim == 2 else 0
        wanted = outputs if index == count - 1 and outputs is not None else below
        names = {f"kernel_{index}": (above, wanted), f"bias_{index}": (wanted,)}
        if f"gain_{index}" in arrays:
            names |= {f"gain_{index}": (wanted,), f"shift_{index}": (wanted,)}
        for name, shape in names.items():
            check_shape(arrays, name, shape)
            layers[name] = arrays[name]
        above = below
    return layers


@dataclass(frozen=True)
class NetworkModel:
    """A network with one output: the reward."""

    name: ClassVar[str] = "network"
    sparse: ClassVar[bool] = False
    learns_online: ClassVar[bool] = False

    arrays: Arrays

    @property
    def settings(self) -> Mapping[str, Any]:
        """No plain values."""
        return {}

    @classmethod
    def from_arrays(cls, arrays: Arrays, settings: Mapping[str, Any], width: tuple[int, int]) -> "NetworkModel":
        """Return the model of saved layers; raises ArtifactError for layers of other widths."""
        del settings
        return cls(checked_layers(arrays, width, 1))

    def estimate(self, pairs: Pairs, widths: bool) -> PairEstimate:
        """Return the outputs; the network has no uncertainty estimate."""
        del widths
        return PairEstimate(apply_layers(self.arrays, pairs)[:, 0])

    def updated(self, pairs: Pairs, reward: Array, weight: Array) -> "NetworkModel":
        """Raise ConfigError: a network learns from a whole log."""
        del pairs, reward, weight
        raise ConfigError("a neural reward model does not learn online; train it again on a log")


@dataclass(frozen=True)
class EncodedModel:
    """A linear model of the reward over the features that a network has learned."""

    name: ClassVar[str] = "encoded"
    sparse: ClassVar[bool] = False
    learns_online: ClassVar[bool] = True

    layers: Arrays
    linear: BilinearModel

    @property
    def settings(self) -> Mapping[str, Any]:
        """Plain values of the linear model."""
        return self.linear.settings

    @property
    def arrays(self) -> Arrays:
        """Layers of the encoder and sums of the linear model."""
        return {**self.layers, **self.linear.arrays}

    @classmethod
    def from_arrays(cls, arrays: Arrays, settings: Mapping[str, Any], width: tuple[int, int]) -> "EncodedModel":
        """Return the model of saved arrays; raises ArtifactError for arrays of other widths."""
        layers = checked_layers(arrays, width, None)
        encoding = layers[f"bias_{count_layers(layers) - 1}"].shape[0]
        return cls(layers, BilinearModel.from_arrays(arrays, settings, (encoding, 0)))

    def encode(self, pairs: Pairs) -> Array:
        """Return the learned features [k, E]."""
        return apply_layers(self.layers, pairs)

    def estimate(self, pairs: Pairs, widths: bool) -> PairEstimate:
        """Return the posterior means and widths of the pairs."""
        return self.linear.estimate(rows_as_pairs(self.encode(pairs)), widths)

    def updated(self, pairs: Pairs, reward: Array, weight: Array) -> "EncodedModel":
        """Return the model with further rewards in the linear part; the network stays."""
        return replace(self, linear=self.linear.updated(rows_as_pairs(self.encode(pairs)), reward, weight))
