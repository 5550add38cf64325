"""Champion and challenger on live traffic: mean rewards of their users, and how sure the difference is at any time.

Users are the units, each with the mean of their rewards; a user is with one variant. The sequences hold at all looks
at once, so one may look as often as one likes and stop when one likes. They rest on the central limit theorem, so
nothing is said below a least number of users. Everything works element by element: numbers, or arrays of one shape.

Source: Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, theorem 2.2, as in core/statistics.py. The
difference is theirs for a randomised experiment (section 3) with the arms' means as the only regression: a user of an
arm with share p has the influence (reward - mean of the arm) / p, so the variance of the difference of n = n1 + n0
users is n (var1 / n1 + var0 / n0) / n.

Where nearly all rewards are alike, a small group may by chance have no variance at all yet, and its sequence none
either: with 2 % ones and else fives, 10 % of the users being the challenger's and 30 users a variant, 38 of 100
sequences then excluded a difference of 0 at some time. So a variant counts with no less than the variance of both
together; then none did (tests/server/test_rollout_compare.py).
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.float64] | float

SHARPEST_AT = 1_000
"""Users at which the sequences are sharpest; fixed beforehand, and of little weight elsewhere."""


@dataclass(frozen=True)
class VariantStats:
    """The users of one variant."""

    users: Numbers
    rewards: Numbers
    """How many rewards they gave."""
    mean: Numbers
    """Mean over users of each user's mean reward; nan without users."""
    variance: Numbers
    """Sample variance over users; nan below two users."""

    @classmethod
    def of_sums(cls, users: Numbers, rewards: Numbers, total: Numbers, squares: Numbers) -> "VariantStats":
        """From the sums over users of their means and of the squares of these."""
        with np.errstate(divide="ignore", invalid="ignore"):
            count = np.asarray(users, np.float64)
            mean = np.asarray(total) / count
            variance = np.maximum(np.asarray(squares) / count - mean**2, 0.0) * count / (count - 1)
        return cls(users, rewards, _plain(mean), _plain(np.where(count < 2, np.nan, variance)))


@dataclass(frozen=True)
class ConfidenceSequence:
    """An estimate and its anytime-valid interval; infinitely wide while there are too few users."""

    value: Numbers
    lo: Numbers
    hi: Numbers


def pooled_variance_floor(champion: VariantStats, challenger: VariantStats) -> tuple[VariantStats, VariantStats]:
    """Both groups, each with no less than the variance within both together."""
    groups = (champion, challenger)
    spare = [np.maximum(np.asarray(one.users, np.float64) - 1, 0) for one in groups]
    with np.errstate(divide="ignore", invalid="ignore"):
        squares = [s * np.nan_to_num(np.asarray(one.variance)) for s, one in zip(spare, groups, strict=True)]
        both = sum(squares) / sum(spare)
    first, second = (replace(one, variance=_plain(np.fmax(one.variance, both))) for one in groups)
    return first, second


def mean_of(group: VariantStats, level: float, min_users: int) -> ConfidenceSequence:
    """Mean of a variant's users."""
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(np.asarray(group.variance) / np.asarray(group.users, np.float64))
    return _sequence(group.mean, error, group.users, np.asarray(group.users) >= max(min_users, 2), level)


def difference(champion: VariantStats, challenger: VariantStats, level: float, min_users: int) -> ConfidenceSequence:
    """Mean of the challenger's users minus that of the champion's; each needs `min_users`."""
    groups = pooled_variance_floor(champion, challenger)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(sum(np.asarray(one.variance) / np.asarray(one.users, np.float64) for one in groups))
    fewest = np.minimum(champion.users, challenger.users)
    users = np.asarray(champion.users, np.float64) + challenger.users
    value = np.asarray(challenger.mean) - champion.mean
    return _sequence(_plain(value), error, users, fewest >= max(min_users, 2), level)


def half_width(error: Numbers, users: Numbers, level: float, sharpest_at: int = SHARPEST_AT) -> Numbers:
    """How far the sequence reaches to each side of an estimate from `users` users with that standard error."""
    doubt = 1 - level
    best = -2 * np.log(doubt) + np.log1p(-2 * np.log(doubt))  # rho^2 n at which the width is least
    scale = np.asarray(users, np.float64) / sharpest_at * best  # n rho^2
    return _plain(error * np.sqrt(2 * (scale + 1) / scale * np.log(np.sqrt(scale + 1) / doubt)))


def _sequence(value: Numbers, error: Numbers, users: Numbers, enough: Any, level: float) -> ConfidenceSequence:
    half = half_width(error, np.maximum(users, 1), level)
    half = np.where(enough & np.isfinite(half), half, np.inf)
    middle = np.where(np.isfinite(value), value, 0.0)
    return ConfidenceSequence(value, _plain(middle - half), _plain(middle + half))


def _plain(values: Any) -> Numbers:
    """A number where there is only one."""
    array = np.asarray(values, np.float64)
    return float(array) if array.ndim == 0 else array
