"""Logistic regression with random effects of groups; similar groups have smaller effects.

N rows, F weights, K groups. For a given variance of the effects we use Newton's method. The information matrix has a
diagonal block for the effects, so a step costs only N F^2 + K F^2. The variance is the fixed point of sum of effect^2 /
(K - sum of posterior variance / variance). EM has the same fixed point but needs far more iterations. Sources: Schall
1991; Breslow & Clayton 1993.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Array
from recpolicy.models.logistic import sigmoid

_ROUNDS, _ROUND_TOLERANCE = 50, 0.01
_STEPS, _STEP_TOLERANCE = 100, 1e-8
_RIDGE = 1e-6
_LEAST = 1e-3  # variance at which we take the groups as equal


@dataclass(frozen=True)
class RandomEffects:
    """The fitted model log-odds = offset + columns . weight + effect[group]."""

    weight: Array  # [F]
    effect: Array  # [K]
    spread: float
    """Standard deviation of the effects."""


@dataclass(frozen=True)
class _Rows:
    columns: Array  # [N, F]
    outcome: Array  # [N], 0 or 1
    group: NDArray[np.intp]  # [N], 0..K-1, each present
    offset: Array  # [N]
    pull: Array  # [F, F]
    groups: int

    def odds(self, weight: Array, effect: Array) -> Array:
        return self.offset + self.columns @ weight + effect[self.group]

    def objective(self, weight: Array, effect: Array, precision: float) -> float:
        odds = self.odds(weight, effect)
        penalty = weight @ self.pull @ weight + precision * effect @ effect
        return float(self.outcome @ odds - np.logaddexp(0, odds).sum() - penalty / 2)

    def total(self, values: Array) -> Array:
        """Return the sums [K] of values [N] over the rows of each group."""
        return np.bincount(self.group, values, self.groups).astype(np.float64)


def fit_random_effects(
    columns: Array, outcome: NDArray[np.bool_], group: NDArray[np.integer], offset: Array, penalty: Array
) -> RandomEffects:
    """Fit weights [F], effects and their spread; group [N] is any numbering, penalty [F, F] is that of the weights.

    The effects come in the order of np.unique(group).
    """
    present, number = np.unique(group, return_inverse=True)
    pull = penalty + _RIDGE * np.eye(columns.shape[1])
    rows = _Rows(columns, outcome.astype(np.float64), number, offset, pull, len(present))
    weight, effect, variance = np.zeros(columns.shape[1]), np.zeros(len(present)), 0.5
    for _ in range(_ROUNDS):
        weight, effect, uncertainty = _maximise(rows, weight, effect, 1 / variance)
        known = len(present) - np.sum(uncertainty) / variance  # effective number of effects
        before, variance = variance, max(float(effect @ effect / max(known, 1e-9)), _LEAST)
        if abs(variance / before - 1) < _ROUND_TOLERANCE:
            break
    return RandomEffects(weight, effect, float(np.sqrt(variance)))


def _maximise(rows: _Rows, weight: Array, effect: Array, precision: float) -> tuple[Array, Array, Array]:
    """Return the weights, effects and posterior variances of the effects, for a given precision of the effects."""
    value = rows.objective(weight, effect, precision)
    for _ in range(_STEPS):
        weight_step, effect_step, uncertainty = _newton(rows, weight, effect, precision)
        while True:
            after = rows.objective(weight + weight_step, effect + effect_step, precision)
            if after >= value - 1e-12 * abs(value):
                break
            weight_step, effect_step = weight_step / 2, effect_step / 2
        weight, effect, value = weight + weight_step, effect + effect_step, after
        if max(np.abs(weight_step).max(initial=0), np.abs(effect_step).max()) < _STEP_TOLERANCE:
            break
    return weight, effect, uncertainty


def _newton(rows: _Rows, weight: Array, effect: Array, precision: float) -> tuple[Array, Array, Array]:
    """Return the Newton step of weights [F] and effects [K], and the effects' variances [K] (Schur complement)."""
    probability = sigmoid(rows.odds(weight, effect))
    spread, miss = probability * (1 - probability), rows.outcome - probability
    weighted = rows.columns * spread[:, None]
    mixed = np.stack([rows.total(column) for column in weighted.T])  # [F, K]
    own = rows.total(spread) + precision  # [K], the diagonal block
    schur = rows.columns.T @ weighted + rows.pull - (mixed / own) @ mixed.T
    weight_slope = rows.columns.T @ miss - rows.pull @ weight
    effect_slope = rows.total(miss) - precision * effect
    inverse = np.linalg.inv(schur)
    weight_step = inverse @ (weight_slope - mixed @ (effect_slope / own))
    effect_step = (effect_slope - mixed.T @ weight_step) / own
    return weight_step, effect_step, 1 / own + np.einsum("fk,fg,gk->k", mixed, inverse, mixed, optimize=True) / own**2
