"""Estimates with intervals: resampling by user, and differences of two policies paired row by row.

N rows of U users; a row is a round, a slate or a session. All estimators of one call, and both policies of a
comparison, share the resamples (resampling.py). Differences are therefore paired, and no estimate depends on the other
estimators of the call. Limits also cover what the log never shows (missing_mass.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from recpolicy.core.seeds import generator
from recpolicy.core.statistics import Interval, largest_step
from recpolicy.ope.config import EstimationConfig
from recpolicy.ope.feedback import Clusters
from recpolicy.ope.intervals import diagnose, empirical_bernstein
from recpolicy.ope.missing_mass import (
    MissingMass,
    PointEstimate,
    RewardScale,
    charged_terms,
    missing_mass_limits,
    term_intervals,
)
from recpolicy.ope.resampling import ResampledStatistic, Resamples, mean_statistic, resample
from recpolicy.ope.results import OffPolicyResult, PolicyComparison


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
    same: bool = False,
) -> dict[str, PolicyComparison]:
    """Return comparisons by the estimators of `candidate`, paired row by row. Raises DataError for a single user.

    Args:
        candidate: Estimates of the candidate.
        incumbent: Those of the incumbent on the same log.
        clusters: The users.
        config: The level and the resamples.
        scale: The range of rewards.
        same: Both are known to be the same policy, also in the actions that the log never shows.
    """
    pairs = {name: (estimate, incumbent[name]) for name, estimate in candidate.items()}
    every = [estimate for pair in pairs.values() for estimate in pair]
    parts = [part for estimate in every for part in (estimate.mass_weight, charged_terms(estimate)) if part is not None]
    further = {id(part): mean_statistic(part) for part in parts}
    resamples = _resample_all([*(estimate.statistic for estimate in every), *further.values()], clusters, config)
    resamples_of = dict(zip(further, resamples[len(every) :], strict=True))
    comparisons = {}
    for row, (name, pair) in enumerate(pairs.items()):
        of_values = (resamples[2 * row], resamples[2 * row + 1])
        missing = [
            MissingMass.from_estimate(
                estimate,
                resamples_of[id(estimate.mass_weight)],
                resamples_of.get(id(charged_terms(estimate))),
                scale,
                sign,
            )
            for estimate, sign in zip(pair, (1, -1), strict=True)
        ]
        comparisons[name] = _comparison(name, pair, of_values, missing, clusters, config, scale, same)
    return comparisons


def value_limits(
    estimate: PointEstimate, clusters: Clusters, config: EstimationConfig, scale: RewardScale
) -> dict[str, Interval]:
    """Return the intervals of one policy's value, widened by what the actions that the log never shows may earn.

    The lower limit assumes that these actions earn the lowest reward. Raises DataError for a single user.
    """
    parts = [part for part in (estimate.mass_weight, charged_terms(estimate)) if part is not None]
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
    same: bool,
) -> PolicyComparison:
    candidate, incumbent = pair
    terms = candidate.statistic.terms - incumbent.statistic.terms
    bounds = None
    if candidate.bounds is not None and incumbent.bounds is not None:
        bounds = candidate.bounds - incumbent.bounds
    results = [_result(name, *values, clusters, config, scale) for values in zip(pair, resamples, strict=True)]
    sizes = [result.diagnostics.effective_sample_size for result in results]
    step, size = float(largest_step(scale.width, *sizes)), min(sizes)
    equal = np.array_equal(candidate.transformed_weight, incumbent.transformed_weight)
    if equal and (same or all(mass.none for mass in missing)):  # the policies do the same, also where the log is silent
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


def _resample_all(
    statistics: list[ResampledStatistic], clusters: Clusters, config: EstimationConfig
) -> list[Resamples]:
    return resample(statistics, clusters, generator(config.seed, "off_policy/bootstrap"), config.resamples)
