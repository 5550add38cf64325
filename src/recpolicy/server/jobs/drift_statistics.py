"""Has the world moved? Shares of groups, means of rewards, spread of actions: a recent window against an older one.

B bins or groups, n recent values, m older ones. Each figure says nothing where either window is too small.

- psi: population stability index, sum over bins of (p - q) ln(p / q). Where both windows come from one distribution,
  its expectation is near (B - 1) (1 / n + 1 / m): about 0.04 for 10 bins and 500 values each.
- CUSUM (Page 1954), two-sided, on standardised rewards: S_t = max(0, S_t-1 + z_t - k), alarm above h. The limit h comes
  from Siegmund's approximation of the mean time to a false alarm (1985), (exp(2 k b) - 2 k b - 1) / (2 k^2) with
  b = h + 1.166, so that the chance of one in n rounds is at most as asked.
- effective items: exp(entropy) of the shown items' shares.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
_LEAST_SHARE = 1e-4  # an empty bin counts as this share, as is usual; ln 0 has no value
_OVERSHOOT = 1.166


def psi(expected: NDArray[np.number], found: NDArray[np.number]) -> float:
    """The population stability index of counts or shares [B] against the expected ones [B]; 0 where both agree."""
    p = np.maximum(found / found.sum(), _LEAST_SHARE)
    q = np.maximum(expected / expected.sum(), _LEAST_SHARE)
    return float(((p - q) * np.log(p / q)).sum())


def psi_by_dimension(expected: NDArray[np.floating], found: NDArray[np.floating], bins: int = 10) -> Array:
    """The index of each column [D] of found [n, D] against expected [m, D], over quantiles of the expected ones."""
    inner = np.quantile(expected, np.arange(1, bins) / bins, axis=0)  # [bins - 1, D]
    return np.array([_psi_of_column(*columns) for columns in zip(inner.T, expected.T, found.T, strict=True)])


def activity_groups(activity: NDArray[np.integer], groups: int = 10) -> NDArray[np.intp]:
    """The group of each user [U] by activity (its quantiles), 0 the least active; equal activity is one group."""
    limits = np.unique(np.quantile(activity, np.arange(1, groups) / groups))
    return np.searchsorted(limits, activity, side="left")


@dataclass(frozen=True)
class Change:
    """What CUSUM found in a sequence."""

    at: int | None
    """The first place where the sum rose above its limit; None: nowhere."""
    direction: str
    """up, down or none."""
    largest: float
    """The largest sum, up or down."""
    limit: float


def cusum(values: Array, mean: float, std: float, allowance: float, false_alarms: float) -> Change:
    """Look for a shift of the mean of `values` [n], in order, away from `mean`, either way.

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
    """The limit h at which the two sides together give a false alarm in `count` values with at most this chance."""
    wanted = 2 * max(count, 1) / -math.log1p(-false_alarms)  # mean time to a false alarm of each side
    scaled = math.log1p(2 * allowance**2 * wanted)
    for _ in range(50):  # exp(x) - x - 1 = 2 k^2 wanted: a contraction
        scaled = math.log(1 + 2 * allowance**2 * wanted + scaled)
    return max(scaled / (2 * allowance) - _OVERSHOOT, 0.0)


@dataclass(frozen=True)
class ActionConcentration:
    """How what was shown spreads over items."""

    top_share: float
    effective: float


def action_concentration(items: NDArray[np.generic]) -> ActionConcentration:
    """Of shown items [n]: share of the most frequent one, exp(entropy) of all shares."""
    count = np.unique(items, return_counts=True)[1]
    share = count / count.sum()
    return ActionConcentration(float(share.max()), float(np.exp(-(share * np.log(share)).sum())))


def _cusum(steps: Array) -> Array:
    """max(0, S + step) along the sequence: the running sum above its lowest point so far, 0 included."""
    total = np.cumsum(steps)
    return np.asarray(total - np.minimum(np.minimum.accumulate(total), 0.0), np.float64)


def _psi_of_column(inner: Array, expected: Array, found: Array) -> float:
    limits = np.unique(inner)
    bins = len(limits) + 1
    counts = [np.bincount(np.searchsorted(limits, one), minlength=bins) for one in (expected, found)]
    return psi(*counts)
