"""Importance weights that grow step by step: the slots of a slate from top to bottom, the steps of a session.

N slates or sessions, T slots or steps; ratio Y_t = pi / mu of the logged item at step t given what came before; weight
W_t = Y_1 ... Y_t; reward r_t; gamma discount per step (1 for slates). If r_t depends on nothing that is chosen after t,
later ratios only add noise to it: the per-decision forms weigh it with W_t. Steps after the end of a session have
ratio 1, reward 0 and prediction 0. All functions return terms [N] whose mean is the estimate.
Sources: Precup, Sutton & Singh 2000 (per-decision); McInerney et al. 2020 (the same for slates, RIPS); Jiang & Li 2016
(doubly robust); Kiyohara et al. 2022 (the same for slates, cascade-DR); Thomas 2015 (weighted per decision).
"""

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.ope.estimators import snips_terms

Array = NDArray[np.float64]


def cumulative_weights(ratio: Array) -> Array:
    """Return W [N, T] of ratios [N, T]. Raises DataError where a product is too large for a number."""
    with np.errstate(over="ignore", invalid="ignore"):
        weight: Array = np.cumprod(ratio, axis=1, dtype=np.float64)
    if not np.isfinite(weight).all():
        row, step = (int(i) for i in np.argwhere(~np.isfinite(weight))[0])
        raise DataError(
            f"row {row}: the product of pi / mu up to step {step} is too large for a number; no estimate can be made "
            "of such a log: judge shorter sessions or a target nearer to the logging policy"
        )
    return weight


def discounts(steps: int, gamma: float) -> Array:
    """Return gamma^t for t = 0..T-1, [T]."""
    return np.power(float(gamma), np.arange(steps))


def returns(reward: NDArray[np.floating], gamma: float) -> Array:
    """Discounted sums [N] of rewards [N, T]."""
    return reward.astype(np.float64) @ discounts(reward.shape[1], gamma)


def per_decision_terms(weight: Array, reward: NDArray[np.floating], gamma: float = 1.0) -> Array:
    """Sum over t of gamma^t W_t r_t; unbiased if no reward depends on a later choice (sessions; RIPS for slates)."""
    return (weight * reward) @ discounts(reward.shape[1], gamma)


def weighted_per_decision_terms(weight: Array, reward: NDArray[np.floating], gamma: float = 1.0) -> Array:
    """Sum over t of gamma^t (sum_n W_t r_t / sum_n W_t), linearised as in snips_terms; consistent, bias of order 1/N.

    Raises DataError when all weights of a step are 0.
    """
    terms = np.zeros(len(reward))
    for step, discount in enumerate(discounts(reward.shape[1], gamma)):
        terms += discount * snips_terms(weight[:, step], reward[:, step])
    return terms


def per_decision_dr_terms(
    weight: Array, reward: NDArray[np.floating], predicted: Array, direct: Array, gamma: float = 1.0
) -> Array:
    """Sum over t of gamma^t (W_{t-1} v_t + W_t (r_t - q_t)), with W_0 = 1.

    predicted q_t [N, T]: value of the logged choice and of what follows it under the target; direct v_t [N, T]: the
    same, on average over the target's choices at t. Unbiased for any q that was not fitted on the same rows, and for
    any propensities if q and v are exact.
    """
    before = np.concatenate([np.ones((len(weight), 1)), weight[:, :-1]], axis=1)  # [N, T]
    return (before * direct + weight * (reward - predicted)) @ discounts(reward.shape[1], gamma)
