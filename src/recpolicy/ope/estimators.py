"""Off-policy estimators as per-round terms [N] whose mean is the estimate.

w weight of the logged action (weights.py), r reward, q its predicted reward (`predicted`), d = sum_a pi(a|x) q(x, a)
(`direct`); all [N] except where noted. With w = pi / mu exact and mu > 0 wherever pi > 0:

- unbiased: ips; dr for any q that was not fitted on the same rounds; dm and dr if q is exact;
- consistent, biased by order 1/N: snips, sndr, beta_ips (ratios and fitted coefficients);
- biased by design, less variable: ips and dr with tamed weights (clipped and sub-Gaussian IPS, SWITCH-DR, DRos).

The terms of the consistent ones are linearised: value + influence of each round. Their mean is the estimate exactly,
and their variance over N is the estimate's variance to first order.
Sources: Horvitz & Thompson 1952; Dudik, Langford & Li 2011; Swaminathan & Joachims 2015; Thomas & Brunskill 2016
(SNDR); Owen 2013, chapter 8.9 (control variate).
"""

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError

Array = NDArray[np.float64]


def ips_terms(weight: Array, reward: NDArray[np.floating]) -> Array:
    """Return w r."""
    return weight * reward


def snips_terms(weight: Array, reward: NDArray[np.floating]) -> Array:
    """Return V + w (r - V) / mean w with V = sum w r / sum w.

    V stays within the range of the rewards and moves with them when all are shifted. Raises DataError when all weights
    are 0.
    """
    mean = _mean_weight(weight)
    value = float(weight @ reward) / weight.sum()
    return value + weight * (reward - value) / mean


def beta_ips_terms(weight: Array, reward: NDArray[np.floating]) -> Array:
    """Return w r - b (w - 1) with b = Cov(w r, w) / Var(w), the b of least variance; w r where all w are equal."""
    moments = np.array([weight.mean(), ips_terms(weight, reward).mean(), (weight**2).mean(), weight**2 @ reward])
    moments[3] /= len(weight)
    return weight * reward - control_coefficient(moments) * (weight - 1)


def control_coefficient(moments: Array) -> Array:
    """Return b = Cov(w r, w) / Var(w) from the means of w, w r, w^2, w^2 r [4, ...]; 0 where all w are equal."""
    w, wr, ww, wwr = moments
    variance = ww - w**2
    varies = variance > 1e-12 * ww
    return np.where(varies, (wwr - wr * w) / np.where(varies, variance, 1.0), 0.0)


def direct_terms(target_probs: NDArray[np.floating], q: NDArray[np.floating]) -> Array:
    """Sum over actions of pi q, both [N, A]: the direct method (DM)."""
    return np.einsum("na,na->n", target_probs, q, dtype=np.float64)


def dr_terms(direct: Array, weight: Array, reward: NDArray[np.floating], predicted: Array) -> Array:
    """Return d + w (r - q): doubly robust; SWITCH-DR and DRos with weights so tamed, MRDR with a q so fitted."""
    return direct + weight * (reward - predicted)


def sndr_terms(direct: Array, weight: Array, reward: NDArray[np.floating], predicted: Array) -> Array:
    """Return d + snips_terms of what q leaves over. Raises DataError when all weights are 0."""
    return direct + snips_terms(weight, reward - predicted)


def _mean_weight(weight: Array) -> float:
    mean = float(weight.mean())
    if mean == 0:
        raise DataError("all importance weights are 0: the target never takes a logged action; the log says nothing")
    return mean
