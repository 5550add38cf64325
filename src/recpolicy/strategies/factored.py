"""The factored model of values: a sum of parts of the state, each with the action or with its levels.

S states, A = 27 actions, K traits, P parts of a state (traits, content type, mood, time of day), F codes of all parts.
The value is mu + w(0, a) + sum over parts k of w(code_k, a): F + 1 numbers for each action. With `factors = "level"` a
weight is a sum over the dimensions, w(c, a) = sum_d w_d(c, level_d(a)): F + 1 numbers for each of the 9 levels.

The weights minimize the squared errors of the cells of a Q-table, each times its effective visits, plus `ridge` times
the squared weights. For one-shot rounds with average steps that is ridge regression on the rounds themselves. So the
model needs nothing but the table. The bins of a trait share a trend: w(c, a) = u(c, a) + TREND z(c) v(a), where z
runs from -1 to 1 over the bins, and the penalty is on u and v. Bins are ordered, so a trend is likelier than a zigzag.

`ridge = "auto"` takes the value of RIDGES with the smallest generalized cross-validation error
n RSS / (n - degrees of freedom)^2 over the n visited cells. Source: Golub, Heath & Wahba 1979.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Array
from recpolicy.strategies.config import ACTIONS, DIMENSIONS, LEVELS, LearningConfig, StrategyConfig
from recpolicy.strategies.q_table import QTable, effective_visits, means
from recpolicy.strategies.state import codes_of_states

_ROWS = 1 << 14
TREND = 4.0
"""Size of a trend whose penalty is that of a bin's weight of 1."""
RIDGES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
ACTION_LEVELS = np.stack(np.unravel_index(np.arange(ACTIONS), (LEVELS,) * len(DIMENSIONS)), axis=1)  # [A, D]
LEVEL_COLUMNS = ACTION_LEVELS + LEVELS * np.arange(len(DIMENSIONS))  # [A, D], 0..8


@dataclass(frozen=True)
class FactoredModel:
    """Weights of codes and actions, and the means that the fallback chain ends with."""

    mean: float
    """Mean reward of all rounds, mu; 0 before the first."""
    weight: Array  # [F + 1, A]; the first row belongs to every state
    count: Array  # [F + 1, A], rounds with the code and the action, or with its rarest level
    action_mean: Array  # [A], mean reward of each action; mu where there is none
    action_visits: Array  # [A], rounds of each action
    ridge: float
    """The penalty, chosen or given; 0 before the first round."""

    def values(self, columns: NDArray[np.int64]) -> Array:
        """Return values [N, A] of states whose codes have these rows [N, P] of the weights (`code_columns`)."""
        return self.mean + self.weight[0] + self.weight[columns].sum(axis=1)

    def support(self, columns: NDArray[np.int64]) -> Array:
        """Return the rounds [N, A] behind the rarest part of each value."""
        return np.asarray(self.count[columns].min(axis=1), np.float64)


def code_columns(codes: NDArray[np.int64], config: StrategyConfig) -> NDArray[np.int64]:
    """Return the rows [N, P] of the weights, 1..F, that belong to codes [N, P]."""
    offsets = 1 + np.concatenate([[0], np.cumsum(config.sizes)[:-1]])
    return codes + offsets


def fit_factored(table: QTable, config: StrategyConfig) -> FactoredModel:
    """Return the model of a table's cells."""
    learning = config.learning
    basis = _basis(config)  # [F + 1, F + 1 + K]
    features = len(basis)
    value, weight = means(table.q, table.visits, learning), effective_visits(table.visits, learning)  # [S, A]
    total = float(weight.sum())
    mean = float((weight * value).sum() / total) if total else 0.0
    gram = np.zeros((ACTIONS, features, features))
    moment, count = np.zeros((ACTIONS, features)), np.zeros((features, ACTIONS))
    for first in range(0, len(table.states), _ROWS):
        rows = slice(first, first + _ROWS)
        design = _design(table, config, rows, features)  # [n, F + 1]
        count += design.T @ table.visits[rows]
        moment += (design.T @ (weight[rows] * (value[rows] - mean))).T
        for action in range(ACTIONS):
            used = np.flatnonzero(weight[rows, action])
            part = design[used]
            gram[action] += part.T @ (part * weight[rows, action][used, np.newaxis])
    sums = _Sums(
        basis.T @ gram @ basis, moment @ basis, float((weight * (value - mean) ** 2).sum()),
        int(np.count_nonzero(table.visits)),
    )  # fmt: skip
    solve = _solve_actions if learning.factors == "action" else _solve_levels
    solution, ridge = solve(sums, learning) if total else (np.zeros((basis.shape[1], ACTIONS)), 0.0)
    visits = table.visits.sum(axis=0).astype(np.float64)  # [A]
    share = weight.sum(axis=0)
    action_mean = np.divide((weight * value).sum(axis=0), share, out=np.full(ACTIONS, mean), where=share > 0)
    return FactoredModel(mean, basis @ solution, _support(count, learning), action_mean, visits, ridge)


