"""Intervals of the simulator card's figures, by resampling the held-out users.

N test ratings, M sessions, U' held-out users. Responses of one user belong together, so users are drawn with
replacement, with all that is theirs. KS statistics and the ECE have none: noise only ever enlarges them, so their
resampled values would lie above them. They are compared with a limit and a critical value.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.statistics import Interval, percentile_interval
from recpolicy.core.types import Array
from recpolicy.evaluation.simulator_gates import auc


class HeldOutLikes(NamedTuple):
    """The likes of N test ratings, and what was expected of them."""

    user: NDArray[np.integer]  # [N] rows of the users table
    like: NDArray[np.bool_]  # [N]
    probability: Array  # [N] of the simulator
    bias_only: Array  # [N] scores of a model without preferences


class SessionSums(NamedTuple):
    """A figure of sessions, summed by user [U]."""

    sessions: Array
    total: Array

    @classmethod
    def of(cls, user: NDArray[np.integer], value: NDArray[np.number], users: int) -> "SessionSums":
        """Return the sums of values [M] of sessions of these users [M]."""
        count = np.bincount(user, minlength=users).astype(np.float64)
        return cls(count, np.bincount(user, value, users).astype(np.float64))

    def mean(self, count: Array) -> float:
        """Return the mean of the sessions of users that count so often [U]."""
        return float(count @ self.total / (count @ self.sessions))


def card_intervals(
    likes: HeldOutLikes,
    sessions: dict[str, tuple[SessionSums, SessionSums]],
    rng: np.random.Generator,
    resamples: int,
) -> dict[str, Interval]:
    """Return 95 % intervals over held-out users, by figure.

    Args:
        likes: The test ratings.
        sessions: By figure, its sums in real and in simulated sessions.
        rng: Source of the draws. resamples: Number of draws; 0 gives no intervals.
    """
    if not resamples:
        return {}
    users = max(int(likes.user.max()) + 1, *(len(real.total) for real, _ in sessions.values()))
    present = np.zeros(users, bool)
    present[likes.user] = True
    for pair in sessions.values():
        for side in pair:
            present[: len(side.sessions)] |= side.sessions > 0
    rows = np.flatnonzero(present)
    whole = np.bincount(rows, minlength=users)
    draws = [np.bincount(rng.choice(rows, len(rows)), minlength=users) for _ in range(resamples)]
    drawn = [_figures(likes, sessions, count) for count in draws]
    return {
        name: percentile_interval(value, np.array([figures[name] for figures in drawn]))
        for name, value in _figures(likes, sessions, whole).items()
    }


def _figures(
    likes: HeldOutLikes, sessions: dict[str, tuple[SessionSums, SessionSums]], count: NDArray[np.integer]
) -> dict[str, float]:
    rows = np.repeat(np.arange(len(likes.user)), count[likes.user])
    like, probability = likes.like[rows], likes.probability[rows]
    mine, bias = auc(like, probability), auc(like, likes.bias_only[rows])
    figures = {
        "like AUC": mine,
        "like AUC minus that of biases only": mine - bias,
        "like Brier score": float(np.mean((probability - like) ** 2)),
    }
    for name, (real, simulated) in sessions.items():
        weight = count[: len(real.total)].astype(float)
        figures[f"{name}, simulated minus real"] = simulated.mean(weight) - real.mean(weight)
    return figures
