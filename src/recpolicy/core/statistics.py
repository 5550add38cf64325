"""Intervals of estimates whose units are users: t, bootstrap, and confidence sequences for repeated looks.

Ratings of one user are correlated, so users are resampled and left out, not single ratings. U users with one value
each, B resamples of U users, G jackknife estimates: each user (or group of users) in turn left out.

- `student_t`: users independent, their influences not too skewed; standard error of the jackknife, with fewer degrees
  of freedom where a few users dominate (`degrees_of_freedom`).
- `expanded_percentile`: the same; percentiles of the user bootstrap, as far out as the t interval.
- `confidence_sequence`: the same, at all sample sizes at once; infinitely wide below MIN_SEQUENCE_SIZE.

**Rare rewards.** A sample in which all rewards are equal has no variance, although the next reward may differ. So every
interval has a second part. It counts the largest change of the estimate by one more observation at an end of the range
of rewards, the `step`: range / effective sample size. An interval that reaches c standard errors has the half-width

    sqrt((c error)^2 + (c^2 step)^2).

For n equal rewards that is c^2 range / n, which is Wilson's limit and close to the exact binomial one (3.84 / n against
3.69 / n at 95 %). At an effective sample size of 1,000 it adds one or two per cent to the width of a usual interval.

Sources: Efron & Tibshirani 1993, chapter 13 (bootstrap); Efron & Stein 1981 (jackknife); Wilson 1927; Hesterberg 2015
(expanded percentiles); Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, theorem 2.2 (confidence sequence).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError

RESAMPLES = 1_000
LEVEL = 0.95
TIGHTEST_AT = 1_000
"""Sample size at which confidence sequences are tightest; fixed before the data, with little effect elsewhere."""
MIN_SEQUENCE_SIZE = 50
"""Effective sample size below which a confidence sequence is infinitely wide: its central limit theorem needs some."""
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


Numbers = NDArray[np.floating] | float


def half_width(multiplier: Numbers, error: Numbers, step: Numbers = 0.0) -> NDArray[np.float64]:
    """Return sqrt((c error)^2 + (c^2 step)^2), element by element: the half-width of every kind of interval.

    Args:
        multiplier: c, the half-width in standard errors.
        error: standard error of the estimate.
        step: the change of the estimate by one more observation at an end of the range of rewards.
    """
    c = np.asarray(multiplier, np.float64)
    return np.asarray(np.hypot(c * error, c**2 * step))


def largest_step(width: float, *sizes: Numbers) -> NDArray[np.float64]:
    """Return the step of an estimate from means over samples of these effective sizes, element by element.

    Args:
        width: range of the rewards, maximum - minimum.
        sizes: effective sample size of each mean, one for a value and two for a difference.

    Returns:
        sqrt(sum of (width / size)^2), infinite if a size is 0; 0 for a width of 0.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = [(width / np.asarray(size, np.float64)) ** 2 for size in sizes]
    return np.asarray(np.sqrt(sum(squares))) if width else np.zeros(np.shape(sizes[0]))


def student_t(value: float, jackknife: NDArray[np.float64], level: float = LEVEL, step: Numbers = 0.0) -> Interval:
    """Return `value` with its t interval.

    Args:
        value: the estimate. jackknife: [G], the estimate without each user in turn.
        level: probability that the interval contains the true value. step: see `half_width`.

    Raises:
        DataError: fewer than two users.
    """
    half = float(half_width(_t_quantile(degrees_of_freedom(jackknife), level), jackknife_error(jackknife), step))
    return Interval(value, value - half, value + half, level)