@dataclass(frozen=True)
class _Sums:
    """Weighted sums of the cells, by action; G = F + 1 + K columns."""

    gram: Array  # [A, G, G]
    moment: Array  # [A, G]
    squares: float
    """Weighted sum of the squared values."""
    cells: int


def _basis(config: StrategyConfig) -> Array:
    """Return the weights [F + 1, F + 1 + K] of each code and of each trait's trend."""
    features, traits, bins = 1 + sum(config.sizes), len(config.profile.traits), config.profile.bins
    trends = np.zeros((features, traits))
    for trait in range(traits):
        trends[1 + bins * trait : 1 + bins * (trait + 1), trait] = TREND * np.linspace(-1, 1, bins) if bins > 1 else 0.0
    return np.concatenate([np.eye(features), trends], axis=1)


def _design(table: QTable, config: StrategyConfig, rows: slice, features: int) -> Array:
    """Return ones [n, F + 1] at the constant and at the codes of some states."""
    columns = code_columns(codes_of_states(table.states[rows], config), config)
    design = np.zeros((len(columns), features))
    design[:, 0] = 1.0
    np.put_along_axis(design, columns, 1.0, axis=1)
    return design


def _support(count: Array, learning: LearningConfig) -> Array:
    """Return the rounds [F + 1, A] of each code with the action, or with the rarest of its levels."""
    if learning.factors == "action":
        return count
    levels = np.zeros((len(count), LEVELS * len(DIMENSIONS)))
    for dimension in range(len(DIMENSIONS)):
        np.add.at(levels.T, LEVEL_COLUMNS[:, dimension], count.T)
    return np.asarray(levels[:, LEVEL_COLUMNS].min(axis=2))


def _solve_actions(sums: _Sums, learning: LearningConfig) -> tuple[Array, float]:
    """Return the solution [G, A], each action on its own, and the penalty."""
    solution, ridge = _ridge(sums.gram, sums.moment, sums, learning)
    return solution.T, ridge


def _solve_levels(sums: _Sums, learning: LearningConfig) -> tuple[Array, float]:
    """Return the solution [G, A] that is a sum of solutions of the levels, and the penalty."""
    features, columns = sums.gram.shape[1], LEVELS * len(DIMENSIONS)
    gram, moment = np.zeros((columns, features, columns, features)), np.zeros((columns, features))
    for action, levels in enumerate(LEVEL_COLUMNS):
        moment[levels] += sums.moment[action]
        for level in levels:
            gram[level][:, levels] += sums.gram[action][:, np.newaxis]
    size = columns * features
    solution, ridge = _ridge(gram.reshape(1, size, size), moment.reshape(1, size), sums, learning)
    return solution.reshape(columns, features)[LEVEL_COLUMNS].sum(axis=1).T, ridge


def _ridge(gram: Array, moment: Array, sums: _Sums, learning: LearningConfig) -> tuple[Array, float]:
    """Return the solutions [M, G] of M separate ridge regressions with one penalty, and the penalty.

    Args:
        gram: [M, G, G], symmetric.
        moment: [M, G].
        sums: Squared values and cells of all of them.
        learning: The penalty, or "auto".
    """
    size, vectors = np.linalg.eigh(gram)  # [M, G], [M, G, G]
    size = np.maximum(size, 0.0)
    along = np.einsum("mgh,mg->mh", vectors, moment)  # [M, G], the moment along each vector

    def error(ridge: float) -> float:
        shrunk = along / (size + ridge)
        rest = sums.squares - 2 * float((along * shrunk).sum()) + float((size * shrunk**2).sum())
        free = 1 - float((size / (size + ridge)).sum()) / sums.cells
        return rest / free**2

    ridge = min(RIDGES, key=error) if learning.ridge == "auto" else learning.ridge
    return np.einsum("mgh,mh->mg", vectors, along / (size + ridge)), ridge
