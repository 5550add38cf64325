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
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from recpolicy.core.seeds import generator
from recpolicy.core.statistics import (
    Interval,
    all_but_one,
    expanded_percentile,
    largest_step,
    resampled_means,
    student_t,
)
from recpolicy.core.types import Array
from recpolicy.ope.config import EstimationConfig
from recpolicy.ope.feedback import Clusters
from recpolicy.ope.intervals import Bounds, confidence_sequence, diagnose, empirical_bernstein
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


@dataclass(frozen=True)
class RewardScale:
    """The rewards of a log, as far as intervals use them."""

    mean: float
    """Mean logged reward."""
    low: float
    high: float
    """Ends of the range of rewards; infinite if unknown."""

    @property
    def width(self) -> float:
        """Width of the range."""
        return self.high - self.low


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
    given_model: bool = False
    """True if a model that was not fitted on this log decides the reward of actions that the log never shows."""

    def imputed(self, scale: RewardScale) -> tuple[float, float]:
        """Return the lowest and highest mean reward that the estimate may give to actions that the log never shows."""
        if self.given_model:
            return scale.low, scale.high
        if self.statistic.imputed is not None:
            return self.statistic.imputed
        return min(self.statistic.value, scale.mean), max(self.statistic.value, scale.mean)


class Charge(NamedTuple):
    """A change of a statistic, because the actions that the log never shows earn the least or the most."""

    terms: Array  # [N]
    resamples: Resamples
    """Of the mean of the terms."""

    def times(self, factor: float) -> "Charge":
        """Return a multiple of the charge."""
        return Charge(factor * self.terms, Resamples(*(factor * part for part in self.resamples)))


@dataclass(frozen=True)
class MissingMass:
    """The actions of one policy that the log never shows, in the statistic of a value or a difference."""

    weight: Array  # [N]
    lower: Charge
    """What the lower limit adds to the statistic."""
    upper: Charge

    @classmethod
    def from_estimate(
        cls, estimate: PointEstimate, of_weight: Resamples, of_imputed: Resamples | None, scale: RewardScale,
        sign: int = 1,
    ) -> "MissingMass":  # fmt: skip
        """Return the missing mass of a policy whose value enters the statistic with this sign.

        With the mass m, the lowest value is estimate - m imputed + m low, and the highest is that with `high`.

        Args:
            estimate: The estimate of the policy's value.
            of_weight: Resamples of the mean weight.
            of_imputed: Those of `charged_terms(estimate)`; None without them.
            scale: The range of rewards.
            sign: -1 for the policy whose value is subtracted.
        """
        imputed, lost = charged_terms(estimate), 1 - estimate.weight
        of_lost = Resamples(1 - of_weight.bootstrap, 1 - of_weight.jackknife)
        lowest, highest = (0.0, 0.0) if imputed is not None else estimate.imputed(scale)
        charges = []
        for factor in (scale.low - highest, scale.high - lowest):
            charge = Charge(lost, of_lost).times(factor)
            if imputed is not None and of_imputed is not None:
                charge = Charge(charge.terms - imputed, charge.resamples.minus(of_imputed))
            charges.append(charge)
        return cls(estimate.weight, *(charges if sign > 0 else [charge.times(-1) for charge in charges[::-1]]))

    def scaled(self, factor: float) -> "MissingMass":
        """Return the missing mass for a statistic in another unit; the factor is above 0."""
        return MissingMass(self.weight, self.lower.times(factor), self.upper.times(factor))

    @property
    def none(self) -> bool:
        """True if the policy is the logging policy: all weights are 1."""
        return bool(np.all(np.abs(self.weight - 1) < 1e-9))


def charged_terms(estimate: PointEstimate) -> Array | None:
    """Return the terms [N] of what the estimate gives to actions that the log never shows; None: a range is known.

    A given model may say anything about these actions, so its range is that of the rewards.
    """
    return None if estimate.given_model else estimate.statistic.imputed_terms


def with_intervals(
    estimates: Mapping[str, PointEstimate], clusters: Clusters, config: EstimationConfig, scale: RewardScale
) -> dict[str, OffPolicyResult]:
    """Return results by estimator. Raises DataError for a single user."""
    resamples = _resample_all([estimate.statistic for estimate in estimates.values()], clusters, config)
    return {
        name: _result(name, estimate, resample, clusters, config, scale)
        for (name, estimate), resample in zip(estimates.items(), resamples, strict=True)
    }


