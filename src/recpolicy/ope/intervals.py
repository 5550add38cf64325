"""Bounds, diagnostics and intervals of off-policy estimates, with users as clusters.

N rounds of U users, per-round terms [N] whose mean is the estimate V. core/statistics.py has the t interval, the
bootstrap and their second part for rare rewards. Assumptions of the two intervals here:

- `confidence_sequence`: users independent, and many of them. It holds at all log sizes at once, so it may be checked
  every day. Normal mixture, asymptotic (Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, theorem 2.2).
- `empirical_bernstein`: users independent and terms within bounds known before the data. It holds at every size (Maurer
  & Pontil 2009, theorem 11). It is loose where users have many or unequal numbers of rounds.
"""

from dataclasses import dataclass

import numpy as np

from recpolicy.core.statistics import (
    LEVEL,
    MIN_SEQUENCE_SIZE,
    Interval,
    check_several,
    confidence_sequence_half_width,
    effective_sample_size,
)
from recpolicy.core.types import Array
from recpolicy.ope.feedback import Clusters
from recpolicy.ope.weights import tail_index

MIN_EFFECTIVE_SAMPLE_SIZE = MIN_SEQUENCE_SIZE
"""Effective sample size below which there is no verdict."""
MAX_MEAN_WEIGHT_Z = 3.0
"""Standard errors between the mean weight and 1 above which there is no verdict."""
MAX_TAIL_INDEX = 0.7
"""Tail index of the users' weights above which there is no verdict: their variance does not exist."""
_EQUAL = 1e-9
_DOMINANT = 0.02  # share of one user in the sum of squares above which the tail matters (Lindeberg's condition)


@dataclass(frozen=True)
class Diagnostics:
    """A summary of the weights w = pi / mu over N rounds of U users, before any transform."""

    rounds: int
    users: int
    effective_sample_size: float
    """(sum W)^2 / sum W^2 of the users' total weights W [U]: the number of equally weighted users that tell as much."""
    effective_rounds: float
    """(sum w)^2 / sum w^2 of the weights of single rounds; not smaller than the effective sample size if w >= 0."""
    max_weight: float
    share_clipped: float
    """Fraction of rounds whose weight the estimator reduced."""
    mean_weight: float
    """Expected to be 1. Well below 1 the target acts where the log has no data; otherwise propensities are wrong."""
    mean_weight_error: float
    """Standard error of the mean weight, with users as clusters; NaN for a single user."""
    tail_index: float
    """Shape k of the generalized Pareto distribution of the largest mean weights of users; moments of order 1 / k and
    above do not exist. 0 or less for weights with a bound."""

    @property
    def sound(self) -> bool:
        """True if the log allows a verdict on the policy."""
        return self.has_enough_samples and self.mean_weight_ok and self.tail_ok

    @property
    def problem(self) -> str | None:
        """The reason in words why there is no verdict; None if there is one."""
        if not self.has_enough_samples:
            return f"effective sample size {self.effective_sample_size:.0f}, below {MIN_EFFECTIVE_SAMPLE_SIZE}"
        if not self.mean_weight_ok:
            return f"mean weight {self.mean_weight:.3f}, {self.mean_weight_z:.1f} standard errors from 1"
        return None if self.tail_ok else f"heavy-tailed weights, tail index {self.tail_index:.2f}"

    @property
    def tail_ok(self) -> bool:
        """True if the tail of the users' weights allows a verdict."""
        return self.tail_index <= MAX_TAIL_INDEX

    @property
    def has_enough_samples(self) -> bool:
        """True if the effective sample size allows a verdict."""
        return self.effective_sample_size >= MIN_EFFECTIVE_SAMPLE_SIZE

    @property
    def mean_weight_ok(self) -> bool:
        """True if the mean weight allows a verdict; far from 1, the log misses much of the target's behavior."""
        return self.mean_weight_z <= MAX_MEAN_WEIGHT_Z

    @property
    def mean_weight_z(self) -> float:
        """Distance of the mean weight from 1 in standard errors; 0 when it is 1."""
        distance = abs(self.mean_weight - 1)
        if distance < _EQUAL:
            return 0.0
        return distance / self.mean_weight_error if self.mean_weight_error > 0 else float("inf")


def diagnose(weight: Array, transformed_weight: Array, clusters: Clusters) -> Diagnostics:
    """Return diagnostics of weights [N] and of the weights that the estimator used instead [N]."""
    mean, totals = float(weight.mean()), clusters.sums(weight)  # [U]
    residual = totals - mean * clusters.size  # [U]
    users, each = len(clusters), totals / clusters.size
    return Diagnostics(
        rounds=len(weight),
        users=users,
        effective_sample_size=effective_sample_size(totals),
        effective_rounds=effective_sample_size(weight),
        max_weight=float(weight.max()),
        share_clipped=float(np.mean(transformed_weight < weight)),
        mean_weight=mean,
        mean_weight_error=clustered_error(residual, len(weight)) if users > 1 else float("nan"),
        tail_index=tail_index(each) if float((each**2).max()) > _DOMINANT * float(each @ each) else 0.0,
    )


