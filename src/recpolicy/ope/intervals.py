"""Intervals and diagnostics of off-policy estimates, with users as clusters, because rounds of one user are correlated.

N rounds of U users, per-round terms [N] whose mean is the estimate V. Assumptions of each interval:

- `student_t`: users independent, their influences not too skewed. With one round a user and a mean it is Student's t,
  with fewer degrees of freedom where a few users dominate (`degrees_of_freedom`).
- `expanded_percentile`: the same; percentiles of the user bootstrap (inference.py), as far out as the t interval.
- `confidence_sequence`: the same, for many users. It holds at all log sizes at once, so it may be checked every day.
  Normal mixture, asymptotic (Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, theorem 2.2).
- `empirical_bernstein`: users independent and terms within bounds known before the data. It holds at every size (Maurer
  & Pontil 2009, theorem 11). It is loose where users have many or unequal numbers of rounds.

The first two need the estimator recomputed on other sets of users. Their standard error is the jackknife's, which also
covers the weights that an estimator divides by, and is biased upwards (Efron & Stein 1981).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.statistics import LEVEL, Interval, confidence_sequence_half_width
from recpolicy.core.types import Array
from recpolicy.ope.feedback import Clusters
from recpolicy.ope.weights import effective_sample_size

MIN_EFFECTIVE_SAMPLE_SIZE = 50
"""Effective sample size below which there is no verdict."""
MAX_MEAN_WEIGHT_Z = 4.0
"""Standard errors between the mean weight and 1 above which there is no verdict."""
_EQUAL = 1e-9


@dataclass(frozen=True)
class Diagnostics:
    """A summary of the weights w = pi / mu over N rounds of U users."""

    rounds: int
    users: int
    effective_sample_size: float
    """(sum w)^2 / sum w^2 of the weights before any transform."""
    max_weight: float
    share_clipped: float
    """Fraction of rounds whose weight the estimator reduced."""
    mean_weight: float
    """Expected to be 1. Well below 1 the target acts where the log has no data; otherwise propensities are wrong."""
    mean_weight_error: float
    """Standard error of the mean weight, with users as clusters; NaN for a single user."""

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
    mean = float(weight.mean())
    residual = clusters.sums(weight) - mean * clusters.size  # [U]
    users = len(clusters)
    return Diagnostics(
        rounds=len(weight),
        users=users,
        effective_sample_size=effective_sample_size(weight),
        max_weight=float(weight.max()),
        share_clipped=float(np.mean(transformed_weight < weight)),
        mean_weight=mean,
        mean_weight_error=clustered_error(residual, len(weight)) if users > 1 else float("nan"),
    )


def clustered_error(residual: Array, rounds: int) -> float:
    """Return the standard error of a mean over rounds from users' sums of deviations [U], U > 1 (robust, CR1)."""
    users = len(residual)
    return float(np.sqrt(users / (users - 1) * (residual @ residual))) / rounds


def mean_and_error(terms: Array, clusters: Clusters) -> tuple[float, float]:
    """Return the mean of terms [N] and its clustered standard error. Raises DataError for a single user."""
    _check_several(clusters.size)
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


def student_t(value: float, jackknife: Array, level: float = LEVEL) -> Interval:
    """Return `value` with its t interval; jackknife [G]: the estimate without each user in turn.

    Raises:
        DataError: fewer than two users.
    """
    half = float(_t_quantile(degrees_of_freedom(jackknife), level) * jackknife_error(jackknife))
    return Interval(value, value - half, value + half, level)


def expanded_percentile(value: float, bootstrap: Array, jackknife: Array, level: float = LEVEL) -> Interval:
    """Return `value` between percentiles of its resampled values [B].

    Plain percentiles fit a normal estimate with a known standard error and a sample variance that divides by U. These
    percentiles lie as far out as the t interval of the same estimate (Hesterberg 2015).

    Args:
        value: the estimate. bootstrap: [B], the estimate on resampled users.
        jackknife: [G], the estimate without each user in turn.

    Raises:
        DataError: fewer than two users.
    """
    from scipy.special import ndtr

    users = len(jackknife)
    distance = _t_quantile(degrees_of_freedom(jackknife), level) * np.sqrt(users / (users - 1))
    tail = ndtr(-distance)
    lo, hi = np.quantile(bootstrap, [tail, 1 - tail])
    return Interval(value, float(lo), float(hi), level)


def jackknife_error(jackknife: Array) -> float:
    """Return the standard error of an estimate from its values [G] without each user in turn. DataError below two."""
    users = _check_several(jackknife)
    return float(np.sqrt((users - 1) * jackknife.var()))


def degrees_of_freedom(jackknife: Array) -> float:
    """Return the degrees of freedom of the jackknife's variance; jackknife [G] as in `jackknife_error`.

    The t distribution assumes a variance estimated from G normal numbers, with G - 1 degrees. Where a few users with
    large weights dominate, the variance is less certain. For numbers with excess kurtosis k its own variance is
    s^4 (2 / (G - 1) + k / G), that of a chi-square with 2 / (2 / (G - 1) + k / G) degrees (Satterthwaite 1946; O'Neill
    2014). The result is at most G - 1.
    """
    users = _check_several(jackknife)
    std = float(jackknife.std())
    excess = max(float(np.mean(((jackknife - jackknife.mean()) / std) ** 4)) - 3, 0.0) if std > 0 else 0.0
    return 1 / (1 / (users - 1) + excess / (2 * users))


def confidence_sequence(terms: Array, clusters: Clusters, level: float = LEVEL) -> Interval:
    """Return the mean of terms [N] with its anytime-valid interval. Raises DataError for a single user."""
    value, error = mean_and_error(terms, clusters)
    half = confidence_sequence_half_width(error, len(clusters), level)
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
    users = _check_several(values)
    logarithm = np.log(2 / alpha)
    deviation = np.sqrt(2 * values.var(ddof=1) * logarithm / users)
    return float(deviation + 7 * width * logarithm / (3 * (users - 1)))


def _t_quantile(freedom: float, level: float) -> float:
    """Return the half-width of a t interval in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))


def _check_several(values: NDArray[np.number]) -> int:
    """Return the number of users; raise DataError for a single one."""
    users = len(values)
    if users < 2:
        raise DataError("interval: a single user shows no variance; at least two users are needed")
    return users
