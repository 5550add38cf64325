"""A tuned policy over the grid of a ranking formula: features of a request -> the weights to rank with.

B requests, A grid points, G groups, K objectives. NumPy only. Three forms: a softmax over the grid, a Gaussian on the
unit cube of the groups, and values of every grid point. The values are products of two networks, one of the request and
one of the grid point, so all A values cost one matrix product.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError
from recpolicy.data.tuning_log import TuningFeatures
from recpolicy.models.ranking_formula import ActionGrid
from recpolicy.models.tuning_network import TuningNetwork

Form = Literal["softmax", "gaussian", "values"]
_CELLS = 1 << 22  # requests times grid points held at once


@dataclass(frozen=True)
class TunedPolicy:
    """A trained policy; `actions` is what it serves."""

    form: Form
    grid: ActionGrid
    network: TuningNetwork
    action_network: TuningNetwork | None = None
    """Of values: the network of the grid points."""
    objective_weights: tuple[float, ...] = ()
    """Of values: the weight [K] of each objective in the argmax."""
    log_std: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    """Of the Gaussian: logarithm of the standard deviations [G] in the unit cube."""

    def _blocks(self, features: TuningFeatures) -> Iterator[slice]:
        step = max(1, _CELLS // self.grid.size)
        yield from (slice(start, start + step) for start in range(0, len(features), step))

    def actions(self, features: TuningFeatures) -> NDArray[np.int64]:
        """Return the grid points [B] to serve: the most probable, of highest value, or nearest to the mean."""
        if self.form == "gaussian":
            return self.grid.nearest(self.means(features))
        scores = self.mixed_values if self.form == "values" else self.network.forward
        parts = [scores(features.take(block)).argmax(axis=1) for block in self._blocks(features)]
        return np.concatenate(parts) if parts else np.zeros(0, np.int64)

    def probabilities(self, features: TuningFeatures) -> NDArray[np.float32]:
        """Return the probabilities [B, A] of a softmax policy."""
        if self.form != "softmax":
            raise ConfigError(f"a policy of the form {self.form} has no probabilities of grid points")
        return softmax_rows(self.network.forward(features))

    def means(self, features: TuningFeatures) -> NDArray[np.float32]:
        """Return the means [B, G] of a Gaussian policy in the unit cube."""
        return sigmoid(self.network.forward(features))

    def values(self, features: TuningFeatures) -> NDArray[np.float32]:
        """Return the predicted objectives [B, A, K] of every grid point."""
        left, right = self._towers(features)
        return np.einsum("bkd,akd->bak", left, right)

    def mixed_values(self, features: TuningFeatures) -> NDArray[np.float32]:
        """Return the weighted sum of the predicted objectives [B, A], without holding each of them."""
        left, right = self._towers(features)
        weighted = left * np.asarray(self.objective_weights, np.float32)[:, np.newaxis]
        return np.asarray(weighted.reshape(len(left), -1) @ right.reshape(len(right), -1).T)

    def with_objectives(self, weights: tuple[float, ...]) -> "TunedPolicy":
        """Return the policy of values with other weights of the objectives [K]."""
        return replace(self, objective_weights=weights)

    def _towers(self, features: TuningFeatures) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the vectors of requests [B, K, D] and of grid points [A, K, D]."""
        count = len(self.objective_weights)
        return self.network.forward(features).reshape(len(features), count, -1), self._grid_vectors

    @cached_property
    def _grid_vectors(self) -> NDArray[np.float32]:
        if self.action_network is None:
            raise ConfigError(f"a policy of the form {self.form} has no values")
        points = grid_features(self.grid, np.arange(self.grid.size))
        return self.action_network.forward(points).reshape(self.grid.size, len(self.objective_weights), -1)

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as JSON-able values; `arrays` has the rest."""
        return {"form": self.form, "grid": self.grid.as_dict(), "objective_weights": list(self.objective_weights)}

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return all arrays by name."""
        result: dict[str, NDArray[Any]] = {f"network_{name}": part for name, part in self.network.arrays().items()}
        if self.action_network is not None:
            result |= {f"grid_{name}": part for name, part in self.action_network.arrays().items()}
        return {**result, "log_std": self.log_std}

    @classmethod
    def from_parts(cls, body: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> "TunedPolicy":
        """Return the policy that `as_dict` and `arrays` described."""

        def of(prefix: str) -> dict[str, NDArray[Any]]:
            return {name.removeprefix(prefix): part for name, part in arrays.items() if name.startswith(prefix)}

        second = of("grid_")
        return cls(
            body["form"], ActionGrid.from_dict(body["grid"]), TuningNetwork.from_arrays(of("network_")),
            TuningNetwork.from_arrays(second) if second else None,
            tuple(map(float, body["objective_weights"])), np.asarray(arrays["log_std"], np.float32),
        )  # fmt: skip


def grid_features(grid: ActionGrid, action: NDArray[np.integer]) -> TuningFeatures:
    """Return grid points [n] as features of a network: their place in the unit cube, its squares and products."""
    unit = grid.unit(action).astype(np.float32) * 2 - 1
    first, second = np.triu_indices(unit.shape[1])
    numeric = np.concatenate([unit, unit[:, first] * unit[:, second]], axis=1)
    return TuningFeatures(np.zeros((len(unit), 0), np.int32), numeric, ())


def softmax_rows(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the softmax of each row [B, A]; overwrites its argument."""
    logits -= logits.max(axis=1, keepdims=True)
    np.exp(logits, out=logits)
    logits /= logits.sum(axis=1, keepdims=True)
    return logits


def sigmoid(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / (1 + exp(-x)) [...]."""
    return np.asarray(1.0 / (1.0 + np.exp(-np.clip(x, -30.0, 30.0))), np.float32)
