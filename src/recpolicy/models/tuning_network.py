"""A small network in NumPy: embeddings of categories, batch normalization, ReLU layers, a linear output.

B requests, C categorical and F numeric features, O outputs. Each categorical feature has an embedding; they are joined
with the numeric features, then follow (batch normalization, linear, ReLU) layers and one linear layer. Training
normalizes by the batch and keeps running means; serving uses these frozen means, so that a request has the same output
alone and in a batch. All products are BLAS calls in single precision; gradients are written out by hand.

Source of the layout: Yang et al. 2025 (DRL-PUT); Ioffe & Szegedy 2015 (batch normalization); Kingma & Ba 2015 (Adam).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.config import Size, config_dataclass
from recpolicy.core.errors import DivergedError
from recpolicy.data.tuning_log import TuningFeatures

Single = NDArray[np.float32]
_EPSILON = 1e-5  # added to the variance of a batch
_DECAY = 0.98  # of the running means of batch normalization


@config_dataclass
class TuningNetworkConfig:
    """Sizes of the network."""

    embedding: Size = 4
    """Length of the embedding of each categorical feature."""
    layers: tuple[Size, ...] = (64,)
    """Widths of the hidden layers."""


@dataclass
class TuningNetwork:
    """Parameters by name, running means of batch normalization, and the arrays of the last forward pass."""

    params: dict[str, Single]
    running: dict[str, Single]
    layers: int
    """Number of hidden layers."""
    _cache: dict[str, Any] = field(default_factory=dict, repr=False)

    @classmethod
    def initial(
        cls, sizes: tuple[int, ...], numeric: int, outputs: int, config: TuningNetworkConfig, rng: np.random.Generator
    ) -> "TuningNetwork":
        """Return a network with small random weights, whose outputs are near 0.

        Args:
            sizes: [C] categories of each categorical feature.
            numeric: F.
            outputs: O.
            config: Sizes of embeddings and layers.
            rng: Source of the weights.
        """
        params: dict[str, Single] = {}
        running: dict[str, Single] = {}
        for place, size in enumerate(sizes):
            params[f"embedding{place}"] = rng.normal(0, 0.5, (size, config.embedding)).astype(np.float32)
        width = len(sizes) * config.embedding + numeric
        for layer, hidden in enumerate(config.layers):
            params[f"gain{layer}"], params[f"shift{layer}"] = np.ones(width, np.float32), np.zeros(width, np.float32)
            running[f"mean{layer}"], running[f"var{layer}"] = np.zeros(width, np.float32), np.ones(width, np.float32)
            params[f"weight{layer}"] = rng.normal(0, np.sqrt(2 / max(width, 1)), (width, hidden)).astype(np.float32)
            params[f"bias{layer}"] = np.zeros(hidden, np.float32)
            width = hidden
        params["weight_out"] = rng.normal(0, 0.01, (width, outputs)).astype(np.float32)
        params["bias_out"] = np.zeros(outputs, np.float32)
        return cls(params, running, len(config.layers))

    def forward(self, features: TuningFeatures, *, training: bool = False) -> Single:
        """Return outputs [B, O]; training normalizes by the batch and keeps what `backward` needs."""
        p, cache = self.params, {"categorical": features.categorical}
        columns = [p[f"embedding{place}"][column] for place, column in enumerate(features.categorical.T)]
        x = np.concatenate([*columns, features.numeric], axis=1)
        for layer in range(self.layers):
            mean, var = self._moments(layer, x, training=training)
            inverse = (1.0 / np.sqrt(var + _EPSILON)).astype(x.dtype)
            unit = (x - mean) * inverse
            scaled = unit * p[f"gain{layer}"] + p[f"shift{layer}"]
            active = np.maximum(scaled @ p[f"weight{layer}"] + p[f"bias{layer}"], 0.0)
            cache |= {
                f"unit{layer}": unit,
                f"inverse{layer}": inverse,
                f"scaled{layer}": scaled,
                f"active{layer}": active,
            }
            x = active
        cache["last"] = x
        if training:
            self._cache = cache
        return np.asarray(x @ p["weight_out"] + p["bias_out"])

    def _moments(self, layer: int, x: Single, *, training: bool) -> tuple[Single, Single]:
        names = f"mean{layer}", f"var{layer}"
        if not training or len(x) < 2:  # a single row has no variance
            return self.running[names[0]], self.running[names[1]]
        moments = x.mean(axis=0), x.var(axis=0)
        for name, moment in zip(names, moments, strict=True):
            self.running[name] = _DECAY * self.running[name] + np.float32(1 - _DECAY) * moment
        return moments

    def backward(self, gradient: Single) -> dict[str, Single]:
        """Return the gradients of the parameters, given that of the outputs [B, O] of the last training pass."""
        p, cache, result = self.params, self._cache, {}
        result["weight_out"], result["bias_out"] = cache["last"].T @ gradient, gradient.sum(axis=0)
        down = gradient @ p["weight_out"].T
        for layer in reversed(range(self.layers)):
            down *= cache[f"active{layer}"] > 0
            result[f"weight{layer}"] = cache[f"scaled{layer}"].T @ down
            result[f"bias{layer}"] = down.sum(axis=0)
            down = down @ p[f"weight{layer}"].T
            unit = cache[f"unit{layer}"]
            result[f"gain{layer}"], result[f"shift{layer}"] = (down * unit).sum(axis=0), down.sum(axis=0)
            if len(unit) < 2:
                down = down * (p[f"gain{layer}"] * cache[f"inverse{layer}"])
                continue
            down = down * p[f"gain{layer}"]
            down = cache[f"inverse{layer}"] * (down - down.mean(axis=0) - unit * (down * unit).mean(axis=0))
        for place, column in enumerate(cache["categorical"].T):
            table = p[f"embedding{place}"]
            width = table.shape[1]
            one_hot = np.equal.outer(np.arange(len(table)), column).astype(np.float32)  # [size, B]
            result[f"embedding{place}"] = one_hot @ down[:, place * width : (place + 1) * width]
        return result

    def arrays(self) -> dict[str, Single]:
        """Return parameters and frozen means by name, for a file."""
        return {**self.params, **{f"running_{name}": value for name, value in self.running.items()}}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[Any]]) -> "TuningNetwork":
        """Return the network that `arrays` described."""
        running = {
            name.removeprefix("running_"): value for name, value in arrays.items() if name.startswith("running_")
        }
        params = {name: np.asarray(value) for name, value in arrays.items() if not name.startswith("running_")}
        return cls(params, running, sum(name.startswith("bias") for name in params) - 1)


@dataclass
class Adam:
    """The optimizer of named parameters, which it changes in place."""

    params: Mapping[str, Single]
    learning_rate: float
    _first: dict[str, Single] = field(default_factory=dict)
    _second: dict[str, Single] = field(default_factory=dict)
    _steps: int = 0

    def step(self, gradients: Mapping[str, Single]) -> None:
        """Take one step; raises DivergedError for a gradient that is not finite."""
        self._steps += 1
        rate = self.learning_rate * np.sqrt(1 - 0.999**self._steps) / (1 - 0.9**self._steps)
        for name, gradient in gradients.items():
            if name not in self._first:
                self._first[name], self._second[name] = np.zeros_like(gradient), np.zeros_like(gradient)
            first, second = self._first[name], self._second[name]
            first *= 0.9
            first += 0.1 * gradient
            second *= 0.999
            second += 0.001 * np.square(gradient)
            self.params[name][...] -= (rate * first / (np.sqrt(second) + 1e-8)).astype(np.float32)
        total = sum(float(np.abs(self.params[name]).sum()) for name in ("weight_out", "bias_out") if name in gradients)
        if not np.isfinite(total):
            raise DivergedError(
                "the training of the tuning network gave numbers that are not finite; lower learning_rate"
            )
