"""Relative gain: the fraction by which a target's value exceeds that of the logging policy.

    relative gain = SNIPS value / mean logged reward - 1,   SNIPS = sum(w r) / sum(w),   w = pi / mu.

N rounds; 0 where the target is the logging policy. Where the log is uniform, w is proportional to pi, and it is the
sum(pi r) / sum(pi) / mean(r) - 1 that our reading of Pinterest's gate asks (2025, DRL-PUT; formula not published); with
other propensities the weights correct for who was shown what. The reward must have a mean above 0, a share of it means
nothing otherwise.

The gain on hits leaves the propensities out: sum(pi r) / sum(pi) / mean(r) - 1 on any log. Only on a uniform log does
it estimate the same.
"""

import numpy as np

from recpolicy.core.statistics import LEVEL, RESAMPLES, Interval, percentile_interval
from recpolicy.core.types import Array
from recpolicy.ope.feedback import BanditFeedback, TargetPolicy
from recpolicy.ope.inference import ResampledStatistic, resample
from recpolicy.ope.terms import snips_terms
from recpolicy.ope.weights import importance_weights


def relative_gain(
    rounds: BanditFeedback,
    target: TargetPolicy,
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval | None:
    """Return the relative gain with its user-bootstrap interval; every resample recomputes the whole ratio.

    None where it has no meaning: the mean reward is not above 0, or the target never takes a logged action.
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
    (resampled,) = resample([statistic], rounds.clusters, rng, resamples)
    return percentile_interval(statistic.value, resampled.bootstrap[np.isfinite(resampled.bootstrap)], level)


def gain_on_hits(rounds: BanditFeedback, target: TargetPolicy) -> float | None:
    """Return the mean reward where the target would act the same, relative to the mean of all, less 1; None without
    any."""
    prob, reward = target.prob.astype(np.float64), rounds.reward.astype(np.float64)
    mean = float(reward.mean())
    if mean <= 0 or prob.sum() == 0:
        return None
    return float(prob @ reward / prob.sum() / mean - 1)


def _ratio_of_ratio(means: Array) -> Array:
    """Return the statistic from the means of w r, w and r, [3, B]; NaN where a resample has nothing to divide by."""
    above, below = means[0], means[1] * means[2]
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0) - 1
