"""The cheap rivals of RLUR: a return bandit, and the cross-entropy method over one weight vector.

N logged sessions, H weights, C features of the user, M candidate weight vectors. The bandit regresses the return day
and the likes of a session on its weights, their products, and their products with the user's features, from sessions
whose weights were drawn uniformly and constant. It then takes the best candidate for each user: no critics, no
discount. The cross-entropy method (CEM) knows no user: it refits a Gaussian over weights to its best draws. Sources:
Rubinstein 1999 (CEM); ridge regression, Hoerl & Kennard 1970.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.types import Array, Floats


@dataclass(frozen=True)
class ReturnBandit:
    """A fitted bandit; `scores` are costs, so the lowest is best."""

    candidates: NDArray[np.float32]  # [M, H]
    common: NDArray[np.float32]  # [M], cost of each candidate for all users alike
    by_feature: NDArray[np.float32]  # [C, M], change of the cost for each unit of a feature

    def scores(self, features: Floats) -> Floats:
        """Return costs [n, M] up to a constant of the user, of features [n, C]."""
        return self.common + features @ self.by_feature

    def weights(self, features: Floats) -> NDArray[np.float32]:
        """Return the best candidates [n, H]."""
        return self.candidates[np.argmin(self.scores(features), axis=1)]


def fit_return_bandit(
    features: Floats, weights: Floats, days: Floats, likes: Floats, candidates: NDArray[np.float32], *,
    lambda_return: float = 1.0, lambda_immediate: float = 0.0, ridge: float = 10.0,
) -> ReturnBandit:  # fmt: skip
    """Return the bandit that minimizes lambda_return days - lambda_immediate likes of a session.

    Args:
        features: [N, C], of the users. weights: [N, H], constant in each session.
        days: [N], until the next session. likes: [N].
        candidates: [M, H], weight vectors to choose from.
        lambda_return: Weight of a day. lambda_immediate: Weight of a like.
        ridge: Penalty on standardized columns.

    Raises:
        DataError: There is no session, or a session has no return day.
    """
    if not len(days) or not np.isfinite(days).all():
        missing = int((~np.isfinite(days)).sum())
        raise DataError(
            f"return bandit: {len(days)} sessions, {missing} without a return day; expected sessions with return days"
            " (leave censored ones out)"
        )
    columns = np.concatenate([features, _design(weights), _products(features, weights)], axis=1).astype(np.float64)
    mean, std = columns.mean(axis=0), columns.std(axis=0)
    standard = (columns - mean) / np.where(std > 1e-9, std, 1.0)
    target = lambda_return * np.asarray(days, np.float64) - lambda_immediate * np.asarray(likes, np.float64)
    gram = standard.T @ standard + ridge * np.eye(standard.shape[1])
    slope = np.linalg.solve(gram, standard.T @ (target - target.mean())) / np.where(std > 1e-9, std, 1.0)
    width, heads = features.shape[1], weights.shape[1]
    own, cross = slope[width : len(slope) - width * heads], slope[len(slope) - width * heads :]
    common = _design(candidates) @ own
    by_feature = cross.reshape(width, heads) @ candidates.T
    return ReturnBandit(candidates, common.astype(np.float32), by_feature.astype(np.float32))


class CrossEntropySearch:
    """A Gaussian over weight vectors that moves toward its best draws."""

    def __init__(self, heads: int, rng: np.random.Generator, rate: float = 0.3, elite: float = 0.2):
        """Start at mean 0 and standard deviation .5; `rate` is the share of a refit, `elite` that of the best draws."""
        self.mean, self.std = np.zeros(heads), np.full(heads, 0.5)
        self._rng, self._rate, self._elite = rng, rate, elite

    def draw(self, count: int) -> Array:
        """Return draws [count, H] in -1..1."""
        return np.clip(self.mean + self.std * self._rng.normal(size=(count, len(self.mean))), -1, 1)

    def refit(self, draws: Array, cost: Array) -> None:
        """Move to the draws [count, H] of lowest cost [count]."""
        best = draws[np.argsort(cost, kind="stable")[: max(1, round(self._elite * len(draws)))]]
        self.mean += self._rate * (best.mean(axis=0) - self.mean)
        self.std += self._rate * (best.std(axis=0) - self.std)


def _design(weights: Floats) -> Array:
    """Return the weights and their products of two, [N, H + H (H + 1) / 2]."""
    first, second = np.triu_indices(weights.shape[1])
    return np.concatenate([weights, weights[:, first] * weights[:, second]], axis=1)


def _products(features: Floats, weights: Floats) -> Array:
    """Return all products of a feature and a weight, [N, C H]."""
    return np.asarray((features[:, :, np.newaxis] * weights[:, np.newaxis]).reshape(len(weights), -1))
