"""Thompson sampling for a batch of users: probabilities, and counts by probability rounding.

I items, M users. Each user gets the item with the largest of I draws from Normal(mean_i, variance_i). The probability
p_i of that is an integral over one variable; it is computed, not sampled, so it is the true propensity of a choice.
Probability rounding draws counts with E[count_i] = M p_i that differ from M p_i by less than 1.

Sources: Thompson 1933; Zhang et al. 2025 (arXiv 2501.07761), batches; Madow 1949, systematic sampling.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.coldstart.filter import Array, Belief
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.normal import normal_cdf

_POINTS = (128, 128, 512)
"""Points of the grids, the coarse ones first."""
_WIDEST = 7.0
"""Standard deviations around a mean that hold all of its mass but 3e-12."""
_TINY_STD = 1e-9
_SMALLEST = 1e-300


@dataclass(frozen=True)
class Allocation:
    """Items for M users, with true propensities."""

    probability: Array  # [I], of each item for every user
    item: NDArray[np.int64]  # [M], rows of the items

    @property
    def propensity(self) -> Array:
        """Return the probability [M] with which each user got the item."""
        return self.probability[self.item]

    @property
    def count(self) -> NDArray[np.int64]:
        """Return the number of users [I] of each item."""
        return np.bincount(self.item, minlength=len(self.probability))


def thompson_probabilities(belief: Belief, uniform_mix: float = 0.0) -> Array:
    """Return the probability [I] that an item has the largest draw; they sum to 1.

    The largest draw has the distribution function F = prod_i F_i. On a grid, the increments of F are shared among the
    items as those of log F_i. This is exact in the limit of a fine grid. Two coarse grids place the points of the last
    one: half of them evenly, half where F rises. Errors are below 5e-4 if stds differ by a factor of 10,000 at most.
    Users get items with the returned probabilities in any case, so logged propensities are exact.

    Args:
        belief: Beliefs about I items.
        uniform_mix: Share of uniform choices, 0 to 1. Above 0 every item has a positive probability.
    """
    if not 0 <= uniform_mix <= 1:
        raise ConfigError(f"uniform_mix is {uniform_mix:g}; expected 0 to 1")
    mean, std = belief.mean, np.maximum(belief.std, _TINY_STD)
    items = len(mean)
    if not items:
        raise DataError("no item to choose from; expected at least one")
    if not (np.isfinite(mean).all() and np.isfinite(std).all()):
        raise DataError("a belief is not finite; fit the prior again")
    low = (mean - _WIDEST * std).max()  # the largest draw is hardly ever below
    high = (mean + _WIDEST * std).max()
    grid = np.linspace(low, high, _POINTS[0])
    for points in _POINTS[1:]:
        of_all = np.exp(_log_cdf(grid, mean, std).sum(axis=0))
        risen = (of_all - of_all[0]) / (of_all[-1] - of_all[0])
        grid = np.interp(np.linspace(0, 1, points), (risen + np.linspace(0, 1, len(grid))) / 2, grid)
    log_cdf = _log_cdf(grid, mean, std)
    increments = np.maximum(np.diff(log_cdf), 0.0)
    total = increments.sum(axis=0)
    rises = np.diff(np.exp(log_cdf.sum(axis=0)))
    probability = increments @ np.divide(rises, total, out=np.zeros_like(total), where=total > 0)
    probability /= probability.sum()
    return (1 - uniform_mix) * probability + uniform_mix / items


def _log_cdf(grid: Array, mean: Array, std: Array) -> Array:
    """Return the logarithms of the distribution functions [I, G] of I items at the points of a grid [G]."""
    z = (grid - mean[:, np.newaxis]) / std[:, np.newaxis]
    return np.log(np.maximum(normal_cdf(z), _SMALLEST))


def round_counts(probability: Array, users: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return counts [..., I] of `users` users with means `users * probability`: floors plus systematic sampling.

    Args:
        probability: [..., I], rows sum to 1.
        users: Number of users M, 0 or more.
        rng: Source of one uniform number a row.
    """
    if users < 0:
        raise ConfigError(f"{users} users; expected 0 or more")
    cumulative = users * np.cumsum(probability, axis=-1)
    cumulative[..., -1] = users
    offset = rng.random((*probability.shape[:-1], 1))
    # Item i gets the whole numbers k with offset + k in its interval of the cumulative sum.
    below = np.ceil(cumulative - offset).astype(np.int64)
    below[..., -1] = users
    return np.diff(np.minimum(below, users), axis=-1, prepend=0)


def allocate(belief: Belief, users: int, rng: np.random.Generator, uniform_mix: float = 0.0) -> Allocation:
    """Return items for M users by Thompson sampling with probability rounding.

    Every user gets item i with probability p_i exactly: counts have the means M p_i and users are in random order.
    Choices of different users are not independent, because the counts of a batch hardly vary.

    Args:
        belief: Beliefs about I items.
        users: Number of users M.
        rng: Source of random numbers.
        uniform_mix: Share of uniform choices.
    """
    probability = thompson_probabilities(belief, uniform_mix)
    items = np.repeat(np.arange(len(probability)), round_counts(probability, users, rng))
    return Allocation(probability, rng.permutation(items))


def entropy(probability: Array) -> Array:
    """Return the entropy [...] of choices with probabilities [..., I], as a share of that of uniform choices."""
    items = probability.shape[-1]
    log = np.log(probability, out=np.zeros_like(probability), where=probability > 0)
    return -(probability * log).sum(axis=-1) / np.log(items) if items > 1 else np.zeros(probability.shape[:-1])
