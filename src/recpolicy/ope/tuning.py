"""How hard to tame weights, chosen from the log itself.

M candidate settings from tamest (most bias, least spread) to untamed. Two ways:

- `slope`: the tamest setting whose interval still meets those of all less tamed ones, value -+ 2 standard errors each
  (Su, Srinath & Krishnamurthy 2020, with one standard error for their bound on the deviation). Asks no estimate of the
  bias and often gives the smallest error, but accepts a bias of several standard errors: its t and bootstrap intervals
  are about the tamed estimator's mean, not about the truth.
- `bound`: least variance + bias^2, where the bias of weights u is |mean((w - u)(r - q))| and, to be on the safe side,
  what that may miss: (sqrt(2 mean(v^2) ln(2/d) / N) + 2 max(v) ln(2/d) / (3 N)) max|r - q| with v = |w - u|, d = 0.05.
  The Open Bandit Pipeline puts w for v, which adds the same to every candidate, the unbiased one included.

So `bound` gives up little coverage, and is the default. The estimate is then made on the rounds that chose the setting;
t, bootstrap and sequence do not count the choice, empirical Bernstein does.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import unknown_name_error
from recpolicy.ope.estimator_specs import Evidence, Recipe, Taming
from recpolicy.ope.intervals import mean_and_error
from recpolicy.ope.rounds import Units

Array = NDArray[np.float64]

METHODS = ("slope", "bound")
_DOUBT = 0.05


@dataclass(frozen=True)
class Choice:
    """A setting and how it came about."""

    setting: str
    value: float
    method: str
    """slope, bound, or given."""
    candidates: tuple[float, ...]
    estimates: tuple[float, ...]
    """What the estimator would say under each candidate."""
    scores: tuple[float, ...]
    """By slope the standard error of each candidate, by bound the estimated mean squared error."""


def given(taming: Taming, value: float) -> Choice:
    """The setting that the user chose."""
    return Choice(taming.setting, value, "given", (value,), (), ())


def choose(recipe: Recipe, taming: Taming, evidence: Evidence, units: Units, method: str) -> Choice:
    """Choose the setting of an estimator. Raises ConfigError for an unknown method."""
    if method not in METHODS:
        raise unknown_name_error("way to choose a setting", method, METHODS)
    estimates, scores = [], []
    for candidate in taming.candidates:
        used = taming.tame(evidence.weight, candidate)
        value, error = mean_and_error(recipe.form(evidence, used).terms, units)
        estimates.append(value)
        scores.append(error if method == "slope" else error**2 + bias_bound(evidence, used) ** 2)
    best = slope_index(np.array(estimates), np.array(scores)) if method == "slope" else int(np.argmin(scores))
    return Choice(taming.setting, taming.candidates[best], method, taming.candidates, tuple(estimates), tuple(scores))


def slope_index(values: Array, errors: Array) -> int:
    """First candidate whose interval meets those of all after it; both [M], from most to least biased."""
    lo, hi = values - 2 * errors, values + 2 * errors
    highest_lo = np.maximum.accumulate(lo[::-1])[::-1]  # [M], over this candidate and all after it
    lowest_hi = np.minimum.accumulate(hi[::-1])[::-1]
    return int(np.argmax(highest_lo <= lowest_hi))  # the last always meets itself


def bias_bound(evidence: Evidence, used: Array) -> float:
    """Upper bound, but for probability 0.05, of the bias from weights `used` [N] in place of w; rounds independent."""
    missing = evidence.weight - used
    if not missing.any():
        return 0.0
    left = evidence.reward - evidence.predicted
    rounds, logarithm = len(used), np.log(2 / _DOUBT)
    doubt = np.sqrt(2 * float(missing @ missing) * logarithm) / rounds
    doubt += 2 * float(np.abs(missing).max()) * logarithm / (3 * rounds)
    return abs(float(missing @ left)) / rounds + float(doubt) * float(np.abs(left).max())
