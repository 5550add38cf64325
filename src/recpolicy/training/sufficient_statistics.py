"""Sufficient statistics of one linear model per arm, computed from a log in one pass and additive over logs.

N rounds, U users, A arms, D features. The statistics of an arm are the sums over its rounds of x x' (the Gram matrix
G), r x (the moment b), 1 and r^2. With prior mean m and covariance P (over the noise variance) the posterior is

    P_n = (I + P G)^-1 P,    theta_n = m + P_n (b - G m),

which equals the result of the Sherman-Morrison steps of agents/linear_posterior.py in any order, if nothing is
forgotten. All arithmetic is float64. Rounds are sorted by arm, so each arm's sums are matrix products without a loop
over rounds. Source: Li et al. 2010 (WWW), algorithm 1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.types import Array
from recpolicy.data.bandit_log import BanditLog

_ROWS = 1 << 18
"""Number of rounds of one arm whose features are in memory at once."""


@dataclass(frozen=True)
class SufficientStatistics:
    """The statistics of a log for A linear models."""

    gram: Array  # [A, D, D]
    moment: Array  # [A, D]
    count: NDArray[np.int64]  # [A]
    squares: float
    """Sum of squared rewards of all rounds."""

    @classmethod
    def from_log(
        cls, log: BanditLog, context: NDArray[np.floating], action_items: NDArray[np.int32],
        row: NDArray[np.int32] | None = None,
    ) -> "SufficientStatistics":  # fmt: skip
        """Return the sums of all rounds; context [U, D] belongs to users, catalog [A] has the arms' item rows, sorted.

        Vectors of the log replace their users' contexts. `row` [N] is the context row of each round; it defaults to
        `log.distinct_contexts`. Raises DataError for a log that shows items outside the catalog, or has vectors of
        another length.
        """
        arm = places(log, action_items)
        if row is None:
            context, row = log.distinct_contexts(context)
        arms, features = len(action_items), context.shape[1]
        order = np.argsort(arm, kind="stable")
        row, reward = row[order], log.reward[order]
        count = np.bincount(arm, minlength=arms)
        start = np.concatenate([[0], np.cumsum(count)])
        gram, moment = np.zeros((arms, features, features)), np.zeros((arms, features))
        for arm_index in np.flatnonzero(count):
            for first in range(start[arm_index], start[arm_index + 1], _ROWS):
                rows = slice(first, min(first + _ROWS, start[arm_index + 1]))
                x = context[row[rows]].astype(np.float64)  # [n, D]
                gram[arm_index] += x.T @ x
                moment[arm_index] += reward[rows] @ x
        return cls(gram, moment, count, float(log.reward @ log.reward))

    def __mul__(self, times: int) -> "SufficientStatistics":
        """Return the sums of that many passes over the same rounds."""
        return SufficientStatistics(self.gram * times, self.moment * times, self.count * times, self.squares * times)

    def squared_error(self, theta: Array) -> float:
        """Return the mean squared error of the models theta [A, D] over the rounds; 0 without rounds."""
        explained = np.einsum("ad,ad->", theta, np.einsum("ade,ae->ad", self.gram, theta))
        total = self.squares - 2 * float((theta * self.moment).sum()) + float(explained)
        return max(total, 0.0) / max(int(self.count.sum()), 1)


def merge(first: SufficientStatistics, second: SufficientStatistics) -> SufficientStatistics:
    """Return the sums of two logs together; raises DataError if arms or features differ."""
    if first.moment.shape != second.moment.shape:
        raise DataError(
            f"statistics of {first.moment.shape} and {second.moment.shape} arms and features cannot be merged; use"
            " the same catalog and contexts for both"
        )
    return SufficientStatistics(
        first.gram + second.gram,
        first.moment + second.moment,
        first.count + second.count,
        first.squares + second.squares,
    )


def posterior(
    statistics: SufficientStatistics, theta: NDArray[np.floating], covariance: NDArray[np.floating]
) -> tuple[Array, Array]:
    """Return the posterior means [A, D] and covariances [A, D, D], given the prior theta and covariance."""
    seen = np.flatnonzero(statistics.count)
    new_theta, new_covariance = theta.astype(np.float64), covariance.astype(np.float64)
    before, mean, gram = new_covariance[seen], new_theta[seen], statistics.gram[seen]
    after = np.linalg.solve(np.eye(theta.shape[1]) + before @ gram, before)
    after = (after + after.transpose(0, 2, 1)) / 2
    surprise = statistics.moment[seen] - np.einsum("ade,ae->ad", gram, mean)
    new_theta[seen] = mean + np.einsum("ade,ae->ad", after, surprise)
    new_covariance[seen] = after
    return new_theta, new_covariance


def places(log: BanditLog, action_items: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return the position [N] of each logged item in the catalog [A]; raises DataError for items outside it."""
    strange = ~np.isin(log.item, action_items)
    if strange.any():
        raise DataError(
            f"{log.name}: {int(strange.sum())} of {len(log)} rounds show items that are not among the"
            f" {len(action_items)} of the policy; learn from a log with the policy's catalog, or train a policy"
            " with the log's"
        )
    return np.searchsorted(action_items, log.item).astype(np.int32)
