"""Estimates with intervals: resampling by user, and differences of two policies paired row by row.

N rows of U users; a row is a round, a slate or a session. Each estimator is a function of means over rows: parts
[S][N] are averaged, `combine` turns their S means into the estimate. It can therefore be recomputed on other sets of
the same users: users drawn with replacement (bootstrap) and all users but one (jackknife). A ratio is resampled as a
ratio and a control coefficient is refitted. Settings and reward models that were tuned or fitted before stay fixed.

More than 50,000 users are first assigned at random to 50,000 groups, which are resampled instead. Groups are as
independent as users, and 50,000 of them estimate a standard deviation to half a per cent.

All estimators of one call, and both policies of a comparison, share the resamples. Differences are therefore paired,
and no estimate depends on the other estimators of the call.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recpolicy.core.seeds import generator
from recpolicy.core.statistics import Interval, resampled_means
from recpolicy.core.types import Array
from recpolicy.ope.config import EstimationConfig
from recpolicy.ope.feedback import Clusters
from recpolicy.ope.intervals import (
    Bounds,
    confidence_sequence,
    diagnose,
    empirical_bernstein,
    expanded_percentile,
    student_t,
)
from recpolicy.ope.results import ModelFit, OffPolicyResult, PolicyComparison
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
from recpolicy.ope.tuning import TuningResult

_MAX_GROUPS = 50_000


@dataclass(frozen=True)
class ResampledStatistic:
    """An estimator on one log, as a function of means."""

    terms: Array
    """[N]; their mean is the estimate (terms.py)."""
    parts: tuple[Array, ...]  # [N] each
    combine: Callable[[Array], Array]
    """Means of the parts [S, ...] to estimates [...]; NaN where a resample has nothing to divide by."""

    @property
    def value(self) -> float:
        """The estimate."""
        return float(self.terms.mean())


def mean_statistic(terms: Array) -> ResampledStatistic:
    """Return the mean of terms [N]."""
    return ResampledStatistic(terms, (terms,), lambda means: means[0])


def ratio_statistic(weight: Array, reward: Array) -> ResampledStatistic:
    """Return sum(weight reward) / sum(weight): SNIPS and replay."""
    terms = snips_terms(weight, reward)
    return ResampledStatistic(terms, (weight * reward, weight), lambda means: _divide(means[0], means[1]))


def corrected_ratio_statistic(expected_q: Array, weight: Array, reward: Array, logged_q: Array) -> ResampledStatistic:
    """Return mean(expected_q) + sum(weight (reward - logged_q)) / sum(weight): SNDR."""
    terms = sndr_terms(expected_q, weight, reward, logged_q)
    parts = (weight * (reward - logged_q), weight, expected_q)
    return ResampledStatistic(terms, parts, lambda means: means[2] + _divide(means[0], means[1]))


def beta_statistic(weight: Array, reward: Array) -> ResampledStatistic:
    """Return beta-IPS, with its coefficient refitted on every resample."""
    square = weight**2
    parts = (weight, weight * reward, square, square * reward)

    def combine(means: Array) -> Array:
        return means[1] - control_coefficient(means) * (means[0] - 1)

    return ResampledStatistic(beta_ips_terms(weight, reward), parts, combine)


def controlled_statistic(outcome: Array, variates: Array, squares: Array) -> ResampledStatistic:
    """Return the mean outcome [N] less C control variates [N, C], with coefficients refitted on every resample."""
    count = variates.shape[1]

    def combine(means: Array) -> Array:
        variate, product, square = (means[1 + i * count : 1 + (i + 1) * count] for i in range(3))
        return np.asarray(means[0] - (control_ratio(product, square) * variate).sum(axis=0))

    terms = controlled_terms(outcome, variates, control_weights(outcome, variates, squares))
    parts = (outcome, *variates.T, *(outcome[:, None] * variates).T, *squares.T)
    return ResampledStatistic(terms, parts, combine)


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
    others = _all_but_one(values)[:, : groups if groups > 1 else 0]  # [1 + S, G]
    rows = [[row_of[id(part)] for part in statistic.parts] for statistic in statistics]
    return [
        Resamples(*(statistic.combine(totals[row] / totals[0]) for totals in (means, others)))
        for statistic, row in zip(statistics, rows, strict=True)
    ]


def _all_but_one(values: Array) -> Array:
    """Return sums over all others [S, G], from both sides: subtracting a dominant value would leave only rounding."""
    before, after = np.zeros_like(values), np.zeros_like(values)
    np.cumsum(values[:, :-1], axis=1, out=before[:, 1:])
    np.cumsum(values[:, :0:-1], axis=1, out=after[:, -2::-1])
    return before + after


@dataclass(frozen=True)
class PointEstimate:
    """One estimator on one log, before its intervals."""

    statistic: ResampledStatistic
    weight: Array  # [N]
    """Weights for the diagnostics."""
    transformed_weight: Array  # [N]
    """Weights that the estimator used."""
    bounds: Bounds | None = None
    """Bounds for empirical Bernstein, where they are known."""
    tuning: TuningResult | None = None
    model: ModelFit | None = None


def with_intervals(
    estimates: Mapping[str, PointEstimate], clusters: Clusters, config: EstimationConfig
) -> dict[str, OffPolicyResult]:
    """Return results by estimator. Raises DataError for a single user."""
    resamples = _resample_all([estimate.statistic for estimate in estimates.values()], clusters, config)
    return {
        name: _result(name, estimate, resample, clusters, config)
        for (name, estimate), resample in zip(estimates.items(), resamples, strict=True)
    }


def compare_policies(
    candidate: Mapping[str, PointEstimate],
    incumbent: Mapping[str, PointEstimate],
    clusters: Clusters,
    config: EstimationConfig,
) -> dict[str, PolicyComparison]:
    """Return comparisons by the estimators of `candidate`, paired row by row. Raises DataError for a single user."""
    pairs = {name: (estimate, incumbent[name]) for name, estimate in candidate.items()}
    resamples = _resample_all([estimate.statistic for pair in pairs.values() for estimate in pair], clusters, config)
    return {
        name: _comparison(name, pair, (resamples[2 * row], resamples[2 * row + 1]), clusters, config)
        for row, (name, pair) in enumerate(pairs.items())
    }


def _comparison(
    name: str,
    pair: tuple[PointEstimate, PointEstimate],
    resamples: tuple[Resamples, Resamples],
    clusters: Clusters,
    config: EstimationConfig,
) -> PolicyComparison:
    candidate, incumbent = pair
    terms = candidate.statistic.terms - incumbent.statistic.terms
    bounds = None
    if candidate.bounds is not None and incumbent.bounds is not None:
        bounds = candidate.bounds - incumbent.bounds
    intervals = _intervals(terms, resamples[0].minus(resamples[1]), bounds, clusters, config)
    results = [_result(name, *values, clusters, config) for values in zip(pair, resamples, strict=True)]
    return PolicyComparison(name, float(terms.mean()), intervals, *results)


def _result(
    name: str, estimate: PointEstimate, resamples: Resamples, clusters: Clusters, config: EstimationConfig
) -> OffPolicyResult:
    return OffPolicyResult(
        estimator=name,
        value=estimate.statistic.value,
        intervals=_intervals(estimate.statistic.terms, resamples, estimate.bounds, clusters, config),
        diagnostics=diagnose(estimate.weight, estimate.transformed_weight, clusters),
        tuning=estimate.tuning,
        model=estimate.model,
    )


def _intervals(
    terms: Array, resamples: Resamples, bounds: Bounds | None, clusters: Clusters, config: EstimationConfig
) -> dict[str, Interval]:
    value = float(terms.mean())
    if np.isfinite(resamples.jackknife).all():
        bootstrap = expanded_percentile(value, _finite(resamples.bootstrap), resamples.jackknife, config.level)
        student = student_t(value, resamples.jackknife, config.level)
    else:  # one user has all the weight, so the estimate without that user is unknown
        bootstrap = student = Interval.unbounded(value, config.level)
    intervals = {"bootstrap": bootstrap, "t": student, "sequence": confidence_sequence(terms, clusters, config.level)}
    if bounds is not None:
        intervals["bernstein"] = empirical_bernstein(value, bounds, clusters, config.level)
    return intervals


def _resample_all(
    statistics: list[ResampledStatistic], clusters: Clusters, config: EstimationConfig
) -> list[Resamples]:
    return resample(statistics, clusters, generator(config.seed, "off_policy/bootstrap"), config.resamples)


def _finite(values: Array) -> Array:
    """Return the resampled estimates that are defined; a single NaN if none is."""
    defined = values[np.isfinite(values)]
    return defined if defined.size else np.full(1, np.nan)
