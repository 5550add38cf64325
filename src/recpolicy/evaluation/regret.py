"""Regret of a policy that has stopped exploring, in a world whose expectations are known: enumerated, not sampled.

U users, I items; users come uniformly. The choice is among all items; ties share it.
"""

import numpy as np
from numpy.typing import NDArray


def regret_by_user(expected: NDArray[np.floating], score: NDArray[np.floating]) -> NDArray[np.float64]:
    """Best expected rating minus that of the best-scored item, per user [U]; expected and score [U, I]."""
    best = (score == score.max(axis=1, keepdims=True)).astype(np.float64)
    earned = (best * expected).sum(axis=1) / best.sum(axis=1)
    return np.asarray(expected.max(axis=1) - earned, np.float64)
