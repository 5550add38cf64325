"""A linear model of rewards over hashed features: 2^bits weights for any number of features.

n rounds, K pairs of a context and an action, F features. A pair has a constant feature, the features of its context and
of its action, and, with interactions, the product of each context feature and each action feature. Learning takes the
rounds in order, one step each: AdaGrad with the largest size of each feature as its scale, and steps that take an
importance h as h rounds of importance 1. With x_i the features, y the reward, p the prediction, s_i the largest |x_i|
so far, G_i the sum of h (p - y)^2 x_i^2, and eta the learning rate,

    r_i = x_i / (s_i sqrt(G_i)),   q = eta m sum x_i r_i,   w_i += (y - p) (1 - exp(-h q)) / (sum x_i r_i) r_i,

so that p moves to y + (p - y) exp(-h q) and never beyond y. m makes eta independent of the number of features. Learning
many rounds is compiled with numba where it is installed (hashed_linear_numba.py); NumPy gives the same weights.
Sources: Weinberger et al. 2009 (hashing); Duchi, Hazan & Singer 2011 (AdaGrad); Ross, Mineiro & Langford 2013
(scales); Karampatziakis & Langford 2011 (importance). VW learns in this way.
"""

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.config import PositiveNumber, config_dataclass
from recpolicy.core.errors import ArtifactError
from recpolicy.core.types import Array, Floats, Ints
from recpolicy.data.features.encoder import SparseRows
from recpolicy.data.features.hashing import CONSTANT, MAX_BITS, MIN_BITS, pair_indices

WEIGHT, GRADIENT, SCALE = 0, 1, 2
"""Columns of the table: weight, sum of squared gradients, largest size; hashed_linear_numba.py has them, too."""
_COMPILED_FROM = 64
"""Rounds from which compiled code is worth loading."""
_FEATURES_AT_ONCE = 1 << 22


@config_dataclass
class HashedLinearConfig:
    """Settings of the hashed linear model."""

    learning_rate: PositiveNumber = 0.1
    """Size of the steps; must be > 0. Rewards of 0 and 1 are so noisy that VW's default of 0.5 learns less."""
    adaptive: bool = True
    """Give each weight its own rate, by the sum of its squared gradients (AdaGrad)."""
    normalized: bool = True
    """Divide each feature by its largest size so far."""


