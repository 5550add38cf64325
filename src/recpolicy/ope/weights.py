"""Importance weights w = pi / mu of single choices, slates and sessions.

N rows, T steps of a session or K slots of a slate, M items. `Y` [N, T] is pi / mu of the logged item at each step,
given the steps before it.

- single choices: w = pi / mu;
- step by step: W_t = Y_1 ... Y_t;
- pseudo-inverse weights of slates: G = q_pi' Gamma^+ 1_a, where 1_a in {0, 1}^{K M} marks the item in each slot of
  slate a, Gamma = E_mu[1_a 1_a'] and q_pi = E_pi[1_a]. If the mean reward of a slate is a sum over its slots and the
  target shows only slates that the logging policy shows, E[G R] is the target's value. The variance of G R grows with
  K, not with the number of possible slates. Where slots are filled independently, G = 1 + sum_k (Y_k - 1).

Sources: Horvitz & Thompson 1952; Precup, Sutton & Singh 2000 (step by step); Swaminathan, Krishnamurthy, Agarwal,
Dudik, Langford, Jose & Zitouni 2017 (pseudo-inverse); Zhang & Stephens 2009, Vehtari, Simpson, Gelman, Yao & Gabry 2024
(tail index).
"""

import numpy as np

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.types import Array, Floats, Ints
from recpolicy.ope.feedback import check_rows

_MIN_TAIL = 5  # weights above the threshold
_SMALLEST = 1e-10  # singular values below this fraction of the largest count as 0


def importance_weights(target_prob: Floats, behavior_prob: Floats) -> Array:
    """Return pi / mu of the logged actions [N]; mean 1 in expectation if mu > 0 wherever pi > 0.

    Args:
        target_prob: [N], probability of the logged action under the target policy.
        behavior_prob: [N], the same under the logging policy.

    Raises:
        DataError: a behavior_prob of 0, for such an action cannot have been logged.
    """
    expected = "above 0: an action of probability 0 cannot have been logged"
    check_rows("behavior_prob", behavior_prob, behavior_prob > 0, expected)
    return target_prob.astype(np.float64) / behavior_prob


def tail_index(weight: Array) -> float:
    """Return the shape k of a generalized Pareto distribution fitted to the largest weights [N].

    Moments of order 1 / k and above do not exist: above 0.5 the variance does not, above 1 not even the mean. The tail
    has min(N / 5, 3 sqrt(N)) weights. The fit is the quasi-Bayesian one of Zhang & Stephens (2009) with the prior of
    Vehtari et al. (2024), whose weight of ten observations pulls k towards 0.5.

    Args:
        weight: [N], at least 0.

    Returns:
        k; 0 where fewer than five weights exceed the threshold or where all of these are equal.
    """
    tail = int(min(len(weight) / 5, 3 * np.sqrt(len(weight))))
    if tail < _MIN_TAIL:
        return 0.0
    largest = np.sort(np.partition(weight, len(weight) - tail - 1)[-tail - 1 :])
    excess = largest[1:] - largest[0]
    excess = excess[excess > _SMALLEST * largest[-1]]  # ascending
    if len(excess) < _MIN_TAIL or excess[-1] - excess[0] <= _SMALLEST * excess[-1]:
        return 0.0
    size = len(excess)
    grid = 30 + int(np.sqrt(size))
    theta = 1 - np.sqrt(grid / (np.arange(1, grid + 1) - 0.5))
    theta = theta / (3 * excess[(size + 2) // 4 - 1]) + 1 / excess[-1]
    shape = np.log1p(-theta[:, None] * excess).mean(axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        likelihood = np.nan_to_num(size * (np.log(-theta / shape) - shape - 1), nan=-np.inf)
    posterior = np.exp(likelihood - likelihood.max())
    best = float(theta @ posterior / posterior.sum())
    return (float(np.log1p(-best * excess).mean()) * size + 5) / (size + 10)


def cumulative_weights(ratio: Array) -> Array:
    """Return W [N, T], the running products of ratios [N, T].

    Raises:
        DataError: a product that exceeds the largest float.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        weight: Array = np.cumprod(ratio, axis=1, dtype=np.float64)
    if not np.isfinite(weight).all():
        row, step = (int(i) for i in np.argwhere(~np.isfinite(weight))[0])
        raise DataError(
            f"row {row}: the product of pi / mu up to step {step} is too large for a float; this log allows no "
            "estimate: evaluate shorter sessions or a target closer to the logging policy"
        )
    return weight


def pseudo_inverse_weights(ratio: Array) -> Array:
    """Return G = 1 + sum_k (Y_k - 1) [N] of slates with independent slots; ratio Y [N, K].

    The mean is 1 in expectation. G is negative where the target would show few of the logged items.
    """
    return 1 + (ratio - 1).sum(axis=1)


def without_repeats_moments(slots: int, items: int) -> Array:
    """Return Gamma [K M, K M] of slates drawn uniformly from all slates without repeats.

    It is 1/M for a slot's item with itself, 1/(M (M - 1)) for two items in two slots, 0 for two items in one slot and
    for one item in two slots.

    Args:
        slots: K.
        items: M, at least K.

    Returns:
        Gamma [K M, K M].

    Raises:
        ConfigError: more slots than items.
    """
    if not 1 <= slots <= items:
        raise ConfigError(f"slates of {slots} of {items} items without repeats; expected 1..{items} slots")
    same_slot, same_item = np.eye(slots, dtype=bool), np.eye(items, dtype=bool)
    pair = 1 / (items * (items - 1)) if items > 1 else 0.0
    blocks = np.where(same_slot[:, None, :, None], same_item[None, :, None, :] / items, 0.0)
    blocks += np.where(~same_slot[:, None, :, None] & ~same_item[None, :, None, :], pair, 0.0)
    return blocks.reshape(slots * items, slots * items)


def general_weights(gamma: Array, target_moment: Floats, slates: Ints) -> Array:
    """Return pseudo-inverse weights G [N] of slates with dependent slots, for `SlateFeedback.pseudo_weight`.

    Args:
        gamma: [K M, K M], Gamma of the logging policy, the same in all rounds.
        target_moment: [K M] or [N, K M], q_pi: the target's probability of each item in each slot.
        slates: [N, K], the logged items, 0..M-1.

    Returns:
        G [N], mean 1 if the target has the support of the logging policy.

    Raises:
        DataError: the target shows an item in a slot where the logging policy never shows it.
    """
    slots = slates.shape[1]
    items = len(gamma) // slots
    moment = np.broadcast_to(target_moment, (len(slates), slots * items))
    unsupported = (moment > 0) & (np.diag(gamma) <= 0)
    if unsupported.any():
        row, cell = (int(i) for i in np.argwhere(unsupported)[0])
        raise DataError(
            f"row {row}: the target shows item {cell % items} in slot {cell // items}, the logging policy never; no "
            "log can show its reward: restrict the target to the items that the logging policy shows in that slot"
        )
    by_cell = np.atleast_2d(target_moment) @ np.linalg.pinv(gamma, rcond=_SMALLEST, hermitian=True)  # [N or 1, K M]
    by_cell = np.broadcast_to(by_cell, moment.shape)
    cells = np.arange(slots) * items + slates  # [N, K]
    return np.take_along_axis(by_cell, cells, axis=1).sum(axis=1)
