"""Actions that the log never shows: the mass that a policy gives them, and limits that cover their rewards.

N rows of U users. A policy's weights have the mean 1 - m, up to chance, where m is the probability of these actions.
An estimate gives them some reward; a limit replaces it by the lowest or the highest reward. Value, mass and limit are
resampled together, so the error of m is part of the limit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from recpolicy.core.statistics import Interval, expanded_percentile, student_t
from recpolicy.core.types import Array
from recpolicy.ope.config import EstimationConfig
from recpolicy.ope.feedback import Clusters
from recpolicy.ope.intervals import Bounds, confidence_sequence
from recpolicy.ope.resampling import ResampledStatistic, Resamples
from recpolicy.ope.results import ModelFit
from recpolicy.ope.tuning import TuningResult


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
    lightest_weight: Array | None = None  # [N]
    """Weights of the step or slot with the smallest mean, for estimators that weight each by itself; None: `weight`."""

    @property
    def mass_weight(self) -> Array:
        """Weights [N] whose mean is 1 less the mass that the log never shows."""
        return self.weight if self.lightest_weight is None else self.lightest_weight

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
    """Charge of the lower limit, added to the statistic."""
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
            of_weight: Resamples of the mean of `estimate.mass_weight`.
            of_imputed: Those of `charged_terms(estimate)`; None without them.
            scale: The range of rewards.
            sign: -1 for the policy whose value is subtracted.
        """
        imputed, lost = charged_terms(estimate), 1 - estimate.mass_weight
        of_lost = Resamples(1 - of_weight.bootstrap, 1 - of_weight.jackknife)
        lowest, highest = (0.0, 0.0) if imputed is not None else estimate.imputed(scale)
        charges = []
        for factor in (scale.low - highest, scale.high - lowest):
            charge = Charge(lost, of_lost).times(factor)
            if imputed is not None and of_imputed is not None:
                charge = Charge(charge.terms - imputed, charge.resamples.minus(of_imputed))
            charges.append(charge)
        return cls(estimate.mass_weight, *(charges if sign > 0 else [charge.times(-1) for charge in charges[::-1]]))

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
    missing = [mass for mass in missing if not mass.none]
    if not missing:
        return dict(intervals)
    low, high = terms, terms
    low_resamples = high_resamples = resamples
    for mass in missing:
        low, low_resamples = low + mass.lower.terms, low_resamples.plus(mass.lower.resamples)
        high, high_resamples = high + mass.upper.terms, high_resamples.plus(mass.upper.resamples)
    lower = term_intervals(low, low_resamples, clusters, config, step, size)
    upper = term_intervals(high, high_resamples, clusters, config, step, size)
    return {
        kind: Interval(ends.value, min(ends.lo, lower[kind].lo), max(ends.hi, upper[kind].hi), ends.level)
        for kind, ends in intervals.items()
    }
