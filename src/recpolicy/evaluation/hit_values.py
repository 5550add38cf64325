"""Value of a policy over weight vectors from a uniform log: rewards of the requests in which the log did the same.

N held-out requests, A grid points, U users. A *hit* is a request whose log shows what the policy would have shown. Two
kinds of hits have exact propensities under a uniform log:

    action hit  the logged grid point is that of the policy                        propensity 1 / A
    slate hit   the logged slate is that of the policy, whatever grid point led to it    share of the A points that do

A reward depends on the weights only through the slate, so slate hits are as unbiased as action hits, and the variance
never rises: it is the action hit averaged over all points with the same slate. Many points share a slate, so there are
many more of them. A request that fell back to the static weights counts for its logged point or slate: the fallback is
a consequence of the reserve, and leaving it out would favor high reserves.

    V = mean b + sum w (r - b) / sum w,   w = hit / propensity,   b: a baseline of the request, 0 without one

Errors are those of the influence function; requests of one user are added first. The interval is Student's t with the
margin for rare rewards (core/statistics.py).

Sources: Saito & Joachims 2022 (marginal weights; a slate has no direct effect of the weights); Dudik, Langford & Li
2011 (baseline); Swaminathan & Joachims 2015 (normalization by the sum of weights); Hollis & Campbell 1999 (intention to
treat: judge by what was assigned).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.statistics import LEVEL, Interval, largest_step, student_t
from recpolicy.core.types import Array, Bools
from recpolicy.data.tuning_log import TuningLog


@dataclass(frozen=True)
class Hits:
    """Requests in which the log did what a policy would do, and how probable that was."""

    match: Bools  # [N]
    propensity: Array  # [N], of what the log did: an action or a slate

    def __post_init__(self) -> None:
        if self.match.shape != self.propensity.shape:
            raise DataError(f"hits: {self.match.shape} requests and {self.propensity.shape} propensities")

    @property
    def weight(self) -> NDArray[np.float64]:
        """Importance weights [N], 0 where the log did something else."""
        return np.where(self.match, 1.0 / self.propensity, 0.0)

    @property
    def count(self) -> int:
        """Number of hits."""
        return int(self.match.sum())

    @property
    def effective_count(self) -> float:
        """Number of hits of equal weight with the same variance: (sum w)^2 / sum w^2 (Kish 1965)."""
        weight = self.weight
        square = float(weight @ weight)
        return float(weight.sum()) ** 2 / square if square else 0.0


def action_hits(log: TuningLog, action: "NDArray[np.integer] | int") -> Hits:
    """Return the hits of a policy that would serve the grid points `action` [N], or one for all."""
    return Hits(np.asarray(log.action == action), log.propensity)


def log_hits(log: TuningLog, action: "NDArray[np.integer] | int") -> Hits:
    """Return slate hits if the log knows the slates of all grid points, else action hits."""
    if log.slates is None or log.unit is None:
        return action_hits(log, action)
    group = log.slates.group
    return Hits(
        group[log.unit, log.action] == group[log.unit, action],
        log.slates.share[log.unit, log.action].astype(np.float64),
    )


@dataclass(frozen=True)
class HitValue:
    """An estimated value and the influence of each request on it."""

    value: float
    influence: Array  # [N], mean 0
    effective_count: float

    @classmethod
    def of_hits(cls, log: TuningLog, hits: Hits, baseline: Array | None = None) -> "HitValue":
        """Return the value of a policy; NaN without hits.

        Args:
            log: N requests that neither the policy nor the baseline was fitted on.
            hits: Hits of the policy.
            baseline: [N], predicted rewards of the requests whatever is shown. Any baseline leaves the mean unbiased.
        """
        weight, mean = hits.weight, float(hits.weight.mean())
        if not mean:
            return cls(float("nan"), np.zeros(len(log)), 0.0)
        rest = log.reward if baseline is None else log.reward - baseline
        correction = float(weight @ rest) / (mean * len(log))
        influence = weight / mean * (rest - correction)
        if baseline is None:
            return cls(correction, influence, hits.effective_count)
        center = float(baseline.mean())
        return cls(center + correction, influence + baseline - center, hits.effective_count)

    @classmethod
    def of_log(cls, log: TuningLog) -> "HitValue":
        """Return the value of the logging policy: the mean reward."""
        mean = float(log.reward.mean())
        return cls(mean, log.reward - mean, float(len(log)))

    def interval(self, log: TuningLog, level: float = LEVEL) -> Interval:
        """Return the value with its interval."""
        influence = _by_user(log, self.influence)
        if self.effective_count < 2 or len(influence) < 2:
            return Interval.unbounded(self.value, level)
        step = float(largest_step(float(log.reward.max() - log.reward.min()), self.effective_count))
        return student_t(self.value, self.value - influence / (len(influence) - 1), level, step)

    def relative_to(self, other: "HitValue", log: TuningLog, level: float = LEVEL) -> Interval:
        """Return value / other value - 1 with its interval; requests that count for both are paired."""
        if self.effective_count < 2 or other.effective_count < 2 or not other.value > 0:
            known = other.value > 0 and np.isfinite(self.value)
            return Interval.unbounded(self.value / other.value - 1 if known else float("nan"), level)
        ratio = self.value / other.value
        influence = _by_user(log, (self.influence - ratio * other.influence) / other.value)
        if len(influence) < 2:
            return Interval.unbounded(ratio - 1, level)
        width = float(log.reward.max() - log.reward.min()) / other.value
        step = float(largest_step(width, self.effective_count, other.effective_count))
        return student_t(ratio - 1, ratio - 1 - influence / (len(influence) - 1), level, step)


def _by_user(log: TuningLog, influence: Array) -> Array:
    """Return the influences [U] of users, which have mean 0 over users as those of requests have."""
    if log.unit is None:
        return influence
    total = np.bincount(log.unit, influence)[np.bincount(log.unit) > 0]
    return np.asarray(total * (len(total) / len(log)))
