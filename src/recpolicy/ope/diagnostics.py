"""How much a log can say about a target policy."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.ope.rounds import Units
from recpolicy.ope.weights import effective_size

Array = NDArray[np.float64]

LEAST_EFFECTIVE_ROUNDS = 50
"""Below this effective sample size no verdict is given."""

MOST_OFF = 4.0
"""Standard errors by which the mean weight may be away from 1 for a verdict."""

_EQUAL = 1e-9


@dataclass(frozen=True)
class Diagnostics:
    """Weights w = pi / mu over N rounds of U users."""

    rounds: int
    users: int
    effective_rounds: float
    """(sum w)^2 / sum w^2 of the weights before they are tamed."""
    largest_weight: float
    share_tamed: float
    """Share of rounds whose weight the estimator reduced."""
    mean_weight: float
    """Should be 1: well below, the target does what was never logged; well off, propensities are wrong."""
    mean_weight_error: float
    """Its standard error, users being the units; NaN for a single user."""

    @property
    def enough(self) -> bool:
        """Whether the effective sample size allows a verdict."""
        return self.effective_rounds >= LEAST_EFFECTIVE_ROUNDS

    @property
    def sound(self) -> bool:
        """Whether the mean weight allows a verdict: far from 1, much of what the target does was never logged."""
        return self.weight_off <= MOST_OFF

    @property
    def weight_off(self) -> float:
        """By how many standard errors the mean weight is away from 1; 0 when it is 1."""
        off = abs(self.mean_weight - 1)
        if off < _EQUAL:
            return 0.0
        return off / self.mean_weight_error if self.mean_weight_error > 0 else float("inf")


def diagnose(weight: Array, used: Array, units: Units) -> Diagnostics:
    """Describe weights [N] and what an estimator made of them, `used` [N]."""
    mean = float(weight.mean())
    residual = units.totals(weight) - mean * units.size  # [U]
    users = len(units)
    return Diagnostics(
        rounds=len(weight),
        users=users,
        effective_rounds=effective_size(weight),
        largest_weight=float(weight.max()),
        share_tamed=float(np.mean(used < weight)),
        mean_weight=mean,
        mean_weight_error=clustered_error(residual, len(weight)) if users > 1 else float("nan"),
    )


def clustered_error(residual: Array, rounds: int) -> float:
    """Standard error of a mean over rounds from the users' sums of deviations [U], U > 1 (cluster-robust, CR1)."""
    users = len(residual)
    return float(np.sqrt(users / (users - 1) * (residual @ residual))) / rounds
