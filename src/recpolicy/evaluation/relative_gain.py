"""Relative gain: the fraction by which a target's value exceeds that of the logging policy.

    relative gain = SNIPS value / mean logged reward - 1,   SNIPS = sum(w r) / sum(w),   w = pi / mu.

N rounds; 0 where the target is the logging policy. Where the log is uniform, w is proportional to pi, and it is the
sum(pi r) / sum(pi) / mean(r) - 1 that our reading of Pinterest's gate asks (2025, DRL-PUT; formula not published); with
other propensities the weights correct for who was shown what. The reward must have a mean above 0, a share of it means
nothing otherwise.

The gain on hits leaves the propensities out: sum(pi r) / sum(pi) / mean(r) - 1 on any log. Only on a uniform log does
it estimate the same.
"""

from collections.abc import Mapping

import numpy as np

from recpolicy.core.statistics import LEVEL, Interval, effective_sample_size, largest_step
from recpolicy.core.types import Array
from recpolicy.ope.config import EstimationConfig
from recpolicy.ope.feedback import BanditFeedback, TargetPolicy
from recpolicy.ope.missing_mass import MissingMass, PointEstimate, RewardScale, missing_mass_limits, term_intervals
from recpolicy.ope.resampling import ResampledStatistic, mean_statistic, ratio_statistic, resample
from recpolicy.ope.terms import snips_terms
from recpolicy.ope.weights import importance_weights


def relative_gain(
    rounds: BanditFeedback,
    target: TargetPolicy,
    reward_range: tuple[float, float],
    level: float = LEVEL,
) -> Mapping[str, Interval] | None:
    """Return the relative gain with its intervals over users, widened by the mass that the log never shows.

    Args:
        rounds: N logged rounds of two or more users. target: the policy.
        reward_range: minimum and maximum reward. level: probability that an interval contains the true value.

    Returns:
        The intervals t and sequence; t is infinitely wide where one user has all the weight. None where the relative
        gain has no meaning: the mean reward is not above 0, or the target never takes a logged action.
    """
    weight = importance_weights(target.prob, rounds.behavior_prob)
    reward = rounds.reward.astype(np.float64)
    mean = float(reward.mean())
    if mean <= 0 or weight.sum() == 0:
        return None
    terms = snips_terms(weight, reward)
    value = float(terms.mean())
    linear = value / mean - 1 + (terms - value) / mean - value / mean**2 * (reward - mean)
    statistic = ResampledStatistic(linear, (weight * reward, weight, reward), _ratio_of_ratio)
    config, clusters = EstimationConfig(level=level, resamples=0), rounds.clusters
    resamples = resample([statistic, mean_statistic(weight)], clusters, np.random.default_rng(0), 0)
    estimate = PointEstimate(ratio_statistic(weight, reward), weight, weight)
    missing = MissingMass.from_estimate(estimate, resamples[1], None, RewardScale(mean, *reward_range)).scaled(1 / mean)
    sizes = effective_sample_size(clusters.sums(weight)), effective_sample_size(clusters.size.astype(np.float64))
    step, size = float(largest_step(reward_range[1] - reward_range[0], *sizes)) / mean, min(sizes)
    if missing.none:  # the logging policy gains nothing over itself
        step, size = 0.0, np.inf
    intervals = term_intervals(linear, resamples[0], clusters, config, step, size)
    return missing_mass_limits(intervals, linear, resamples[0], [missing], clusters, config, step, size)


def gain_on_hits(rounds: BanditFeedback, target: TargetPolicy) -> float | None:
    """Return the mean reward where the target would act the same, relative to the mean of all, less 1; None without
    any."""
    prob, reward = target.prob.astype(np.float64), rounds.reward.astype(np.float64)
    mean = float(reward.mean())
    if mean <= 0 or prob.sum() == 0:
        return None
    return float(prob @ reward / prob.sum() / mean - 1)


def _ratio_of_ratio(means: Array) -> Array:
    """Return the statistic from the means of w r, w and r, [3, G]; NaN where there is nothing to divide by."""
    above, below = means[0], means[1] * means[2]
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0) - 1
