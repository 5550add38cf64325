"""The factored model of values: a sum of parts of the state, each with the action or with its levels.

S states, A = 27 actions, P parts of a state (traits, content type, mood, time of day), F codes of all parts. The value
is mu + w(0, a) + sum over parts k of w(code_k, a): F + 1 numbers for each action. With `factors = "level"` a weight is
a sum over the dimensions, w(c, a) = sum_d w_d(c, level_d(a)): F + 1 numbers for each of the 9 levels.

The weights minimize the squared errors of the cells of a Q-table, each times its effective visits, plus `ridge` times
the squared weights: for one-shot rounds with average steps that is ridge regression on the rounds themselves. So the
model needs nothing but the table.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Array
from recpolicy.strategies.config import ACTIONS, DIMENSIONS, LEVELS, LearningConfig, StrategyConfig
from recpolicy.strategies.q_table import QTable, effective_visits, means
from recpolicy.strategies.state import codes_of_states

_ROWS = 1 << 14
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

    def values(self, codes: NDArray[np.int64]) -> Array:
        """Return values [N, A] of states with codes [N, P], as columns of the weights (`code_columns`)."""
        return self.mean + self.weight[0] + self.weight[codes].sum(axis=1)

    def support(self, codes: NDArray[np.int64]) -> Array:
        """Return the rounds [N, A] behind the rarest part of each value."""
        return np.asarray(self.count[codes].min(axis=1), np.float64)


def code_columns(codes: NDArray[np.int64], config: StrategyConfig) -> NDArray[np.int64]:
    """Return the rows [N, P] of the weights, 1..F, that belong to codes [N, P]."""
    offsets = 1 + np.concatenate([[0], np.cumsum(config.sizes)[:-1]])
    return codes + offsets


def fit_factored(table: QTable, config: StrategyConfig) -> FactoredModel:
    """Return the model of a table's cells."""
    learning = config.learning
    features = 1 + sum(config.sizes)
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
    visits = table.visits.sum(axis=0).astype(np.float64)  # [A]
    share = weight.sum(axis=0)
    action_mean = np.divide((weight * value).sum(axis=0), share, out=np.full(ACTIONS, mean), where=share > 0)
    solve = _solve_actions if learning.factors == "action" else _solve_levels
    return FactoredModel(mean, solve(gram, moment, learning), _support(count, learning), action_mean, visits)


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


def _solve_actions(gram: Array, moment: Array, learning: LearningConfig) -> Array:
    """Return weights [F + 1, A], each action on its own."""
    penalty = learning.ridge * np.eye(gram.shape[1])
    return np.asarray(np.linalg.solve(gram + penalty, moment[..., np.newaxis])[..., 0].T, np.float64)


def _solve_levels(gram: Array, moment: Array, learning: LearningConfig) -> Array:
    """Return weights [F + 1, A] that are sums of weights of the levels."""
    features, columns = gram.shape[1], LEVELS * len(DIMENSIONS)
    large = np.zeros((columns, features, columns, features))
    right = np.zeros((columns, features))
    for action, levels in enumerate(LEVEL_COLUMNS):
        right[levels] += moment[action]
        for level in levels:
            large[level][:, levels] += gram[action][:, np.newaxis]
    size = columns * features
    matrix = large.reshape(size, size) + learning.ridge * np.eye(size)
    weight = np.linalg.solve(matrix, right.ravel()).reshape(columns, features)
    return weight[LEVEL_COLUMNS].sum(axis=1).T