def expanded_percentile(
    value: float,
    bootstrap: NDArray[np.float64],
    jackknife: NDArray[np.float64],
    level: float = LEVEL,
    step: Numbers = 0.0,
) -> Interval:
    """Return `value` between percentiles of its resampled values [B].

    Plain percentiles fit a normal estimate with a known standard error and a sample variance that divides by U. These
    percentiles lie as far out as the t interval of the same estimate.

    Args:
        value: the estimate. bootstrap: [B], the estimate on resampled users.
        jackknife: [G], the estimate without each user in turn.
        level: probability that the interval contains the true value. step: see `half_width`.

    Raises:
        DataError: fewer than two users.
    """
    from scipy.special import ndtr

    users = len(jackknife)
    multiplier = _t_quantile(degrees_of_freedom(jackknife), level)
    tail = ndtr(-multiplier * np.sqrt(users / (users - 1)))
    lo, hi = np.quantile(bootstrap, [tail, 1 - tail])
    if step > 0:
        margin = multiplier**2 * step
        lo, hi = value - np.hypot(max(value - lo, 0.0), margin), value + np.hypot(max(hi - value, 0.0), margin)
    return Interval(value, float(lo), float(hi), level)


def half_sample_interval(value: float, halves: NDArray[np.float64], level: float = LEVEL) -> Interval:
    """Return `value` with a t interval from the same estimate on random halves of the users.

    The spread over halves drawn without replacement estimates the standard error of the full sample: of n users, a
    delete-d jackknife scales the variance by (n - d) / d, which is 1 for d = n / 2. What is fitted anew on each half,
    such as a simulated world, adds its own spread. Source: Shao & Wu 1989.

    Args:
        value: The estimate on all users.
        halves: [K], the estimates on the halves.
        level: Probability that the interval contains the true value.

    Raises:
        DataError: Fewer than two halves.
    """
    count = check_several(halves)
    half = _t_quantile(count - 1, level) * float(halves.std(ddof=1))
    return Interval(value, value - half, value + half, level)


def jackknife_error(jackknife: NDArray[np.float64]) -> float:
    """Return the standard error of an estimate from its values [G] without each user in turn. DataError below two."""
    users = check_several(jackknife)
    return float(np.sqrt((users - 1) * jackknife.var()))


def degrees_of_freedom(jackknife: NDArray[np.float64]) -> float:
    """Return the degrees of freedom of the jackknife's variance; jackknife [G] as in `jackknife_error`.

    The t distribution assumes a variance estimated from G normal numbers, with G - 1 degrees. Where a few users with
    large weights dominate, the variance is less certain. For numbers with excess kurtosis k its own variance is
    s^4 (2 / (G - 1) + k / G), that of a chi-square with 2 / (2 / (G - 1) + k / G) degrees (Satterthwaite 1946; O'Neill
    2014). The result is at most G - 1.
    """
    users = check_several(jackknife)
    square = (jackknife - jackknife.mean()) ** 2
    variance = float(square.mean())
    kurtosis = float((square / variance) @ (square / variance)) / users if variance > 0 else 0.0
    return 1 / (1 / (users - 1) + max(kurtosis - 3, 0.0) / (2 * users))