def within_range(result: OffPolicyResult, low: float, high: float) -> OffPolicyResult:
    """Return the result with intervals that do not leave the range of rewards, where the true value must be.

    An interval still contains its estimate, which may be outside; an infinite one stays.
    """
    intervals = {
        kind: replace(ends, lo=max(ends.lo, min(low, ends.value)), hi=min(ends.hi, max(high, ends.value)))
        if np.isfinite([ends.lo, ends.hi]).all()
        else ends
        for kind, ends in result.intervals.items()
    }
    return replace(result, intervals=intervals)


def compare_policies(
    candidate: Mapping[str, PointEstimate],
    incumbent: Mapping[str, PointEstimate],
    clusters: Clusters,
    config: EstimationConfig,
    scale: RewardScale,
) -> dict[str, PolicyComparison]:
    """Return comparisons by the estimators of `candidate`, paired row by row. Raises DataError for a single user."""
    pairs = {name: (estimate, incumbent[name]) for name, estimate in candidate.items()}
    every = [estimate for pair in pairs.values() for estimate in pair]
    further = {id(part): mean_statistic(part) for one in every for part in (one.weight, charged_terms(one))
               if part is not None}  # fmt: skip
    resamples = _resample_all([*(one.statistic for one in every), *further.values()], clusters, config)
    resamples_of = dict(zip(further, resamples[len(every) :], strict=True))
    comparisons = {}
    for row, (name, pair) in enumerate(pairs.items()):
        of_values = (resamples[2 * row], resamples[2 * row + 1])
        missing = [
            MissingMass.from_estimate(
                estimate, resamples_of[id(estimate.weight)], resamples_of.get(id(charged_terms(estimate))), scale, sign
            )
            for estimate, sign in zip(pair, (1, -1), strict=True)
        ]
        comparisons[name] = _comparison(name, pair, of_values, missing, clusters, config, scale)
    return comparisons


def value_limits(
    estimate: PointEstimate, clusters: Clusters, config: EstimationConfig, scale: RewardScale
) -> dict[str, Interval]:
    """Return the intervals of one policy's value, widened by what the actions that the log never shows may earn.

    The lower limit assumes that these actions earn the lowest reward. Raises DataError for a single user.
    """
    parts = [part for part in (estimate.weight, charged_terms(estimate)) if part is not None]
    resamples, of_weight, *of_imputed = _resample_all(
        [estimate.statistic, *map(mean_statistic, parts)], clusters, config
    )
    size = diagnose(estimate.weight, estimate.transformed_weight, clusters).effective_sample_size
    step, terms = float(largest_step(scale.width, size)), estimate.statistic.terms
    missing = [MissingMass.from_estimate(estimate, of_weight, of_imputed[0] if of_imputed else None, scale)]
    intervals = term_intervals(terms, resamples, clusters, config, step, size)
    return missing_mass_limits(intervals, terms, resamples, missing, clusters, config, step, size)


def _comparison(
    name: str,
    pair: tuple[PointEstimate, PointEstimate],
    resamples: tuple[Resamples, Resamples],
    missing: Sequence[MissingMass],
    clusters: Clusters,
    config: EstimationConfig,
    scale: RewardScale,
) -> PolicyComparison:
    candidate, incumbent = pair
    terms = candidate.statistic.terms - incumbent.statistic.terms
    bounds = None
    if candidate.bounds is not None and incumbent.bounds is not None:
        bounds = candidate.bounds - incumbent.bounds
    results = [_result(name, *values, clusters, config, scale) for values in zip(pair, resamples, strict=True)]
    sizes = [result.diagnostics.effective_sample_size for result in results]
    step, size = float(largest_step(scale.width, *sizes)), min(sizes)
    if np.array_equal(candidate.transformed_weight, incumbent.transformed_weight):  # the policies do the same
        step, size, missing = 0.0, np.inf, ()
    difference = resamples[0].minus(resamples[1])
    intervals = term_intervals(terms, difference, clusters, config, step, size)
    limits = missing_mass_limits(intervals, terms, difference, missing, clusters, config, step, size)
    if bounds is not None:
        intervals["bernstein"] = empirical_bernstein(float(terms.mean()), bounds, clusters, config.level)
        limits["bernstein"] = intervals["bernstein"]  # it allows for missing mass by itself
    return PolicyComparison(name, float(terms.mean()), intervals, limits, *results)


