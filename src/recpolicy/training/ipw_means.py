"""Inverse-propensity-weighted means: the mean reward of each arm over all users, self-normalized.

N rounds, A arms. The plain mean of an arm's rewards covers only users to whom the logging policy showed it. Weighting
by 1 / propensity gives the mean over all users, up to a bias of order 1 / n:

    mean_a = sum(r / p) / sum(1 / p),    effective rounds of a = sum(1 / p)^2 / sum(1 / p^2),

each over the rounds of arm a. This is the SNIPS estimate of the policy that always shows a. Sums of two logs can be
added. Source: Swaminathan & Joachims 2015; Kish 1965 for the effective number.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.types import Array
from recpolicy.data.bandit_log import BanditLog
from recpolicy.training.sufficient_statistics import places

_LEAST = -300.0
"""Lower bound of log-propensities: the square of a weight above exp(300) would overflow a float64."""


@dataclass(frozen=True)
class IPWMeans:
    """The sums over the rounds of A arms."""

    weight: Array  # [A], of 1 / p
    square: Array  # [A], of 1 / p^2
    reward: Array  # [A], of r / p

    @classmethod
    def from_log(cls, log: BanditLog, action_items: NDArray[np.int32]) -> "IPWMeans":
        """Return the sums of all rounds; raises DataError for a log that shows items outside the catalog [A]."""
        arm, arms = places(log, action_items), len(action_items)
        each = np.exp(-np.maximum(log.log_propensity, _LEAST))  # [N]
        return cls(
            *(np.bincount(arm, values, arms).astype(np.float64) for values in (each, each**2, each * log.reward))
        )

    @property
    def mean(self) -> Array:
        """Mean rewards [A]; 0 where an arm has no round."""
        return np.divide(self.reward, self.weight, out=np.zeros_like(self.reward), where=self.weight > 0)

    @property
    def effective(self) -> Array:
        """Effective rounds [A]: as many equally weighted ones would be as good."""
        return np.divide(self.weight**2, self.square, out=np.zeros_like(self.weight), where=self.square > 0)


def merge(first: IPWMeans, second: IPWMeans) -> IPWMeans:
    """Return the sums of two logs together; raises DataError if the arms differ."""
    if len(first.weight) != len(second.weight):
        raise DataError(f"means of {len(first.weight)} and of {len(second.weight)} arms cannot be merged")
    return IPWMeans(first.weight + second.weight, first.square + second.square, first.reward + second.reward)