def clustered_error(residual: Array, rounds: int) -> float:
    """Return the standard error of a mean over rounds from users' sums of deviations [U], U > 1 (robust, CR1)."""
    users = len(residual)
    return float(np.sqrt(users / (users - 1) * (residual @ residual))) / rounds


def mean_and_error(terms: Array, clusters: Clusters) -> tuple[float, float]:
    """Return the mean of terms [N] and its clustered standard error. Raises DataError for a single user."""
    check_several(clusters.size)
    value = float(terms.mean())
    return value, clustered_error(clusters.sums(terms) - value * clusters.size, len(terms))


@dataclass(frozen=True)
class Bounds:
    """Terms [N] whose expected means lie below and above the true value, each within a range of `width`."""

    lower: Array
    upper: Array
    width: float
    value_range: tuple[float, float]
    """Range that contains the true value in any case: the range of rewards."""
    candidates: int = 1
    """Number of settings from which the data chose this one; they share the level."""

    def __sub__(self, other: "Bounds") -> "Bounds":
        """Return the bounds of the difference of two values."""
        return Bounds(
            self.lower - other.upper,
            self.upper - other.lower,
            self.width + other.width,
            (self.value_range[0] - other.value_range[1], self.value_range[1] - other.value_range[0]),
            self.candidates * other.candidates,
        )


def weighted_bounds(weight: Array, reward: Array, reward_range: tuple[float, float], max_weight: float) -> Bounds:
    """Return bounds from weights w [N] in 0..max_weight and rewards [N] in low..high.

    They are low + w (r - low) and high - w (high - r). With E[w] = 1 the value is low + E[w (r - low)]. Transformed
    weights only reduce that, and so does a target that takes actions that are never logged. The same holds from above.
    """
    low, high = reward_range
    lower, upper = (edge + weight * (reward - edge) for edge in reward_range)
    return Bounds(lower, upper, max_weight * (high - low), reward_range)


def pseudo_inverse_bounds(
    weight: Array, reward: Array, slots: int, reward_range: tuple[float, float], max_weight: float
) -> Bounds:
    """Return bounds from weights G [N] of K independent slots: m + G (R - m), with m the middle of the reward range.

    Where slot rewards add up and the target has support in every slot, E[G] = 1 makes their mean the target's value; as
    for `pi` itself, not where slots interact. |R - m| is at most half the range and G lies in 1-K..max_weight, so terms
    lie within max(max_weight, K - 1) times the range. `max_weight` may be that of the product of ratios: with y_k >= 1
    the maximum of slot k (its mean is 1), G <= 1 + sum_k (y_k - 1) <= prod_k y_k (Bernoulli's inequality).
    """
    low, high = reward_range
    middle = (low + high) / 2
    terms = middle + weight * (reward - middle)
    return Bounds(terms, terms, max(max_weight, slots - 1.0) * (high - low), reward_range)


def confidence_sequence(
    terms: Array, clusters: Clusters, level: float = LEVEL, step: float = 0.0, size: float | None = None
) -> Interval:
    """Return the mean of terms [N] with its anytime-valid interval.

    Args:
        terms: [N]. clusters: the users. level: probability that it contains the true value at all sizes of the log.
        step: see core.statistics.half_width. size: effective sample size; None is the number of users.

    Returns:
        The interval; infinitely wide below an effective sample size of MIN_SEQUENCE_SIZE.

    Raises:
        DataError: a single user.
    """
    value, error = mean_and_error(terms, clusters)
    half = confidence_sequence_half_width(error, len(clusters), level, step=step, size=size)
    return Interval(value, value - half, value + half, level)


def empirical_bernstein(value: float, bounds: Bounds, clusters: Clusters, level: float = LEVEL) -> Interval:
    """Return `value` with limits that contain the true value with probability `level` or more at every size.

    Users' sums are scaled so that their mean is the mean over rounds; one user then spans at most width * (most rounds
    of a user) / (mean rounds of a user). The lower terms give the lower limit, the upper terms the upper limit, both
    clipped to bounds.value_range. `value` itself may lie outside.

    Raises:
        DataError: a single user.
    """
    users, rounds = len(clusters), len(clusters.index)
    scale = users / rounds
    width = bounds.width * scale * float(clusters.size.max())
    alpha = (1 - level) / 2 / bounds.candidates
    low, high = (clusters.sums(terms) * scale for terms in (bounds.lower, bounds.upper))  # [U]
    lo = float(low.mean()) - bernstein_margin(low, width, alpha)
    hi = float(high.mean()) + bernstein_margin(high, width, alpha)
    lo, hi = np.clip([min(lo, hi), max(lo, hi)], *bounds.value_range)
    return Interval(value, float(lo), float(hi), level)


def bernstein_margin(values: Array, width: float, alpha: float) -> float:
    """Return the most by which the mean of values [U] exceeds its expectation, except with probability alpha.

    sqrt(2 V ln(2/alpha) / U) + 7 width ln(2/alpha) / (3 (U - 1)) with V the sample variance; values are independent,
    each within a range of `width`. For a two-sided interval give half of alpha.

    Raises:
        DataError: a single value.
    """
    users = check_several(values)
    logarithm = np.log(2 / alpha)
    deviation = np.sqrt(2 * values.var(ddof=1) * logarithm / users)
    return float(deviation + 7 * width * logarithm / (3 * (users - 1)))
