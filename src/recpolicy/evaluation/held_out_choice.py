"""Held-out choice: the value of a policy where the reward of every alternative is known.

Each user offers the items that he or she rated in the test part (two or more); the policy chooses one; it earns the
true rating. Nothing is simulated and nothing is sampled: the expected rating over the policy's choice is enumerated. It
stands between the random choice (the mean of the user's test ratings) and the oracle (their maximum):

    normalized = (policy - random) / (oracle - random),   0 for the random choice, 1 for the oracle.

Assumes no logging propensities. It evaluates choices among items that users chose to rate, not among all items.
N candidates of U' users; weights [N] say how often the policy takes each, up to a factor per user.
"""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.statistics import LEVEL, RESAMPLES, Interval, percentile_interval, resampled_means
from recpolicy.evaluation.candidates import Candidates


@dataclass(frozen=True)
class HeldOutChoice:
    """Mean rating per choice of a policy, of the random choice and of the oracle, over the same users."""

    policy: Interval
    random: Interval
    oracle: Interval
    normalized: Interval | None
    """None where the oracle is no better than the random choice: then all choices are equally good."""
    by_user: NDArray[np.float64] = field(repr=False, compare=False)
    """The policy's expected rating for each user [U']."""


def greedy_weights(candidates: Candidates, score: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return 1 for each user's best-scored candidates and 0 for the others [N]; ties share the choice.

    score [N], any scale. Raises DataError when a score is not finite.
    """
    if not np.isfinite(score).all():
        raise DataError(f"held-out choice: {np.count_nonzero(~np.isfinite(score))} scores are not finite numbers")
    return (score == candidates.spread(candidates.highest(score))).astype(np.float64)


def restricted_weights(candidates: Candidates, probability: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return a stochastic policy's probabilities [N], to be read within each user's candidates.

    A policy that gives all of a user's candidates probability 0 says nothing about them: they share the choice.
    Raises DataError when a probability is negative or not finite.
    """
    if not np.isfinite(probability).all() or (probability < 0).any():
        raise DataError("held-out choice: probabilities must be finite and not negative")
    silent = candidates.total(probability) == 0  # [U']
    return np.where(candidates.spread(silent), 1.0, probability.astype(np.float64))


def choice_values(candidates: Candidates, weight: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return each user's expected rating [U'] when candidates are taken in proportion to weight [N]."""
    return candidates.total(weight * candidates.rating) / candidates.total(weight)


def random_values(candidates: Candidates) -> NDArray[np.float64]:
    """Return the mean rating of each user's candidates [U']."""
    return choice_values(candidates, np.ones(len(candidates.rating)))


def oracle_values(candidates: Candidates) -> NDArray[np.float64]:
    """Return the highest rating among each user's candidates [U']."""
    return candidates.highest(candidates.rating).astype(np.float64)


def held_out_choice(
    candidates: Candidates,
    weight: NDArray[np.float64],
    rng: np.random.Generator,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> HeldOutChoice:
    """Return the value of a policy given by its weights [N], with user-bootstrap intervals.

    Policies evaluated with generators of the same seed see the same resamples of users.
    """
    values = np.stack(
        [choice_values(candidates, weight), random_values(candidates), oracle_values(candidates)]
    )  # [3, U']
    mean = values.mean(axis=1)
    means = resampled_means(values, rng, resamples)  # [B, 3]
    policy, random, oracle = (percentile_interval(mean[c], means[:, c], level) for c in range(3))
    return HeldOutChoice(policy, random, oracle, _normalized(mean, means, level), values[0])


def _normalized(mean: NDArray[np.float64], means: NDArray[np.float64], level: float) -> Interval | None:
    if mean[2] <= mean[1]:
        return None
    room = means[:, 2] - means[:, 1]  # [B], 0 in a resample of users who rate everything alike: it is undefined there
    resampled = (means[room > 0, 0] - means[room > 0, 1]) / room[room > 0]
    return percentile_interval((mean[0] - mean[1]) / (mean[2] - mean[1]), resampled, level)
