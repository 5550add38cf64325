"""Intervals of off-policy estimates; users are the units, for the rounds of one user are alike.

N rounds of U users, per-round terms [N] whose mean is the estimate V. What each interval assumes:

- `student_t`: users independent, their influences not too skew; with one round a user and a mean it is Student's t,
  with fewer degrees of freedom where a few users decide (`freedom_of`).
- `expanded_percentile`: as above; percentiles of the user bootstrap (forms.py), as far out as the t interval reaches.
- `confidence_sequence`: as above, for many users; holds at all log sizes at once, so one may look every day and stop
  when one likes. Normal mixture, asymptotic (Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, theorem 2.2).
- `empirical_bernstein`: users independent and terms within bounds known beforehand; holds at every size (Maurer &
  Pontil 2009, theorem 11). Loose where users have many or unequal numbers of rounds.

The first two need the estimator again on other sets of users, not its terms. Their standard error is the jackknife's,
which also counts what a user does to the weights that an estimator divides by, and errs upwards (Efron & Stein 1981).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.statistics import LEVEL, Interval, confidence_sequence_half_width
from recpolicy.ope.diagnostics import clustered_error
from recpolicy.ope.rounds import Units

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Bracket:
    """Terms [N] whose expected means lie below and above the true value, each within a range of `width`."""

    lower: Array
    upper: Array
    width: float
    span: tuple[float, float]
    """Where the true value lies in any case: the range of rewards."""
    looks: int = 1
    """Among how many such brackets this one was chosen by its data; the level is shared among them."""

    def minus(self, other: "Bracket") -> "Bracket":
        """The bracket of the difference of two values."""
        return Bracket(
            self.lower - other.upper,
            self.upper - other.lower,
            self.width + other.width,
            (self.span[0] - other.span[1], self.span[1] - other.span[0]),
            self.looks * other.looks,
        )


def weighted_bracket(weight: Array, reward: Array, span: tuple[float, float], largest: float) -> Bracket:
    """Bounds by weights w [N] in 0..largest and rewards [N] in `span`: low + w (r - low) and high - w (high - r).

    With E[w] = 1 the value is low + E[w (r - low)]; weights that were tamed only take away from that, and so does a
    target that may choose what is never logged. Likewise from above. So the truth stays within the bounds.
    """
    low, high = span
    lower, upper = (edge + weight * (reward - edge) for edge in span)
    return Bracket(lower, upper, largest * (high - low), span)


def student_t(value: float, without: Array, level: float = LEVEL) -> Interval:
    """`value` and its t interval; without [G]: the same estimator without one user after the other.

    Raises DataError for fewer than two.
    """
    half = float(_quantile(freedom_of(without), level) * jackknife_error(without))
    return Interval(value, value - half, value + half, level)


def expanded_percentile(value: float, drawn: Array, without: Array, level: float = LEVEL) -> Interval:
    """`value` between percentiles of its resampled values [B].

    Plain percentiles are those of a normal estimate whose standard error is known, and of a sample variance that
    divides by U. These lie as far out as the t interval of the same estimate reaches (Hesterberg 2015). without [G] as
    in `student_t`. Raises DataError for fewer than two.
    """
    from scipy.special import ndtr

    reach = _quantile(freedom_of(without), level) * np.sqrt(len(without) / (len(without) - 1))
    tail = ndtr(-reach)
    lo, hi = np.quantile(drawn, [tail, 1 - tail])
    return Interval(value, float(lo), float(hi), level)


def jackknife_error(without: Array) -> float:
    """Standard error of an estimate from its values [G] without one user after the other. DataError below two."""
    users = _several(without)
    return float(np.sqrt((users - 1) * without.var()))


def freedom_of(without: Array) -> float:
    """Degrees of freedom that the jackknife's variance is worth; without [G] as in `jackknife_error`.

    The t distribution takes it that the variance is known as well as that of G normal numbers, G - 1 degrees. Where few
    users with large weights decide it is known worse: of numbers with excess kurtosis k its own variance is
    s^4 (2 / (G - 1) + k / G), that of a chi-square with 2 / (2 / (G - 1) + k / G) degrees (Satterthwaite 1946; O'Neill
    2014). Never more than G - 1.
    """
    users = _several(without)
    spread = float(without.std())
    excess = max(float(np.mean(((without - without.mean()) / spread) ** 4)) - 3, 0.0) if spread > 0 else 0.0
    return 1 / (1 / (users - 1) + excess / (2 * users))


def confidence_sequence(terms: Array, units: Units, level: float = LEVEL) -> Interval:
    """Return the mean of terms [N] with its anytime-valid interval. Raises DataError for a single user."""
    value, error = mean_and_error(terms, units)
    half = confidence_sequence_half_width(error, len(units), level)
    return Interval(value, value - half, value + half, level)


def empirical_bernstein(value: float, bracket: Bracket, units: Units, level: float = LEVEL) -> Interval:
    """`value` with bounds that hold the truth with probability `level` or more at every size.

    Users' sums are scaled so that their mean is the mean over rounds; one user then spans at most
    width * (most rounds of a user) / (mean rounds of a user). The lower terms give the lower end, the upper ones the
    upper, and both within bracket.span. `value` itself may lie outside. Raises DataError for a single user.
    """
    users, rounds = len(units), len(units.index)
    scale = users / rounds
    width = bracket.width * scale * float(units.size.max())
    doubt = (1 - level) / 2 / bracket.looks
    low, high = (units.totals(side) * scale for side in (bracket.lower, bracket.upper))  # [U]
    lo = float(low.mean()) - bernstein_margin(low, width, doubt)
    hi = float(high.mean()) + bernstein_margin(high, width, doubt)
    lo, hi = np.clip([min(lo, hi), max(lo, hi)], *bracket.span)
    return Interval(value, float(lo), float(hi), level)


def bernstein_margin(values: Array, width: float, doubt: float) -> float:
    """How far the mean of independent values [U] may lie above its expectation, but for probability `doubt`.

    sqrt(2 V ln(2/doubt) / U) + 7 width ln(2/doubt) / (3 (U - 1)) with V the sample variance; each value within a range
    of `width`. For both sides ask with half the doubt. Raises DataError for a single value.
    """
    users = _several(values)
    logarithm = np.log(2 / doubt)
    spread = np.sqrt(2 * values.var(ddof=1) * logarithm / users)
    return float(spread + 7 * width * logarithm / (3 * (users - 1)))


def _quantile(freedom: float, level: float) -> float:
    """How many standard errors a t interval reaches to each side."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))


def _several(values: NDArray[np.number]) -> int:
    """How many there are; raises DataError for a single one."""
    users = len(values)
    if users < 2:
        raise DataError("interval: a single user shows no spread; at least two are needed")
    return users


def mean_and_error(terms: Array, units: Units) -> tuple[float, float]:
    """Mean of terms [N] and its standard error, users being the units. Raises DataError for a single user."""
    _several(units.size)
    value = float(terms.mean())
    return value, clustered_error(units.totals(terms) - value * units.size, len(terms))
