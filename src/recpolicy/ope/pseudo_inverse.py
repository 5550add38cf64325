"""Pseudo-inverse weights of slates whose slots were not filled independently, such as items without repeats.

K slots, M items; 1_a in {0, 1}^{K M} says which item each slot of slate a holds (slot by slot). With
Gamma = E_mu[1_a 1_a'] and q_pi = E_pi[1_a], the weight of a logged slate is G = q_pi' Gamma^+ 1_a. If the mean reward
is a sum of what each slot's item adds and the target shows no slate that is never logged, E[G R] is the target's value.
Slots that are filled independently give 1 + sum_k (Y_k - 1).
Source: Swaminathan, Krishnamurthy, Agarwal, Dudik, Langford, Jose & Zitouni 2017.
"""

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError

Array = NDArray[np.float64]
_SMALLEST = 1e-10  # singular values below this share of the largest are taken for 0


def slate_moments(slates: NDArray[np.integer], prob: NDArray[np.floating], items: int) -> tuple[Array, Array]:
    """Return E[1_a 1_a'] [K M, K M] and E[1_a] [K M] of a policy given by all its slates [S, K] and their probs [S].

    The first of the logging policy is Gamma, the second of the target is q_pi.
    """
    shown = _indicators(slates, items)
    return (shown * prob[:, None]).T @ shown, prob @ shown


def without_repeats_moments(slots: int, items: int) -> Array:
    """Gamma [K M, K M] of slates drawn evenly from all without repeats.

    1/M for a slot's item with itself, 1/(M (M - 1)) for two items in two slots, 0 for two items in one slot and for one
    item in two slots. Raises ConfigError for more slots than items.
    """
    if not 1 <= slots <= items:
        raise ConfigError(f"slates of {slots} of {items} items without repeats; expected 1..{items} slots")
    same_slot, same_item = np.eye(slots, dtype=bool), np.eye(items, dtype=bool)
    pair = 1 / (items * (items - 1)) if items > 1 else 0.0
    blocks = np.where(same_slot[:, None, :, None], same_item[None, :, None, :] / items, 0.0)
    blocks += np.where(~same_slot[:, None, :, None] & ~same_item[None, :, None, :], pair, 0.0)
    return blocks.reshape(slots * items, slots * items)


def general_weights(gamma: Array, target_moment: NDArray[np.floating], slates: NDArray[np.integer]) -> Array:
    """Return G [N] of logged slates [N, K]; to be given as `pseudo_weight` of LoggedSlates.

    gamma [K M, K M] of the logging policy, the same in all rounds; target_moment [K M] or [N, K M]: q_pi, the target's
    probability of each item in each slot. Raises DataError where the target shows items in slots where they are never
    logged.
    """
    slots = slates.shape[1]
    items = len(gamma) // slots
    moment = np.broadcast_to(target_moment, (len(slates), slots * items))
    unseen = (moment > 0) & (np.diag(gamma) <= 0)
    if unseen.any():
        row, cell = (int(i) for i in np.argwhere(unseen)[0])
        raise DataError(
            f"row {row}: the target shows item {cell % items} in slot {cell // items}, the logging policy never; no "
            "log can say what that earns: restrict the target to what is logged"
        )
    spread = np.atleast_2d(target_moment) @ np.linalg.pinv(gamma, rcond=_SMALLEST, hermitian=True)  # [N or 1, K M]
    spread = np.broadcast_to(spread, moment.shape)
    cells = np.arange(slots) * items + slates  # [N, K]
    return np.take_along_axis(spread, cells, axis=1).sum(axis=1)


def _indicators(slates: NDArray[np.integer], items: int) -> Array:
    """1_a of each slate [S, K M]."""
    return np.eye(items)[slates].reshape(len(slates), -1)
