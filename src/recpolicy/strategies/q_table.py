"""Tabular Q-learning over the states that were seen.

S states seen, N rounds, A = 27 actions. A round in state s with action a and reward r moves its cell by

    Q(s, a) += alpha (r + gamma max_b Q(s', b) - Q(s, a)),

where s' is the state of the next round of the same session. Without a next round the target is r: a request alone is
not the start of a sequence, and a bootstrap would add noise to it. Rounds are learned one after the other, so learning
in two parts equals learning at once if no session is cut. Cells that nobody visited are 0.

With a constant alpha, Q is the mean of the targets with weights alpha (1 - alpha)^i, i rounds ago, plus a rest
(1 - alpha)^n of the initial 0. `means` removes the rest; `effective_visits` is the number of equally weighted rounds
with the same variance. Source: Watkins & Dayan 1992.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Array
from recpolicy.strategies.config import ACTIONS, LearningConfig
from recpolicy.strategies.state import States

NO_NEXT = -1


@dataclass(frozen=True)
class QTable:
    """Q-values and visits of the states seen; all other states have zeros."""

    states: States  # [S], ascending numbers of states
    q: Array  # [S, A]
    visits: NDArray[np.int64]  # [S, A], rounds that each cell learned

    @classmethod
    def empty(cls) -> "QTable":
        """Return the table before the first round."""
        return cls(np.empty(0, np.int64), np.empty((0, ACTIONS)), np.empty((0, ACTIONS), np.int64))

    def rows(self, states: States) -> NDArray[np.int64]:
        """Return the row [N] of each state, or S for a state that was not seen."""
        if not len(self.states):
            return np.zeros(len(states), np.int64)
        row = np.minimum(np.searchsorted(self.states, states), len(self.states) - 1)
        return np.where(self.states[row] == states, row, len(self.states))

    def updated(
        self, states: States, action: NDArray[np.integer[Any]], reward: Array, has_next: NDArray[np.bool_],
        config: LearningConfig,
    ) -> "QTable":  # fmt: skip
        """Return the table after learning rounds in their order.

        Args:
            states: [N], numbers of states.
            action: [N], 0..26.
            reward: [N].
            has_next: [N], True if the next round belongs to the same session.
            config: Step size and discount.
        """
        known = np.union1d(self.states, states)
        q, visits = np.zeros((len(known), ACTIONS)), np.zeros((len(known), ACTIONS), np.int64)
        old = np.searchsorted(known, self.states)
        q[old], visits[old] = self.q, self.visits
        row = np.searchsorted(known, states)
        following = np.where(has_next, np.append(row[1:], NO_NEXT), NO_NEXT) if len(row) else row
        learn_in_order(
            q, visits, row, np.asarray(action, np.int64), np.asarray(reward, np.float64), following,
            config.learning_rate, config.gamma, config.step == "average",
        )  # fmt: skip
        return QTable(known, q, visits)


def learn_in_order(
    q: Array, visits: NDArray[np.int64], row: NDArray[np.int64], action: NDArray[np.int64], reward: Array,
    following: NDArray[np.int64], learning_rate: float, gamma: float, average: bool,
) -> None:  # fmt: skip
    """Learn rounds in their order, in place.

    Each round reads what the rounds before have written. Views of memory read and write single numbers without NumPy's
    cost per call.

    Args:
        q: [S, A], Q-values, contiguous.
        visits: [S, A], rounds that each cell learned, contiguous.
        row: [N], row of each round's state.
        action: [N].
        reward: [N].
        following: [N], row of the next state in the session, or -1.
        learning_rate: The step, unless `average`.
        gamma: Discount.
        average: Steps of 1 / visits.
    """
    actions = q.shape[1]
    value, count = q.data.cast("B").cast("d"), visits.data.cast("B").cast("q")
    cells, next_rows = (row * actions + action).tolist(), (following * actions).tolist()
    for cell, target, start in zip(cells, reward.tolist(), next_rows, strict=True):
        if start >= 0:
            target += gamma * max(value[start : start + actions].tolist())
        number = count[cell] + 1
        count[cell] = number
        step = 1.0 / number if average else learning_rate
        old = value[cell]
        value[cell] = old + step * (target - old)


def means(q: Array, visits: NDArray[np.int64], config: LearningConfig) -> Array:
    """Return the weighted mean target of each cell [n, A] without the rest of the initial 0; 0 for unvisited cells."""
    if config.step == "average" or config.learning_rate == 1:
        return q
    rest = np.power(1 - config.learning_rate, visits)
    return np.divide(q, 1 - rest, out=np.zeros_like(q), where=visits > 0)


def effective_visits(visits: NDArray[np.int64], config: LearningConfig) -> Array:
    """Return the equally weighted rounds behind each mean [n, A]: (sum w)^2 / sum w^2, or n for average steps."""
    count = visits.astype(np.float64)
    if config.step == "average":
        return count
    keep = 1 - config.learning_rate
    rest = np.power(keep, count)
    # sum w = 1 - rest and sum w^2 = alpha^2 (1 - rest^2) / (1 - keep^2), for weights alpha keep^i
    return (1 - rest) / (1 + rest) * (1 + keep) / (1 - keep)


def ucb1(value: Array, visits: Array, c: float) -> Array:
    """Return value + c sqrt(ln N / n) [..., A], N the sum of the visits; actions without a visit are infinite.

    Source: Auer, Cesa-Bianchi & Fischer 2002; theirs has c = sqrt(2).
    """
    total = np.maximum(visits.sum(axis=-1, keepdims=True), 1.0)
    width = c * np.sqrt(np.log(total) / np.maximum(visits, 1.0))
    return np.where(visits > 0, value + width, np.inf)
