"""Importance weights w = pi / mu and the ways to tame them; all arrays [N].

Large weights are made smaller, which trades variance for bias; at one end of its setting each is w itself. Only the
sub-Gaussian correction makes small ones (below 1) larger.
Sources: Ionides 2008 (clipping); Wang, Agarwal & Dudik 2017 (SWITCH); Su, Dimakopoulou, Krishnamurthy & Dudik 2020
(optimistic shrinkage); Metelli, Russo & Restelli 2021 (sub-Gaussian correction, s = -1).
"""

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError
from recpolicy.ope.rounds import refuse

Array = NDArray[np.float64]


def importance_weights(target_prob: NDArray[np.floating], logged_prob: NDArray[np.floating]) -> Array:
    """Return pi / mu of the logged actions; mean 1 in expectation if mu > 0 wherever pi > 0.

    Raises DataError where mu is not above 0: such an action cannot have been logged.
    """
    refuse("logged_prob", logged_prob, logged_prob > 0, "above 0: an action of probability 0 cannot have been logged")
    return target_prob.astype(np.float64) / logged_prob


def clipped(weight: Array, clip: float) -> Array:
    """min(w, clip); clip = inf leaves w."""
    _check("clip", clip, 0, np.inf)
    return np.minimum(weight, clip)


def switched(weight: Array, tau: float) -> Array:
    """Return w where w <= tau, else 0; tau = inf leaves w, tau = 0 gives 0."""
    _check("tau", tau, 0, np.inf)
    return np.where(weight <= tau, weight, 0.0)


def shrunk(weight: Array, strength: float) -> Array:
    """Return lambda w / (w^2 + lambda), at most sqrt(lambda) / 2; lambda = inf leaves w, lambda = 0 gives 0."""
    _check("lambda", strength, 0, np.inf)
    if strength == np.inf:
        return weight
    sum_of_both = weight**2 + strength
    return np.divide(strength * weight, sum_of_both, out=np.zeros_like(weight), where=sum_of_both > 0)


def harmonic(weight: Array, strength: float) -> Array:
    """Return w / (1 - lambda + lambda w), at most 1 / lambda; lambda = 0 leaves w, lambda = 1 gives 1 where w > 0."""
    _check("lambda", strength, 0, 1)
    mixed = 1 - strength + strength * weight
    return np.divide(weight, mixed, out=np.zeros_like(weight), where=mixed > 0)


def effective_size(weight: Array) -> float:
    """(sum w)^2 / sum w^2: how many equally weighted rounds say as much; 0 when all weights are 0."""
    square = float(weight @ weight)
    return float(weight.sum()) ** 2 / square if square else 0.0


def _check(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:
        raise ConfigError(f"{name} is {value}; expected {least:g}..{most:g}")
