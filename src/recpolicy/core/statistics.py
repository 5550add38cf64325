"""Intervals by the percentile user bootstrap: users are drawn with replacement, never single ratings.

Ratings of one user resemble each other, so a bootstrap over rows would be too sure of itself. U' users with one value
each; B resamples of U' users. Source: Efron & Tibshirani 1993, chapter 13.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError

RESAMPLES = 1_000
LEVEL = 0.95
_CELLS = 1 << 22  # draws held in memory at once: 32 MB


@dataclass(frozen=True)
class Interval:
    """An estimate and the interval [lo, hi] that holds the truth with probability about `level`."""

    value: float
    lo: float
    hi: float
    level: float = LEVEL

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.lo:.3f}, {self.hi:.3f}]"


def resampled_means(
    values: NDArray[np.floating], rng: np.random.Generator, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Return the means [B, C] of C rows of per-user values [C, U'] over B resamples of the users.

    All rows share the same draws, so differences and ratios of columns are paired; equal rows give equal columns. The
    draws depend on nothing but the generator, U' and B.
    """
    rows, users = values.shape
    if users == 0 or not np.isfinite(values).all():
        raise DataError(f"bootstrap: expected finite values of at least one user, found {users} users")
    columns = values.astype(np.float64)
    means = np.empty((resamples, rows))
    chunk = max(1, _CELLS // users)
    for first in range(0, resamples, chunk):
        size = min(chunk, resamples - first)
        drawn = rng.integers(users, size=(size, users))
        cell = (drawn + np.arange(size)[:, None] * users).ravel()
        count = np.bincount(cell, minlength=size * users).reshape(size, users).astype(np.float64)
        for row in range(rows):  # one product per row: a matrix product may round equal rows differently
            means[first : first + size, row] = count @ columns[row] / users
    return means


def percentile_interval(value: float, resampled: NDArray[np.float64], level: float = LEVEL) -> Interval:
    """Return `value` between the (1-level)/2 and (1+level)/2 quantiles of its resampled values [B]."""
    if not 0 < level < 1:
        raise DataError(f"bootstrap: level {level} is not between 0 and 1; 0.95 is usual")
    lo, hi = np.quantile(resampled, [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(value), float(lo), float(hi), level)


def mean_interval(
    values: NDArray[np.floating], rng: np.random.Generator, resamples: int = RESAMPLES, level: float = LEVEL
) -> Interval:
    """Return the mean of per-user values [U'] with its interval; of a single user it has no width."""
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

    Much narrower than two separate intervals suggest: what is easy about a user is easy for both policies.
    """
    if first.shape != second.shape:
        raise DataError(f"paired difference: {first.shape} against {second.shape} values; expected the same users")
    return mean_interval(first.astype(np.float64) - second.astype(np.float64), rng, resamples, level)
