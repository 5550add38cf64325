"""Means with intervals: percentile bootstrap over users, and confidence sequences for repeated looks.

Ratings of one user are correlated, so the bootstrap resamples users, not single ratings. U' users with one value each,
B resamples of U' users. Sources: Efron & Tibshirani 1993, chapter 13 (bootstrap); Waudby-Smith, Arbour, Sinha, Kennedy
& Ramdas 2024, theorem 2.2 (confidence sequence).
"""

from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError

RESAMPLES = 1_000
LEVEL = 0.95
TIGHTEST_AT = 1_000
"""Sample size at which confidence sequences are tightest; fixed before the data, with little effect elsewhere."""
_CELLS = 1 << 22  # draws held in memory at once: 32 MB


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval [lo, hi] that contains the true value with probability about `level`."""

    value: float
    lo: float
    hi: float
    level: float = LEVEL

    @classmethod
    def unbounded(cls, value: float = float("nan"), level: float = LEVEL) -> "Interval":
        """Return an infinitely wide interval, for an estimate with an unknown error."""
        return cls(value, float("-inf"), float("inf"), level)

    def as_dict(self) -> dict[str, float]:
        """Return value, lo and hi, as records in JSON hold them."""
        return {"value": self.value, "lo": self.lo, "hi": self.hi}

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.lo:.3f}, {self.hi:.3f}]"


def resampled_means(
    values: NDArray[np.floating], rng: np.random.Generator, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Return the means [B, C] of C rows of per-user values [C, U'] over B resamples of the users.

    All rows share the same draws, so differences and ratios of columns are paired and equal rows give equal columns.
    The draws depend only on the generator, U' and B.

    Args:
        values: [C, U'], finite. rng: source of the draws. resamples: B.

    Raises:
        DataError: values of no user, or values that are not finite.
    """
    rows, users = values.shape
    if users == 0 or not np.isfinite(values).all():
        raise DataError(f"bootstrap: expected finite values of at least one user, found {users} users")
    columns = values.astype(np.float64)
    means = np.empty((resamples, rows))
    chunk = max(1, _CELLS // users)
    for first in range(0, resamples, chunk):
        size = min(chunk, resamples - first)
        draws = rng.integers(users, size=(size, users))
        cell = (draws + np.arange(size)[:, None] * users).ravel()
        count = np.bincount(cell, minlength=size * users).reshape(size, users).astype(np.float64)
        for row in range(rows):  # one product per row: a matrix product may round equal rows differently
            means[first : first + size, row] = count @ columns[row] / users
    return means


def percentile_interval(value: float, resampled: NDArray[np.float64], level: float = LEVEL) -> Interval:
    """Return `value` between the (1-level)/2 and (1+level)/2 quantiles of its resampled values [B].

    Raises:
        DataError: a level outside 0..1.
    """
    if not 0 < level < 1:
        raise DataError(f"bootstrap: level {level} is not between 0 and 1; 0.95 is usual")
    lo, hi = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(lo), float(hi), level)


def mean_interval(
    values: NDArray[np.floating], rng: np.random.Generator, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """Return the mean of per-user values [U'] with its interval; the interval of a single user has no width."""
    means = resampled_means(values[None], rng, resamples)[:, 0]
    return percentile_interval(float(np.mean(values, dtype=np.float64)), means, level)


def paired_difference(
    first: NDArray[np.floating],
    second: NDArray[np.floating],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """Return mean(first - second) of two policies on the same users, both [U'], with its interval.

    The interval is much narrower than two separate ones suggest, because users differ in the same way for both.

    Raises:
        DataError: arrays of different shapes.
    """
    if first.shape != second.shape:
        raise DataError(f"paired difference: {first.shape} against {second.shape} values; expected the same users")
    return mean_interval(first.astype(np.float64) - second.astype(np.float64), rng, resamples, level)


@overload
def confidence_sequence_half_width(
    error: float, users: float, level: float = LEVEL, tightest_at: int = TIGHTEST_AT
) -> float: ...


@overload
def confidence_sequence_half_width(
    error: NDArray[np.float64],
    users: NDArray[np.floating] | float,
    level: float = LEVEL,
    tightest_at: int = TIGHTEST_AT,
) -> NDArray[np.float64]: ...


def confidence_sequence_half_width(
    error: NDArray[np.float64] | float,
    users: NDArray[np.floating] | float,
    level: float = LEVEL,
    tightest_at: int = TIGHTEST_AT,
) -> NDArray[np.float64] | float:
    """Return the half-width of the anytime-valid interval of an estimate, element by element.

    The interval estimate ± half-width holds at all sample sizes at once, so it may be checked after every observation
    and the experiment may stop at any time. It is asymptotic: use it from some tens of users on.

    Args:
        error: standard error of the estimate at this sample size.
        users: U, the number of independent users behind the estimate, above 0.
        level: probability that the sequence contains the true value at every sample size.
        tightest_at: sample size at which the sequence is tightest.
    """
    alpha = 1 - level
    rho_squared = (-2 * np.log(alpha) + np.log1p(-2 * np.log(alpha))) / tightest_at
    scale = np.asarray(users, np.float64) * rho_squared  # U rho^2
    half = np.asarray(error * np.sqrt(2 * (scale + 1) / scale * np.log(np.sqrt(scale + 1) / alpha)))
    return float(half) if half.ndim == 0 else half
