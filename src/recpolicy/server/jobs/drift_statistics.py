"""Statistics of drift: shares of groups, means of rewards and spread of actions, a recent window against an older one.

B bins or groups, n recent values, m older ones. No statistic is meaningful if a window is too small.

- psi: population stability index, sum over bins of (p - q) ln(p / q). If both windows come from one distribution, its
  expectation is near (B - 1) (1 / n + 1 / m): about 0.04 for 10 bins and 500 values each.
- CUSUM (Page 1954), two-sided, on standardized rewards: S_t = max(0, S_t-1 + z_t - k), alarm above h. The limit h comes
  from Siegmund's approximation (1985) of the mean time to a false alarm: (exp(2 k b) - 2 k b - 1) / (2 k^2), with
  b = h + 1.166. The probability of a false alarm in n rounds is then at most the given one.
- effective items: exp(entropy) of the items' shares in the impressions.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Array

_LEAST_SHARE = 1e-4  # the usual share of an empty bin; ln 0 has no value
_OVERSHOOT = 1.166


def psi(expected: NDArray[np.number], recent: NDArray[np.number]) -> float:
    """Return the population stability index of counts or shares [B] against the expected ones [B]; 0 if both agree."""
    p = np.maximum(recent / recent.sum(), _LEAST_SHARE)
    q = np.maximum(expected / expected.sum(), _LEAST_SHARE)
    return float(((p - q) * np.log(p / q)).sum())


def psi_by_dimension(expected: NDArray[np.floating], recent: NDArray[np.floating], bins: int = 10) -> Array:
    """Return the index of each column [D] of found [n, D] against expected [m, D], over the expected quantiles."""
    inner = np.quantile(expected, np.arange(1, bins) / bins, axis=0)  # [bins - 1, D]
    return np.array([_column_psi(*columns) for columns in zip(inner.T, expected.T, recent.T, strict=True)])


def activity_groups(activity: NDArray[np.integer], groups: int = 10) -> NDArray[np.intp]:
    """Return each user's activity group [U] (by quantiles), 0 the least active; equal activity is one group."""
    limits = np.unique(np.quantile(activity, np.arange(1, groups) / groups))
    return np.searchsorted(limits, activity, side="left")


@dataclass(frozen=True)
class Change:
    """A change that CUSUM found in a sequence."""

    at: int | None
    """The first position where the sum exceeded its limit; None: nowhere."""
    direction: str
    """up, down or none."""
    largest: float
    """The largest sum, up or down."""
    limit: float


def cusum(values: Array, mean: float, std: float, allowance: float, false_alarms: float) -> Change:
    """Find a shift of the mean of `values` [n], in order, away from `mean`, in either direction.

    A shift of s > allowance standard deviations is found after about limit / (s - allowance) values.
    """
    limit = cusum_limit(len(values), allowance, false_alarms)
    z = (values - mean) / std if std > 0 else np.zeros(len(values))
    sums = np.stack([_cusum(z - allowance), _cusum(-z - allowance)])  # [2, n]
    over = (sums > limit).any(axis=0)
    at = int(over.argmax()) if over.any() else None
    direction = "none" if at is None else ("up" if sums[0, at] > sums[1, at] else "down")
    return Change(at, direction, float(sums.max(initial=0.0)), limit)


def cusum_limit(count: int, allowance: float, false_alarms: float) -> float:
    """Return the limit h for which both sides together give a false alarm in `count` values with at most this
    probability.
    """
    wanted = 2 * max(count, 1) / -math.log1p(-false_alarms)  # mean time to a false alarm of each side
    scaled = math.log1p(2 * allowance**2 * wanted)
    for _ in range(50):  # solves exp(x) - x - 1 = 2 k^2 wanted: a contraction
        scaled = math.log(1 + 2 * allowance**2 * wanted + scaled)
    return max(scaled / (2 * allowance) - _OVERSHOOT, 0.0)


@dataclass(frozen=True)
class ActionConcentration:
    """The concentration of impressions on few items."""

    top_share: float
    effective: float


def action_concentration(items: NDArray[np.generic]) -> ActionConcentration:
    """Return the share of the most frequent item [n], and exp(entropy) of all shares."""
    count = np.unique(items, return_counts=True)[1]
    share = count / count.sum()
    return ActionConcentration(float(share.max()), float(np.exp(-(share * np.log(share)).sum())))


def _cusum(steps: Array) -> Array:
    """Return max(0, S + step) along the sequence: the running sum above its lowest point so far, 0 included."""
    total = np.cumsum(steps)
    return np.asarray(total - np.minimum(np.minimum.accumulate(total), 0.0), np.float64)


def _column_psi(inner: Array, expected: Array, recent: Array) -> float:
    limits = np.unique(inner)
    bins = len(limits) + 1
    counts = [np.bincount(np.searchsorted(limits, sample), minlength=bins) for sample in (expected, recent)]
    return psi(*counts)
