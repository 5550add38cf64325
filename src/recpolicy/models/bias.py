"""Biases only: expected rating = mu + b_u + b_i, by alternating regularized least squares.

Each epoch sets every item bias, then every user bias, to its shrunken mean residual. The defaults are those of
Surprise. Source: Koren 2010, section 2.1.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.config import Count, NonNegativeNumber, as_dict, config_dataclass
from recpolicy.data.ratings import Ratings
from recpolicy.models.rating_model import RatingModel

Vector = NDArray[np.float64]


@config_dataclass
class BiasConfig:
    """Settings of the bias model."""

    reg_user: NonNegativeNumber = 15.0
    """Shrinkage of user biases, as a number of ratings with residual 0."""
    reg_item: NonNegativeNumber = 10.0
    """Shrinkage of item biases, in the same unit."""
    epochs: Count = 10
    """Number of alternations."""


@dataclass(frozen=True)
class Biases:
    """The fitted biases; users and items without ratings have bias 0."""

    overall: float
    user: Vector  # [U]
    item: Vector  # [I]
    user_variance: Vector  # [U], in units of the noise variance
    item_variance: Vector  # [I], in the same unit

    def expected(self) -> NDArray[np.float64]:
        """Return the unclipped expected ratings [U, I]."""
        return self.overall + self.user[:, None] + self.item


def fit_biases(train: Ratings, config: BiasConfig) -> Biases:
    """Fit by alternation from zero; a bias's variance noise^2 / (n + reg) is conditional on the other side."""
    users, items = train.shape
    overall = float(np.mean(train.rating, dtype=np.float64))
    residual = train.rating - overall
    user_weight: Vector = np.bincount(train.user, minlength=users) + np.float64(config.reg_user)
    item_weight: Vector = np.bincount(train.item, minlength=items) + np.float64(config.reg_item)
    user, item = np.zeros(users), np.zeros(items)
    for _ in range(config.epochs):
        item = _shrunken_mean(train.item, residual - user[train.user], item_weight)
        user = _shrunken_mean(train.user, residual - item[train.item], user_weight)
    return Biases(overall, user, item, 1 / np.maximum(user_weight, 1), 1 / np.maximum(item_weight, 1))


def _shrunken_mean(row: NDArray[np.int32], residual: Vector, weight: Vector) -> Vector:
    return np.bincount(row, residual, len(weight)) / np.maximum(weight, 1e-9)


def noise_std(train: Ratings, expected: NDArray[np.float64], parameters: float) -> float:
    """Return the root mean squared fit residual over N - `parameters` (effective number) degrees of freedom."""
    residual = train.rating - expected[train.user, train.item]
    return float(np.sqrt(np.sum(np.square(residual)) / max(len(train) - parameters, 1)))


def effective_parameters(biases: Biases, config: BiasConfig) -> float:
    """Return the effective number of free parameters: the sum of n / (n + reg) over users and items."""
    user = 1 - config.reg_user * biases.user_variance
    item = 1 - config.reg_item * biases.item_variance
    return float(np.sum(np.maximum(user, 0)) + np.sum(np.maximum(item, 0)))


def fit_bias(train: Ratings, config: BiasConfig, seed: int) -> RatingModel:
    """Fit the biases; nothing is random. Variances of the two biases add up to std^2."""
    biases = fit_biases(train, config)
    expected = biases.expected()
    noise = noise_std(train, expected, effective_parameters(biases, config))
    std = noise * np.sqrt(biases.user_variance[:, None] + biases.item_variance)
    return RatingModel(
        name="bias", mean=np.clip(expected, *train.scale).astype(np.float32), std=std.astype(np.float32),
        noise_std=noise, scale=train.scale, train_digest=train.digest, seed=seed, config=as_dict(config),
    )  # fmt: skip