def all_but_one(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sums of values [S, U] over all other users [S, U].

    They are added from both sides, because subtracting a dominant value would leave only rounding.
    """
    before, after = np.zeros_like(values), np.zeros_like(values)
    np.cumsum(values[:, :-1], axis=1, out=before[:, 1:])
    np.cumsum(values[:, :0:-1], axis=1, out=after[:, -2::-1])
    return before + after


def effective_sample_size(weight: NDArray[np.number]) -> float:
    """Return (sum w)^2 / sum w^2 of weights [N]: the number of equally weighted units with the same information.

    It is 0 when all weights are 0. Source: Kong 1992.
    """
    weight = weight.astype(np.float64)
    square = float(weight @ weight)
    return float(weight.sum()) ** 2 / square if square else 0.0


def ratio_interval(
    total: NDArray[np.number],
    size: NDArray[np.number],
    width: float,
    level: float = LEVEL,
    weights: Sequence[NDArray[np.number]] = (),
) -> Interval:
    """Return the t interval of sum(total) / sum(size) over users; with sizes of 1 that of a mean.

    Args:
        total: [U]. size: [U], above 0.
        width: range of the terms that `total` adds up, maximum - minimum.
        level: probability that the interval contains the true value.
        weights: [U] each, weights that give the effective sizes behind the total; without them it is `size`.

    Returns:
        The ratio with its interval; infinitely wide for a single user.
    """
    total, size = total.astype(np.float64), size.astype(np.float64)
    value = float(total.sum() / size.sum())
    if len(total) < 2:
        return Interval.unbounded(value, level)
    above, below = all_but_one(np.stack([total, size]))
    step = largest_step(width, *(effective_sample_size(weight) for weight in weights or (size,)))
    return student_t(value, above / below, level, step)


def check_several(values: NDArray[np.number]) -> int:
    """Return the number of users; raise DataError for a single one."""
    users = len(values)
    if users < 2:
        raise DataError("interval: a single user shows no variance; at least two users are needed")
    return users


def _t_quantile(freedom: float, level: float) -> float:
    """Return the half-width of a t interval in standard errors."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))


def sequence_multiplier(users: Numbers, level: float = LEVEL, tightest_at: int = TIGHTEST_AT) -> NDArray[np.float64]:
    """Return the half-width of a confidence sequence in standard errors, element by element.

    Args:
        users: U, the number of independent users behind the estimate, above 0.
        level: probability that the sequence contains the true value at every sample size.
        tightest_at: sample size at which the sequence is tightest.
    """
    alpha = 1 - level
    rho_squared = (-2 * np.log(alpha) + np.log1p(-2 * np.log(alpha))) / tightest_at
    scale = np.asarray(users, np.float64) * rho_squared  # U rho^2
    return np.asarray(np.sqrt(2 * (scale + 1) / scale * np.log(np.sqrt(scale + 1) / alpha)))


@overload
def confidence_sequence_half_width(
    error: float, users: float, level: float = LEVEL, *, step: float = 0.0, size: float | None = None
) -> float: ...


@overload
def confidence_sequence_half_width(
    error: NDArray[np.float64],
    users: Numbers,
    level: float = LEVEL,
    *,
    step: Numbers = 0.0,
    size: Numbers | None = None,
) -> NDArray[np.float64]: ...


def confidence_sequence_half_width(
    error: NDArray[np.float64] | float,
    users: Numbers,
    level: float = LEVEL,
    *,
    step: Numbers = 0.0,
    size: Numbers | None = None,
) -> NDArray[np.float64] | float:
    """Return the half-width of the anytime-valid interval of an estimate, element by element.

    The interval estimate ± half-width holds at all sample sizes at once, so it may be checked after every observation
    and the experiment may stop at any time. It is asymptotic, hence infinitely wide below MIN_SEQUENCE_SIZE.

    Args:
        error: standard error of the estimate at this sample size.
        users: U, the number of independent users behind the estimate, above 0.
        level: probability that the sequence contains the true value at every sample size.
        step: see `half_width`.
        size: effective sample size; None is `users`.
    """
    half = half_width(sequence_multiplier(users, level), error, step)
    half = np.where(np.asarray(users if size is None else size) >= MIN_SEQUENCE_SIZE, half, np.inf)
    return float(half) if half.ndim == 0 else half


def pooled_variance(variances: Sequence[Numbers], sizes: Sequence[Numbers]) -> tuple[NDArray[np.float64], ...]:
    """Return variances of groups, each at least the pooled variance within all of them, element by element.

    A small group may have no variance by chance if nearly all rewards are equal.

    Args:
        variances: sample variance of each group, NaN below two users. sizes: users of each group.
    """
    freedom = [np.maximum(np.asarray(size, np.float64) - 1, 0) for size in sizes]
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = [d * np.nan_to_num(np.asarray(v, np.float64)) for d, v in zip(freedom, variances, strict=True)]
        pooled = np.asarray(sum(squares)) / np.asarray(sum(freedom))
    return tuple(np.asarray(np.fmax(np.asarray(variance, np.float64), pooled)) for variance in variances)
