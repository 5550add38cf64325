"""Estimators as functions of means over rows, so that they can be recomputed on other sets of users.

N rows of U users; a row is a round, a slate or a session. Parts [S][N] are averaged, and `combine` turns their S means
into the estimate: on all users, on users drawn with replacement (bootstrap), and on all users but one (jackknife). A
ratio is resampled as a ratio and a control coefficient is refitted. Settings and reward models that were tuned or
fitted before stay fixed.

More than 50,000 users are first assigned at random to 50,000 groups, which are resampled instead. Groups are as
independent as users, and 50,000 of them estimate a standard deviation to half a per cent.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from recpolicy.core.statistics import all_but_one, resampled_means
from recpolicy.core.types import Array
from recpolicy.ope.feedback import Clusters
from recpolicy.ope.terms import (
    beta_ips_terms,
    control_coefficient,
    control_ratio,
    control_weights,
    controlled_terms,
    discounts,
    sndr_terms,
    snips_terms,
    weighted_per_decision_terms,
)

_MAX_GROUPS = 50_000


@dataclass(frozen=True)
class ResampledStatistic:
    """An estimator on one log, as a function of means."""

    terms: Array
    """[N]; their mean is the estimate (terms.py)."""
    parts: tuple[Array, ...]  # [N] each
    combine: Callable[[Array], Array]
    """Means of the parts [S, ...] to estimates [...]; NaN where a resample has nothing to divide by."""
    imputed: tuple[float, float] | None = None
    """Lowest and highest mean reward that the estimate gives to actions that the log never shows, where its formula
    says so; None: that of a reward model, or of another estimate."""
    imputed_terms: Array | None = None
    """[N]; their mean is the part of the estimate that comes from these actions, up to chance; None: unknown."""

    @property
    def value(self) -> float:
        """The estimate."""
        return float(self.terms.mean())


def mean_statistic(terms: Array) -> ResampledStatistic:
    """Return the mean of terms [N]."""
    return ResampledStatistic(terms, (terms,), lambda means: means[0])


def weighted_statistic(terms: Array) -> ResampledStatistic:
    """Return the mean of terms weight * reward [N]: actions that the log never shows get the reward 0."""
    return replace(mean_statistic(terms), imputed=(0.0, 0.0))


def ratio_statistic(weight: Array, reward: Array) -> ResampledStatistic:
    """Return sum(weight reward) / sum(weight): SNIPS and replay. Actions that the log never shows get that mean."""
    terms = snips_terms(weight, reward)
    value = float(terms.mean())
    return ResampledStatistic(
        terms, (weight * reward, weight), lambda means: _divide(means[0], means[1]), (value, value)
    )


def corrected_ratio_statistic(expected_q: Array, weight: Array, reward: Array, logged_q: Array) -> ResampledStatistic:
    """Return mean(expected_q) + sum(weight (reward - logged_q)) / sum(weight): SNDR.

    Actions that the log never shows get the model's reward plus that ratio.
    """
    terms = sndr_terms(expected_q, weight, reward, logged_q)
    parts = (weight * (reward - logged_q), weight, expected_q)
    ratio = float(terms.mean() - expected_q.mean())
    imputed = expected_q - weight * logged_q + ratio * (1 - weight)
    return ResampledStatistic(terms, parts, lambda means: means[2] + _divide(means[0], means[1]), imputed_terms=imputed)


def beta_statistic(weight: Array, reward: Array) -> ResampledStatistic:
    """Return beta-IPS, with its coefficient refitted on every resample.

    It is mean(weight reward) + beta (1 - mean(weight)), so actions that the log never shows get the coefficient beta.
    """
    square = weight**2
    parts = (weight, weight * reward, square, square * reward)

    def combine(means: Array) -> Array:
        return means[1] - control_coefficient(means) * (means[0] - 1)

    beta = float(control_coefficient(np.array([part.mean() for part in parts])))
    return ResampledStatistic(beta_ips_terms(weight, reward), parts, combine, (beta, beta))


def controlled_statistic(outcome: Array, variates: Array, squares: Array) -> ResampledStatistic:
    """Return the mean outcome [N] less C control variates [N, C], with coefficients refitted on every resample."""
    count = variates.shape[1]

    def combine(means: Array) -> Array:
        variate, product, square = (means[1 + i * count : 1 + (i + 1) * count] for i in range(3))
        return np.asarray(means[0] - (control_ratio(product, square) * variate).sum(axis=0))

    weights = control_weights(outcome, variates, squares)
    terms = controlled_terms(outcome, variates, weights)
    parts = (outcome, *variates.T, *(outcome[:, None] * variates).T, *squares.T)
    return ResampledStatistic(terms, parts, combine, _ends(weights))


def _ends(weights: Array) -> tuple[float, float]:
    """Return the lowest and highest coefficient: a slot's item that the log never shows gets that of its variate."""
    return float(weights.min()), float(weights.max())