@dataclass
class HashedLinear:
    """A hashed linear model that learns."""

    config: HashedLinearConfig
    bits: int
    interactions: bool
    table: Array = field(default_factory=lambda: np.zeros((0, 3)))  # [2^bits, 3], see WEIGHT, GRADIENT, SCALE
    totals: Array = field(default_factory=lambda: np.zeros(2))  # importance; importance times squared scaled features

    def __post_init__(self) -> None:
        assert MIN_BITS <= self.bits <= MAX_BITS, "the schema checks it"
        if not len(self.table):
            self.table = np.zeros((1 << self.bits, 3))

    def copy(self) -> "HashedLinear":
        """Return a model that learns on its own."""
        return HashedLinear(self.config, self.bits, self.interactions, self.table.copy(), self.totals.copy())

    def predict(
        self, context: SparseRows, action: SparseRows, context_row: Ints, action_row: Ints, *, compiled: bool = False
    ) -> Array:
        """Return the predicted rewards [K].

        Args:
            context: Hashed features of contexts.
            action: Hashed features of actions.
            context_row: Row of the context of each pair [K].
            action_row: Row of the action of each pair [K].
            compiled: Use numba, where it is installed.
        """
        context_row, action_row = np.asarray(context_row, np.int64), np.asarray(action_row, np.int64)
        if compiled and has_numba():
            from recpolicy.models import hashed_linear_numba

            pairs = context, action, context_row, action_row
            return hashed_linear_numba.predict(self.table, self.bits, self.interactions, *pairs)
        if len(context) == 1:
            return self._predict_in_context(context, action)[action_row]
        weight = np.ascontiguousarray(self.table[:, WEIGHT])
        prediction = np.empty(len(context_row))
        step = max(1, _FEATURES_AT_ONCE // ((1 + _longest(context)) * (1 + _longest(action))))
        for first in range(0, len(context_row), step):
            rows = slice(first, first + step)
            row, index, value = self._features(context, action, context_row[rows], action_row[rows])
            prediction[rows] = np.bincount(row, weight[index] * value, len(context_row[rows]))
        return prediction

    def _predict_in_context(self, context: SparseRows, action: SparseRows) -> Array:
        """Return the predicted rewards [m] of m actions in one context: a request.

        Actions share most features, such as the names of their numbers, so each pair of indices is hashed once.
        """
        weight, mask, x = self.table[:, WEIGHT], np.uint32((1 << self.bits) - 1), context.value.astype(float)
        distinct, place = np.unique(action.index, return_inverse=True)
        slope = weight[distinct & mask]  # [U] what one unit of each action feature adds
        if self.interactions:
            pairs = pair_indices(context.index[:, np.newaxis], distinct) & mask  # [C, U]
            slope = slope + x @ weight[pairs.astype(np.int64)]
        constant = weight[CONSTANT & int(mask)] + weight[context.index & mask] @ x
        row = np.repeat(np.arange(len(action)), np.diff(action.start))
        return np.asarray(constant + np.bincount(row, slope[place] * action.value, len(action)), np.float64)

    def learn(
        self, context: SparseRows, action: SparseRows, context_row: Ints, action_row: Ints, reward: Floats,
        importance: Floats | None = None, *, compiled: bool | None = None,
    ) -> Array:  # fmt: skip
        """Learn rounds in order; return the prediction [n] of each before its step.

        Args:
            context: Hashed features of contexts.
            action: Hashed features of actions.
            context_row: Row of the context of each round [n].
            action_row: Row of the action that each round showed [n].
            reward: Reward of each round [n], by preference in [0, 1].
            importance: Importance of each round [n], 0 or larger; None: 1 each.
            compiled: Use numba, where it is installed; None: for many rounds.
        """
        rounds = len(reward)
        weights = np.ones(rounds) if importance is None else np.asarray(importance, np.float64)
        target = np.asarray(reward, np.float64)
        context_row, action_row = np.asarray(context_row, np.int64), np.asarray(action_row, np.int64)
        if (rounds >= _COMPILED_FROM if compiled is None else compiled) and has_numba():
            from recpolicy.models import hashed_linear_numba

            pairs = context, action, context_row, action_row
            settings = self.config.learning_rate, self.config.adaptive, self.config.normalized
            state = self.table, self.totals, self.bits, self.interactions
            return hashed_linear_numba.learn(*state, *pairs, target, weights, *settings)
        prediction = np.empty(rounds)
        for number in range(rounds):
            one = slice(number, number + 1)
            _, index, value = self._features(context, action, context_row[one], action_row[one])
            prediction[number] = self._step(index, value, float(target[number]), float(weights[number]))
        return prediction

    def _features(
        self, context: SparseRows, action: SparseRows, context_row: Ints, action_row: Ints
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
        """Return pair, index and value of all features of pairs: constant, context, action, products."""
        count = len(context_row)
        pair, place = _entries(context, context_row)
        other, action_place = _entries(action, action_row)
        rows = [np.arange(count), pair, other]
        indices = [np.full(count, CONSTANT, np.uint32), context.index[place], action.index[action_place]]
        values = [np.ones(count), context.value[place].astype(float), action.value[action_place].astype(float)]
        if self.interactions:
            first, second_place = _entries(action, action_row[pair])  # for each context feature the action's features
            rows.append(pair[first])
            indices.append(pair_indices(context.index[place][first], action.index[second_place]))
            values.append(values[1][first] * action.value[second_place])
        mask = np.uint32((1 << self.bits) - 1)
        return np.concatenate(rows), (np.concatenate(indices) & mask).astype(np.int64), np.concatenate(values)

    def _step(self, index: NDArray[np.int64], x: Array, target: float, importance: float) -> float:
        """Take the step of one round; return the prediction before it."""
        table = self.table
        if self.config.normalized:
            before = table[index, SCALE]
            np.maximum.at(table[:, SCALE], index, np.abs(x))
            scale = table[index, SCALE]
            used = scale > 0
            table[index[used], WEIGHT] = table[index[used], WEIGHT] * (before[used] / scale[used])
            self.totals += importance * np.array([1.0, np.square(x[used] / scale[used]).sum()])
        prediction = float(table[index, WEIGHT] @ x)
        error = target - prediction
        rate = np.ones(len(x))
        if self.config.adaptive:
            np.add.at(table[:, GRADIENT], index, importance * error * error * np.square(x))
            gradient = table[index, GRADIENT]
            rate = np.where(gradient > 0, 1.0 / np.sqrt(np.where(gradient > 0, gradient, 1.0)), 0.0)
        if self.config.normalized:
            divisor = scale if self.config.adaptive else np.square(scale)
            rate = np.where(used, rate / np.where(used, divisor, 1.0), 0.0)
        direction = x * rate
        size = float(x @ direction)
        if size > 0 and importance > 0:
            reach = 1.0 - np.exp(-importance * self._rate() * size)
            np.add.at(table[:, WEIGHT], index, error * reach / size * direction)
        return prediction

    def _rate(self) -> float:
        """Return the learning rate, times m."""
        if not self.config.normalized or self.totals[1] <= 0:
            return self.config.learning_rate
        mean = float(self.totals[0] / self.totals[1])
        return self.config.learning_rate * (mean**0.5 if self.config.adaptive else mean)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the rows of the table that are not zero, and the totals, for a file."""
        index = np.flatnonzero(self.table.any(axis=1))
        return {"index": index.astype(np.int64), "table": self.table[index], "totals": self.totals.copy()}

    @classmethod
    def from_arrays(
        cls, config: HashedLinearConfig, bits: int, interactions: bool, arrays: Mapping[str, NDArray[Any]]
    ) -> "HashedLinear":
        """Return the model that `arrays` described; raise ArtifactError for arrays that no model has."""
        index, table, totals = (arrays.get(name, np.zeros(0)) for name in ("index", "table", "totals"))
        if index.dtype != np.int64 or index.ndim != 1 or table.shape != (len(index), 3) or totals.shape != (2,):
            raise ArtifactError("hashed linear model: its arrays have other shapes than a table of weights")
        if len(index) and not (index[0] >= 0 and index[-1] < 1 << bits and (np.diff(index) > 0).all()):
            raise ArtifactError(f"hashed linear model: the indices are not those of 2^{bits} weights in order")
        if not (np.isfinite(table).all() and np.isfinite(totals).all() and (table[:, GRADIENT:] >= 0).all()):
            raise ArtifactError("hashed linear model: a number is not finite, or a size is negative")
        model = cls(config, bits, interactions, totals=totals.astype(np.float64))
        model.table[index] = table
        return model


def has_numba() -> bool:
    """Return True if compiled code is available."""
    return importlib.util.find_spec("numba") is not None


def _entries(rows: SparseRows, chosen: Ints) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return, for all features of the chosen rows, the number of the choice and the place in `rows`."""
    start, count = rows.start[chosen], rows.start[chosen + 1] - rows.start[chosen]
    number = np.repeat(np.arange(len(chosen)), count)
    before = np.cumsum(count) - count
    return number, np.arange(len(number)) - before[number] + start[number]


def _longest(rows: SparseRows) -> int:
    """Return the largest number of features of a row."""
    return int(np.diff(rows.start).max(initial=0))
