"""Transforms that reduce large weights, and the choice of their setting from the log itself; all arrays [N].

Smaller weights trade variance for bias; at one end of its setting each transform returns w itself. Only the
sub-Gaussian correction increases small weights (below 1).

M candidate settings from the strongest transform (most bias, least variance) to none. Two methods:

- `slope`: the strongest setting whose interval still overlaps those of all weaker ones, value -+ 2 standard errors each
  (Su, Srinath & Krishnamurthy 2020, with one standard error for their bound on the deviation). It needs no estimate of
  the bias and often gives the smallest error, but it accepts a bias of several standard errors: its t and bootstrap
  intervals are about the mean of the transformed estimator, not about the true value.
- `bound`: minimum variance + bias^2. The bias of weights u is |mean((w - u)(r - q))| plus a bound on its own error,
  (sqrt(2 mean(v^2) ln(2/a) / N) + 2 max(v) ln(2/a) / (3 N)) max|r - q| with v = |w - u|, a = 0.05. The Open Bandit
  Pipeline uses w for v, which adds the same to every candidate, including the unbiased one.

So `bound` loses little coverage and is the default. The estimate then uses the rounds that chose the setting; t,
bootstrap and sequence ignore that choice, empirical Bernstein accounts for it.

Sources: Ionides 2008 (clipping); Wang, Agarwal & Dudik 2017 (SWITCH); Su, Dimakopoulou, Krishnamurthy & Dudik 2020
(optimistic shrinkage); Metelli, Russo & Restelli 2021 (sub-Gaussian correction, s = -1).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from recpolicy.core.errors import ConfigError, unknown_name_error
from recpolicy.core.types import Array
from recpolicy.ope.feedback import Clusters
from recpolicy.ope.intervals import mean_and_error

TuningMethod = Literal["slope", "bound"]
METHODS: tuple[str, ...] = get_args(TuningMethod)
_ALPHA = 0.05


def clipped(weight: Array, clip: float) -> Array:
    """Return min(w, clip); clip = inf leaves w."""
    _check_setting("clip", clip, 0, np.inf)
    return np.minimum(weight, clip)


def switched(weight: Array, tau: float) -> Array:
    """Return w where w <= tau, else 0; tau = inf leaves w, tau = 0 gives 0."""
    _check_setting("tau", tau, 0, np.inf)
    return np.where(weight <= tau, weight, 0.0)


def shrunk(weight: Array, strength: float) -> Array:
    """Return lambda w / (w^2 + lambda), at most sqrt(lambda) / 2; lambda = inf leaves w, lambda = 0 gives 0."""
    _check_setting("lambda", strength, 0, np.inf)
    if strength == np.inf:
        return weight
    denominator = weight**2 + strength
    return np.divide(strength * weight, denominator, out=np.zeros_like(weight), where=denominator > 0)


def harmonic(weight: Array, strength: float) -> Array:
    """Return w / (1 - lambda + lambda w), at most 1 / lambda; lambda = 0 leaves w, lambda = 1 gives 1 where w > 0."""
    _check_setting("lambda", strength, 0, 1)
    denominator = 1 - strength + strength * weight
    return np.divide(weight, denominator, out=np.zeros_like(weight), where=denominator > 0)


@dataclass(frozen=True)
class WeightTransform:
    """A transform of weights, with candidate settings from the strongest to none."""

    setting: str
    apply: Callable[[Array, float], Array]
    candidates: tuple[float, ...]
    max_weight: Callable[[float], float]
    """The maximum transformed weight under a setting."""


_THRESHOLDS = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0, np.inf)
CLIP = WeightTransform("clip", clipped, _THRESHOLDS, lambda clip: clip)
SWITCH = WeightTransform("tau", switched, (0.0, *_THRESHOLDS), lambda tau: tau)
SHRINK = WeightTransform(
    "lambda", shrunk, (0.0, 1.0, 10.0, 100.0, 1e3, 1e4, 1e5, 1e6, np.inf), lambda strength: float(np.sqrt(strength)) / 2
)
HARMONIC = WeightTransform(
    "lambda",
    harmonic,
    (1.0, 0.3, 0.1, 0.03, 0.01, 1e-3, 1e-4, 0.0),
    lambda strength: 1 / strength if strength else np.inf,
)
TRANSFORMS: Mapping[str, WeightTransform] = {
    "clipped_ips": CLIP, "sub_gaussian": HARMONIC, "switch_dr": SWITCH, "dros": SHRINK,
}  # fmt: skip
"""Transforms by the estimator that uses them."""


@dataclass(frozen=True)
class TuningResult:
    """A setting and how it was chosen."""

    setting: str
    value: float
    method: str
    """slope, bound, or given."""
    candidates: tuple[float, ...]
    estimates: tuple[float, ...]
    """The estimate under each candidate."""
    scores: tuple[float, ...]
    """Of each candidate: the standard error (slope), or the estimated mean squared error (bound)."""


def fixed_setting(transform: WeightTransform, value: float) -> TuningResult:
    """Return the setting that the user gave."""
    return TuningResult(transform.setting, value, "given", (value,), (), ())


def tune(
    transform: WeightTransform,
    weight: Array,
    residual: Array,
    terms: Callable[[Array], Array],
    clusters: Clusters,
    method: str,
) -> TuningResult:
    """Choose the setting of a transform for one estimator.

    Args:
        transform: the transform, with its candidates.
        weight: [N], before the transform.
        residual: [N], r - q: rewards less the predictions of the reward model, if there is one.
        terms: the estimator's terms [N] as a function of the transformed weights [N].
        clusters: the users.
        method: slope or bound.

    Raises:
        ConfigError: an unknown method.
    """
    if method not in METHODS:
        raise unknown_name_error("method to choose a setting", method, METHODS)
    estimates, scores = [], []
    for candidate in transform.candidates:
        transformed = transform.apply(weight, candidate)
        value, error = mean_and_error(terms(transformed), clusters)
        estimates.append(value)
        scores.append(error if method == "slope" else error**2 + bias_bound(weight - transformed, residual) ** 2)
    best = slope_index(np.array(estimates), np.array(scores)) if method == "slope" else int(np.argmin(scores))
    value = transform.candidates[best]
    return TuningResult(transform.setting, value, method, transform.candidates, tuple(estimates), tuple(scores))


def slope_index(values: Array, errors: Array) -> int:
    """Return the first candidate whose interval overlaps all after it; both [M], from most to least biased."""
    lo, hi = values - 2 * errors, values + 2 * errors
    highest_lo = np.maximum.accumulate(lo[::-1])[::-1]  # [M], over this candidate and all after it
    lowest_hi = np.minimum.accumulate(hi[::-1])[::-1]
    return int(np.argmax(highest_lo <= lowest_hi))  # the last always overlaps itself


def bias_bound(missing: Array, residual: Array) -> float:
    """Return an upper bound of the bias, except with probability 0.05; rounds are assumed independent.

    Args:
        missing: [N], w - u: weights less transformed weights. residual: [N], r - q.
    """
    if not missing.any():
        return 0.0
    rounds, logarithm = len(missing), np.log(2 / _ALPHA)
    margin = np.sqrt(2 * float(missing @ missing) * logarithm) / rounds
    margin += 2 * float(np.abs(missing).max()) * logarithm / (3 * rounds)
    return abs(float(missing @ residual)) / rounds + float(margin) * float(np.abs(residual).max())


def _check_setting(name: str, value: float, minimum: float, maximum: float) -> None:
    if not minimum <= value <= maximum:
        raise ConfigError(f"{name} is {value}; expected {minimum:g}..{maximum:g}")
