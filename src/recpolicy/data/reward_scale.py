"""The standard deviation of rewards, by which a training divides them.

S rewards. A feature policy learns from a log and takes the moments of all its rewards at once (`reward_moments`). A
session agent merges those of its blocks in variables (agents/reward_normalizer.py); the formula is the same. Source:
Chan, Golub & LeVeque 1983, "Algorithms for computing the sample variance".
"""

from typing import Any, NamedTuple

import numpy as np

from recpolicy.core.types import Array

MIN_RELATIVE_VARIANCE = 1e-14
"""Variance over squared mean; below it, rewards differ only by rounding."""


class Moments(NamedTuple):
    """Count, mean and variance of rewards, as numbers or as tensors."""

    count: Any
    mean: Any
    variance: Any


def merged_moments(first: Moments, second: Moments) -> Moments:
    """Return the moments of all rewards of two parts; at least one of them must have a reward."""
    count = first.count + second.count
    share = second.count / count
    difference = second.mean - first.mean
    variance = first.variance + share * (second.variance - first.variance)
    between = share * (1.0 - share) * difference * difference
    return Moments(count, first.mean + share * difference, variance + between)


def reward_moments(rewards: Array) -> Moments:
    """Return the moments of rewards [S]; those that are not finite do not count."""
    known = rewards[np.isfinite(rewards)]
    return Moments(float(len(known)), float(known.mean()), float(known.var())) if len(known) else Moments(0.0, 0.0, 0.0)


def reward_std(rewards: Array) -> float:
    """Return the divisor of rewards [S]: their standard deviation; 1 without two different rewards."""
    _, mean, variance = reward_moments(rewards)
    return float(np.sqrt(variance)) if variance > MIN_RELATIVE_VARIANCE * mean**2 else 1.0
