"""Bayesian factorization machine: the preferred rating model, with uncertainty estimates.

rating ~ Normal(w0 + sum_f x_f w_f + sum_{f<g} x_f x_g v_f.v_g, 1/alpha), where x joins the features of the user (id,
attributes, implicit set of rated items) with those of the item (id, year, genres, implicit set of users). Each group
of features has a Normal prior with its own Gamma/Normal hyper-priors; Gibbs sweeps draw all parameters (`myfm`).

A draw is a biased matrix factorization after the interactions within each side are added to its bias:
score[u, i] = w0 + b_u + b_i + P_u.Q_i. Mean and std over draws [U, I] are therefore matrix products, not 1.6 million
calls of a predictor.

Sources: Rendle 2012 (libFM); Salakhutdinov & Mnih 2008 (BPMF); Rendle, Zhang & Koren 2019 (implicit sets).
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PositiveInt

from recpolicy.core.config import as_dict, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.core.optional_deps import require_extra
from recpolicy.core.progress import progress
from recpolicy.core.seeds import integer_seed
from recpolicy.data.ratings import Ratings
from recpolicy.models.fm_features import FeatureGroups, SparseMatrix, item_features, user_features
from recpolicy.models.rating_model import Array, RatingModel


@config_dataclass
class BayesianFMConfig:
    """Settings of the Bayesian factorization machine."""

    rank: PositiveInt = 10
    """Length of the factor of each feature."""
    sweeps: PositiveInt = 300
    """Gibbs sweeps; each draws every parameter once."""
    samples: PositiveInt | None = None
    """Draws averaged, the last of the sweeps; None keeps the last two thirds."""
    attributes: bool = True
    """Use user attributes, item years and genres, where the table has them."""
    implicit: bool = True
    """Use the implicit sets of the train part: user-item pairs without the ratings' values."""
    bins: PositiveInt = 8
    """Equal-frequency bins of a numeric attribute such as age or year."""
    max_levels: PositiveInt = 50
    """Largest number of values of a text attribute of users; attributes with more values are omitted."""

    def __post_init__(self) -> None:
        if self.samples is not None and self.samples > self.sweeps:
            raise ConfigError(f"samples is {self.samples}: expected at most the number of sweeps, {self.sweeps}")

    @property
    def kept(self) -> int:
        """The number of draws that are averaged."""
        return self.samples if self.samples is not None else max(1, self.sweeps * 2 // 3)


@dataclass(frozen=True)
class Draws:
    """The last S draws as biased matrix factorizations."""

    base: NDArray[np.float64]  # [S] w0
    user: NDArray[np.float32]  # [S, U, K + 1], the last column is the bias
    item: NDArray[np.float32]  # [S, I, K + 1], the last column is the bias
    noise_std: float


def fit_bayesian_fm(train: Ratings, config: BayesianFMConfig, seed: int) -> RatingModel:
    """Fit by Gibbs sampling; the same seed gives the same numbers."""
    users, items = features(train, config)
    draws = fold_draws(sample(train, users, items, config, seed), users, items)
    mean, std = posterior(draws, train.scale)
    return RatingModel(
        name="bayesian_fm", mean=mean, std=std, noise_std=draws.noise_std, scale=train.scale, fit_digest=train.digest,
        seed=seed, config=as_dict(config),
    )  # fmt: skip


def features(train: Ratings, config: BayesianFMConfig) -> tuple[FeatureGroups, FeatureGroups]:
    """Return the user rows [U, F] and the item rows [I, F']."""
    users = user_features(
        train, attributes=config.attributes, bins=config.bins, max_levels=config.max_levels, implicit=config.implicit
    )
    return users, item_features(train, attributes=config.attributes, bins=config.bins, implicit=config.implicit)


def sample(train: Ratings, users: FeatureGroups, items: FeatureGroups, config: BayesianFMConfig, seed: int) -> Any:
    """Return the myfm regressor after its sweeps."""
    require_extra("train", "the rating model 'bayesian_fm'")
    with _quiet_myfm() as myfm, progress("rating model", config.sweeps, unit="sweeps") as bar:

        def count(_sweep: int, _fm: Any, hyper: Any, _history: Any) -> tuple[bool, None]:
            bar.advance(1, f"noise {hyper.alpha**-0.5:.3f}")
            return False, None

        blocks = [
            myfm.RelationBlock(train.user.tolist(), users.matrix),
            myfm.RelationBlock(train.item.tolist(), items.matrix),
        ]
        regressor = myfm.MyFMRegressor(rank=config.rank, random_seed=integer_seed(seed, "bayesian_fm"))
        return regressor.fit(
            None, train.rating.astype(np.float64), X_rel=blocks, n_iter=config.sweeps, n_kept_samples=config.kept,
            group_shapes=[*users.sizes, *items.sizes], callback=count,
        )  # fmt: skip


@contextmanager
def _quiet_myfm() -> Iterator[Any]:
    """Import myfm without the warning of its pkg_resources and run it without its own progress bar."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import myfm
        import myfm.base
    loud = myfm.base.tqdm
    myfm.base.tqdm = lambda **settings: loud(**settings, disable=True)
    try:
        yield myfm
    finally:
        myfm.base.tqdm = loud


def fold_draws(regressor: Any, users: FeatureGroups, items: FeatureGroups) -> Draws:
    """Turn each kept draw into w0, user rows and item rows."""
    samples = regressor.predictor_.samples
    split = users.matrix.shape[1]
    sides: tuple[list[Array], list[Array]] = ([], [])
    for draw in samples:
        w, v = np.asarray(draw.w), np.asarray(draw.V)  # [F + F'], [F + F', K]
        sides[0].append(_fold(users.matrix, w[:split], v[:split]))
        sides[1].append(_fold(items.matrix, w[split:], v[split:]))
    alpha = np.array([hyper.alpha for hyper in regressor.history_.hypers[-len(samples) :]])
    return Draws(
        base=np.array([draw.w0 for draw in samples]),
        user=np.stack(sides[0]),
        item=np.stack(sides[1]),
        noise_std=float(np.mean(alpha**-0.5)),
    )


def _fold(x: SparseMatrix, w: NDArray[np.float64], v: NDArray[np.float64]) -> Array:
    """Return rows [rows, K + 1]: factors, then the bias plus interactions within this side, (|xV|^2 - x^2 V^2) / 2."""
    factor = x @ v  # [rows, K]
    bias = x @ w + 0.5 * (np.square(factor).sum(axis=1) - (x.power(2) @ np.square(v)).sum(axis=1))
    return np.column_stack([factor, bias]).astype(np.float32)


def posterior(draws: Draws, scale: tuple[float, float]) -> tuple[Array, Array]:
    """Return the mean [U, I] of the expected ratings over draws, each clipped to the scale, and their std [U, I].

    Clipping each draw instead of the mean lowers the RMSE on u1 by .0006. The std uses unclipped draws: if all draws
    lay beyond the scale, clipping would make it 0. Sums use differences from the first draw, to keep float32 accurate.
    """
    count = np.float32(len(draws.base))
    first = _scores(draws, 0)  # [U, I]
    mean, gaps, squares = np.zeros_like(first), np.zeros_like(first), np.zeros_like(first)
    for index in range(len(draws.base)):
        scores = _scores(draws, index)
        mean += np.clip(scores, *scale) / count
        gap = np.subtract(scores, first, out=scores)
        gaps += gap
        squares += np.square(gap, out=gap)
    variance = squares / count - np.square(gaps / count)
    return np.clip(mean, *scale), np.sqrt(np.maximum(variance, 0))


def _scores(draws: Draws, index: int) -> Array:
    """Return the unclipped expected ratings [U, I] of one draw."""
    user, item = draws.user[index], draws.item[index]
    scores: Array = user[:, :-1] @ item[:, :-1].T
    scores += user[:, -1:] + np.float32(draws.base[index])
    scores += item[:, -1]
    return scores
