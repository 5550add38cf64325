"""The scale at which a value network starts from a ranker, so that its first errors are small.

n steps of sessions that the ranker led, with some exploration. A ranker's score s is no value: it may be stars or
log-odds. The start is

    Q_0(s, a) = r(s, a) + gamma V_0,    r = intercept + slope * score by least squares,    V_0 constant

The ranking is the ranker's for every slope > 0. V_0 is the constant with which the temporal-difference error

    r + gamma (1 - terminated) max_a' Q_0(s', a') - Q_0(s, a)

has mean 0 over the steps. Source of the idea: Ben Ayed et al. 2025 (2508.00201), whose scale is not published.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.types import Floats

MIN_STEPS = 100
"""Steps below which a scale is not fitted."""


@dataclass(frozen=True)
class ValueScale:
    """Q_0 = score / temperature + value_offset, as the settings of DQN take it."""

    temperature: float
    """Points of score per unit of reward."""
    value_offset: float
    value: float
    """V_0, the value of what follows a step that does not end the session."""
    error: float
    """Root mean square of the temporal-difference errors at the start."""
    unmatched_error: float
    """The same for Q_0 = score."""


def match_value_scale(
    score: Floats, reward: Floats, terminated: NDArray[np.bool_], next_best: Floats, gamma: float
) -> ValueScale:
    """Return the scale at which a ranker's scores are values.

    Args:
        score: [n], the ranker's scores of the shown items.
        reward: [n].
        terminated: [n], True where the session ended.
        next_best: [n], the highest score at the next step; ignored where the session ended.
        gamma: Discount, in [0, 1].

    Raises:
        DataError: There are too few steps, the scores do not rise with the rewards, or gamma is 1 and no session ends.
    """
    if len(score) < MIN_STEPS:
        raise DataError(f"value scale: {len(score)} steps; expected at least {MIN_STEPS}: simulate more sessions")
    spread = score - score.mean()
    variance = float(spread @ spread)
    slope = float(spread @ (reward - reward.mean())) / variance if variance > 0 else 0.0
    if not slope > 0:
        raise DataError(
            f"value scale: the ranker's scores do not rise with the rewards (slope {slope:.3g}); its ranking is no"
            " start for values"
        )
    intercept = float(reward.mean() - slope * score.mean())
    goes_on = ~terminated
    following = np.where(goes_on, intercept + slope * next_best, 0.0)
    left = 1.0 - gamma * float(goes_on.mean())
    if left <= 0:
        raise DataError("value scale: no session ends and gamma is 1, so values are infinite; choose gamma below 1")
    # mean(reward - r) is 0 by least squares, so gamma V_0 (1 - gamma P(goes on)) = gamma mean(next r).
    value = float(following.mean()) / left
    offset = intercept + gamma * value

    def error(slope: float, offset: float) -> float:
        target = reward + gamma * goes_on * (offset + slope * next_best)
        return float(np.sqrt(np.mean((target - offset - slope * score) ** 2)))

    return ValueScale(1.0 / slope, offset, value, error(slope, offset), error(1.0, 0.0))