def cross_fitted_statistic(outcome: Array, variates: Array, weights: Array) -> ResampledStatistic:
    """Return the mean outcome [N] less control variates [N, C] with coefficients [N, C] of other folds."""
    return replace(mean_statistic(controlled_terms(outcome, variates, weights)), imputed=_ends(weights))


def weighted_per_decision_statistic(weight: Array, reward: Array, gamma: float) -> ResampledStatistic:
    """Return the discounted sum over steps of sum(W_t r_t) / sum(W_t); weight W and reward [N, T]."""
    steps = reward.shape[1]

    def combine(means: Array) -> Array:
        by_step = _divide(means[:steps], means[steps:])
        return np.asarray(np.tensordot(discounts(steps, gamma), by_step, 1))

    terms = weighted_per_decision_terms(weight, reward, gamma)
    return ResampledStatistic(terms, (*(weight * reward).T, *weight.T), combine)


def _divide(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


class Resamples(NamedTuple):
    """An estimate on other sets of the same users; NaN where a set has nothing to divide by."""

    bootstrap: Array  # [B], users drawn with replacement
    jackknife: Array  # [G], each user (or group) in turn left out

    def minus(self, other: "Resamples") -> "Resamples":
        """Return the difference of two estimates, set by set."""
        return Resamples(self.bootstrap - other.bootstrap, self.jackknife - other.jackknife)

    def plus(self, other: "Resamples") -> "Resamples":
        """Return the sum with another statistic's estimates, set by set."""
        return Resamples(self.bootstrap + other.bootstrap, self.jackknife + other.jackknife)


def resample(
    statistics: Sequence[ResampledStatistic], clusters: Clusters, rng: np.random.Generator, resamples: int
) -> list[Resamples]:
    """Return each statistic on the same B and G sets of the users, so that differences are paired.

    Each set averages over all rows of its users, however many they have. A single user leaves nothing for the
    jackknife: G is 0.
    """
    groups = min(len(clusters), _MAX_GROUPS)
    group = rng.permutation(len(clusters)) % groups if groups < len(clusters) else None  # [U]
    parts = {id(part): part for statistic in statistics for part in statistic.parts}  # shared arrays only once
    row_of = {key: row for row, key in enumerate(parts, 1)}
    sums = (clusters.size, *map(clusters.sums, parts.values()))  # [U] each
    if group is not None:
        sums = tuple(np.bincount(group, values, groups) for values in sums)
    values = np.stack(sums)  # [1 + S, groups]
    means = resampled_means(values, rng, resamples).T  # [1 + S, B]
    others = all_but_one(values)[:, : groups if groups > 1 else 0]  # [1 + S, G]
    rows = [[row_of[id(part)] for part in statistic.parts] for statistic in statistics]
    return [
        Resamples(*(statistic.combine(totals[row] / totals[0]) for totals in (means, others)))
        for statistic, row in zip(statistics, rows, strict=True)
    ]
