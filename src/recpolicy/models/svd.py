"""Biased matrix factorization by alternating least squares: a cheap alternative to the Bayesian models.

expected rating = mu + b_u + b_i + p_u.q_i. Each half-epoch solves all users' (or items') ridge regressions for factor
and bias together: the Gram matrices are one [U, I] x [I, K^2] product and the systems one batched solve. The penalty of
a row grows with its number of ratings (`reg` per rating, Zhou et al. 2008) on top of `reg_0`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.config import Count, NonNegativeNumber, PositiveNumber, Size, as_dict, config_dataclass
from recpolicy.core.progress import progress
from recpolicy.core.seeds import generator
from recpolicy.data.ratings import Ratings
from recpolicy.models.rating_model import RatingModel
from recpolicy.models.residual_noise import held_out_noise

Matrix = NDArray[np.float64]


@config_dataclass
class SVDConfig:
    """Settings of the alternating least squares."""

    rank: Size = 10
    """Length of the factors."""
    epochs: Count = 15
    """Number of alternations."""
    reg: NonNegativeNumber = 0.07
    """Ridge penalty of factors and biases for each rating of the row."""
    reg_0: PositiveNumber = 5.0
    """Ridge penalty of factors and biases that does not depend on the number of ratings; must be > 0."""


@dataclass(frozen=True)
class Factors:
    """A fitted factorization: rows [p, b_u] of users and [q, b_i] of items; each bias is multiplied by 1."""

    overall: float
    user: Matrix  # [U, K + 1]
    item: Matrix  # [I, K + 1]
    user_covariance: Matrix  # [U, K + 1, K + 1], given the items and in units of the noise variance
    item_covariance: Matrix  # [I, K + 1, K + 1], given the users

    def expected(self) -> Matrix:
        """Return the unclipped expected ratings [U, I]."""
        product = self.user[:, :-1] @ self.item[:, :-1].T
        return self.overall + product + self.user[:, -1:] + self.item[:, -1]

    def variance(self) -> Matrix:
        """Return the variance [U, I] of the expected ratings: the sum over sides, each with the other side fixed."""
        user, item = _with_one(self.user), _with_one(self.item)
        return _quadratic_forms(self.user_covariance, item) + _quadratic_forms(self.item_covariance, user).T


def fit_svd(train: Ratings, config: SVDConfig, seed: int) -> RatingModel:
    """Fit by alternating least squares from a seeded start; std is the posterior spread of one side given the other."""

    def predict(ratings: Ratings) -> tuple[Matrix, Matrix]:
        factors = fit_factors(ratings, config, seed)
        return np.clip(factors.expected(), *train.scale), factors.variance()

    mean, variance = predict(train)
    noise = held_out_noise(train, predict, seed)
    return RatingModel(
        name="svd", mean=mean.astype(np.float32), std=(noise * np.sqrt(variance)).astype(np.float32), noise_std=noise,
        scale=train.scale, train_digest=train.digest, seed=seed, config=as_dict(config),
    )  # fmt: skip


def fit_factors(train: Ratings, config: SVDConfig, seed: int) -> Factors:
    """Fit by alternation; items start from small random factors, which the first regression of the users needs."""
    rated, excess = np.zeros(train.shape), np.zeros(train.shape)  # [U, I]
    overall = float(np.mean(train.rating, dtype=np.float64))
    rated[train.user, train.item] = 1
    excess[train.user, train.item] = train.rating - overall
    users, items = train.shape
    user, item = np.zeros((users, config.rank + 1)), np.zeros((items, config.rank + 1))
    item[:, :-1] = generator(seed, "svd").normal(0, 0.1, (items, config.rank))
    with progress("rating model", config.epochs, unit="epochs") as bar:
        for _ in range(config.epochs):
            user, user_covariance = _solve(rated, excess, item, config)
            item, item_covariance = _solve(rated.T, excess.T, user, config)
            bar.advance(1)
    return Factors(overall, user, item, user_covariance, item_covariance)


def _with_one(side: Matrix) -> Matrix:
    """Return factors followed by 1, [rows, K + 1], the regressors of the other side's factors and biases."""
    return np.column_stack([side[:, :-1], np.ones(len(side))])


def _solve(rated: Matrix, excess: Matrix, other: Matrix, config: SVDConfig) -> tuple[Matrix, Matrix]:
    """Return one side's rows [R, K + 1] and covariances, given `other` [C, K + 1]; rated and excess are [R, C]."""
    x = _with_one(other)  # [C, K + 1]
    width = x.shape[1]
    outer = (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)  # [C, (K + 1)^2]
    gram = (rated @ outer).reshape(-1, width, width)  # [R, K + 1, K + 1]
    target = excess @ x - rated @ (x * other[:, -1:])  # subtract the other side's bias from the rating
    penalty = config.reg_0 + config.reg * rated.sum(axis=1)  # [R]
    covariance = np.linalg.inv(gram + penalty[:, None, None] * np.eye(width))
    return np.einsum("rij,rj->ri", covariance, target), covariance


def _quadratic_forms(covariance: Matrix, x: Matrix) -> Matrix:
    """Return x_c' S_r x_c [R, C] for every row's covariance S_r [R, K, K] and every x_c [C, K]."""
    outer = (x[:, :, None] * x[:, None, :]).reshape(len(x), -1)
    forms: Matrix = covariance.reshape(len(covariance), -1) @ outer.T
    return np.maximum(forms, 0)