def _result(
    name: str,
    estimate: PointEstimate,
    resamples: Resamples,
    clusters: Clusters,
    config: EstimationConfig,
    scale: RewardScale,
) -> OffPolicyResult:
    diagnostics, terms = diagnose(estimate.weight, estimate.transformed_weight, clusters), estimate.statistic.terms
    size = diagnostics.effective_sample_size
    intervals = term_intervals(terms, resamples, clusters, config, float(largest_step(scale.width, size)), size)
    if estimate.bounds is not None:
        intervals["bernstein"] = empirical_bernstein(estimate.statistic.value, estimate.bounds, clusters, config.level)
    return OffPolicyResult(
        estimator=name,
        value=estimate.statistic.value,
        intervals=intervals,
        diagnostics=diagnostics,
        tuning=estimate.tuning,
        model=estimate.model,
    )


def term_intervals(
    terms: Array, resamples: Resamples, clusters: Clusters, config: EstimationConfig, step: float, size: float
) -> dict[str, Interval]:
    """Return the intervals of the mean of terms [N]: t, sequence and, with bootstrap resamples, bootstrap.

    Args:
        terms: [N]. resamples: of their mean. clusters: the users. config: the level.
        step: see core.statistics.half_width. size: effective sample size.
    """
    value, level = float(terms.mean()), config.level
    intervals = {"sequence": confidence_sequence(terms, clusters, level, step, size)}
    if not np.isfinite(resamples.jackknife).all():  # one user has all the weight: unknown without that user
        kinds = ("bootstrap", "t") if len(resamples.bootstrap) else ("t",)
        return dict.fromkeys(kinds, Interval.unbounded(value, level)) | intervals
    if len(resamples.bootstrap):
        defined = resamples.bootstrap[np.isfinite(resamples.bootstrap)]
        bootstrap = Interval.unbounded(value, level)
        if len(defined):
            bootstrap = expanded_percentile(value, defined, resamples.jackknife, level, step)
        intervals = {"bootstrap": bootstrap} | intervals
    return intervals | {"t": student_t(value, resamples.jackknife, level, step)}


def missing_mass_limits(
    intervals: Mapping[str, Interval],
    terms: Array,
    resamples: Resamples,
    missing: Sequence[MissingMass],
    clusters: Clusters,
    config: EstimationConfig,
    step: float,
    size: float,
) -> dict[str, Interval]:
    """Return the intervals, widened to cover whatever the actions that the log never shows may earn.

    With mean weight 1 - m, the log lacks the mass m of a policy, up to chance. The lower limit is that of the statistic
    as if these actions earned the lowest reward, in place of what the estimate gives them; the upper limit is that of
    the highest reward. The error of m is part of both, because m and the statistic are resampled together.

    Args:
        intervals: of the statistic. terms: [N], its terms. resamples: of the statistic.
        missing: the missing mass of each policy in the statistic.
        clusters: the users. config: the level. step: see core.statistics.half_width. size: effective sample size.
    """
    missing = [one for one in missing if not one.none]
    if not missing:
        return dict(intervals)
    low, high = terms, terms
    low_resamples = high_resamples = resamples
    for one in missing:
        low, low_resamples = low + one.lower.terms, low_resamples.plus(one.lower.resamples)
        high, high_resamples = high + one.upper.terms, high_resamples.plus(one.upper.resamples)
    lower = term_intervals(low, low_resamples, clusters, config, step, size)
    upper = term_intervals(high, high_resamples, clusters, config, step, size)
    return {
        kind: Interval(ends.value, min(ends.lo, lower[kind].lo), max(ends.hi, upper[kind].hi), ends.level)
        for kind, ends in intervals.items()
    }


def _resample_all(
    statistics: list[ResampledStatistic], clusters: Clusters, config: EstimationConfig
) -> list[Resamples]:
    return resample(statistics, clusters, generator(config.seed, "off_policy/bootstrap"), config.resamples)
