"""An estimator as a function of means over rounds, so that it can be taken again on other sets of the same users.

parts [S][N] are what is averaged, `combine` makes the estimate of their S means. A ratio is thus resampled as a ratio
and a control coefficient is fitted anew; what was tuned or fitted before (clip, reward model) is held fixed. The sets
are users drawn with replacement (bootstrap) and all users but one (jackknife).

Of more than 50,000 users, groups are resampled into which they are dealt at random: groups are as independent as users,
and 50,000 of them know the spread to half a per cent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.statistics import resampled_means
from recpolicy.ope.estimators import beta_ips_terms, control_coefficient, sndr_terms, snips_terms
from recpolicy.ope.rounds import Units

Array = NDArray[np.float64]

_MOST_UNITS = 50_000


@dataclass(frozen=True)
class Form:
    """One estimator on one log."""

    terms: Array
    """[N]; their mean is the estimate (estimators.py)."""
    parts: tuple[Array, ...]  # [N] each
    combine: Callable[[Array], Array]
    """Means of the parts [S, ...] to estimates [...]; NaN where a resample leaves nothing to divide by."""

    @property
    def value(self) -> float:
        """The estimate."""
        return float(self.terms.mean())


def mean_form(terms: Array) -> Form:
    """The mean of terms [N]."""
    return Form(terms, (terms,), lambda means: means[0])


def ratio_form(weight: Array, reward: Array) -> Form:
    """sum(weight reward) / sum(weight): SNIPS and replay."""
    terms = snips_terms(weight, reward)
    return Form(terms, (weight * reward, weight), lambda means: _divide(means[0], means[1]))


def corrected_ratio_form(direct: Array, weight: Array, reward: Array, predicted: Array) -> Form:
    """mean(direct) + sum(weight (reward - predicted)) / sum(weight): SNDR."""
    terms = sndr_terms(direct, weight, reward, predicted)
    parts = (weight * (reward - predicted), weight, direct)
    return Form(terms, parts, lambda means: means[2] + _divide(means[0], means[1]))


def beta_form(weight: Array, reward: Array) -> Form:
    """beta-IPS."""
    square = weight**2
    return Form(beta_ips_terms(weight, reward), (weight, weight * reward, square, square * reward), _beta)


def _beta(means: Array) -> Array:
    return means[1] - control_coefficient(means) * (means[0] - 1)


def _divide(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


class Resampled(NamedTuple):
    """One estimator on other sets of the same users; NaN where a set leaves nothing to divide by."""

    drawn: Array  # [B], users drawn with replacement
    without: Array  # [G], one user (or group) after the other left out

    def minus(self, other: "Resampled") -> "Resampled":
        """The difference of two estimators, set by set."""
        return Resampled(self.drawn - other.drawn, self.without - other.without)


def resample(forms: Sequence[Form], units: Units, rng: np.random.Generator, resamples: int) -> list[Resampled]:
    """Return each form's estimates on the same B and G sets of the users, so that differences are paired.

    Every form is resampled as mean over the rounds of the users in a set, however many rounds they have. A single user
    leaves nothing when left out: G is 0.
    """
    groups = min(len(units), _MOST_UNITS)
    group = rng.permutation(len(units)) % groups if groups < len(units) else None  # [U]
    parts = {id(part): part for form in forms for part in form.parts}  # shared arrays are resampled once
    place = {key: row for row, key in enumerate(parts, 1)}
    totals = (units.size, *map(units.totals, parts.values()))  # [U] each
    if group is not None:
        totals = tuple(np.bincount(group, total, groups) for total in totals)
    values = np.stack(totals)  # [1 + S, groups]
    means = resampled_means(values, rng, resamples).T  # [1 + S, B]
    others = _all_but_one(values)[:, : groups if groups > 1 else 0]  # [1 + S, G]
    rows = [[place[id(part)] for part in form.parts] for form in forms]
    return [
        Resampled(*(form.combine(sums[row] / sums[0]) for sums in (means, others)))
        for form, row in zip(forms, rows, strict=True)
    ]


def _all_but_one(values: Array) -> Array:
    """Sums over all others [S, G], from both sides: of the sum less one large value only rounding would be left."""
    before, after = np.zeros_like(values), np.zeros_like(values)
    np.cumsum(values[:, :-1], axis=1, out=before[:, 1:])
    np.cumsum(values[:, :0:-1], axis=1, out=after[:, -2::-1])
    return before + after


def bootstrap(forms: Sequence[Form], units: Units, rng: np.random.Generator, resamples: int) -> list[Array]:
    """Return each form's estimates on the same resamples of the users, [B] each; see `resample`."""
    return [one.drawn for one in resample(forms, units, rng, resamples)]
