"""Logistic regression with an offset and quadratic penalties, by Newton's method.

N rows, F weights. scikit-learn has no offsets, one penalty for all weights and no covariance. Source: penalized
iteratively reweighted least squares, Hastie & Tibshirani 1990.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.types import Array

_MOST_STEPS = 100
_TOLERANCE = 1e-8
_RIDGE = 1e-6  # keeps weights finite if the classes separate or a column is constant


@dataclass(frozen=True)
class LogisticFit:
    """The weights and their covariance (the inverse of the penalized information)."""

    weight: Array  # [F]
    covariance: Array  # [F, F]


def sigmoid(odds: Array) -> Array:
    """Return the probabilities of log-odds, without overflow."""
    probability: Array = 0.5 * (1 + np.tanh(0.5 * odds))
    return probability


def fit_logistic(
    columns: Array, outcome: NDArray[np.bool_], offset: Array | None = None, penalty: Array | None = None
) -> LogisticFit:
    """Maximize the log-likelihood of `outcome` [N] minus weight' penalty weight / 2.

    columns [N, F]; offset [N] is added to the log-odds; penalty [F, F]. The log-likelihood is concave, so halving a
    step until it rises always ends. Raises DataError without rows.
    """
    rows, width = columns.shape
    if not rows:
        raise DataError("logistic regression: no rows to fit on")
    target = outcome.astype(np.float64)
    base = np.zeros(rows) if offset is None else offset
    pull = _RIDGE * np.eye(width) + (0 if penalty is None else penalty)
    weight = np.zeros(width)
    value = _objective(columns, weight, base, target, pull)
    for _ in range(_MOST_STEPS):
        gradient, information = _derivatives(columns, weight, base, target, pull)
        step = np.linalg.solve(information, gradient)
        while (after := _objective(columns, weight + step, base, target, pull)) < value - 1e-12 * abs(value):
            step /= 2
        weight, value = weight + step, after
        if np.abs(step).max() < _TOLERANCE:
            break
    _, information = _derivatives(columns, weight, base, target, pull)
    return LogisticFit(weight, np.asarray(np.linalg.inv(information), np.float64))


def _objective(columns: Array, weight: Array, base: Array, target: Array, pull: Array) -> float:
    odds = base + columns @ weight
    return float(target @ odds - np.logaddexp(0, odds).sum() - weight @ pull @ weight / 2)


def _derivatives(columns: Array, weight: Array, base: Array, target: Array, pull: Array) -> tuple[Array, Array]:
    probability = sigmoid(base + columns @ weight)
    spread = probability * (1 - probability)
    information = (columns.T * spread) @ columns + pull
    return columns.T @ (target - probability) - pull @ weight, information
