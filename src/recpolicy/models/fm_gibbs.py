"""Gibbs sampling of factorization machines (`myfm`), and the expected ratings of all users and items over the draws.

A draw is a biased matrix factorization after the interactions within each side are added to its bias:
score[u, i] = w0 + b_u + b_i + P_u.Q_i. Mean and std over draws [U, I] are therefore matrix products, not 1.6 million
calls of a predictor. S draws, U users, I items, K factors, L levels.

Sources: Rendle 2012 (libFM); Salakhutdinov & Mnih 2008 (BPMF); Albert & Chib 1993 (ordered probit).
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.optional_deps import require_extra
from recpolicy.core.progress import progress
from recpolicy.core.seeds import integer_seed
from recpolicy.models.fm_features import FeatureGroups, SparseMatrix
from recpolicy.models.rating_levels import RatingLevels
from recpolicy.models.rating_model import Array

_KNOTS = 2001  # of the expected rating as a function of the latent score


@dataclass(frozen=True)
class Chain:
    """The length of a Markov chain, its rank and its seed."""

    rank: int
    sweeps: int
    kept: int
    """Draws that are averaged: the last of the sweeps."""
    seed: int


@dataclass(frozen=True)
class Design:
    """N ratings and the features of both sides: what a Gibbs sampler needs."""

    user: NDArray[np.int32]  # [N]
    item: NDArray[np.int32]  # [N]
    rating: NDArray[np.float64]  # [N], or the level of each rating, from 0
    users: FeatureGroups
    items: FeatureGroups


@dataclass(frozen=True)
class Draws:
    """The last S draws as biased matrix factorizations."""

    base: NDArray[np.float64]  # [S] w0
    user: NDArray[np.float32]  # [S, U, K + 1], the last column is the bias
    item: NDArray[np.float32]  # [S, I, K + 1], the last column is the bias
    noise_std: float
    """Mean standard deviation of one rating around its score; 1 for the latent score of an ordered probit."""
    cuts: NDArray[np.float64] | None = None  # [S, L - 1], of an ordered probit


@dataclass(frozen=True)
class Posterior:
    """Expected ratings over draws, and their std, each [U, I]."""

    mean: Array
    std: Array
    noise_std: float


def fit_gaussian(design: Design, chain: Chain, scale: tuple[float, float]) -> Posterior:
    """Fit the model with Gaussian noise."""
    draws = fold_draws(sample(design, chain), design.users, design.items)
    return Posterior(*posterior(draws, scale), draws.noise_std)


def fit_ordered_probit(design: Design, values: NDArray[np.floating], chain: Chain) -> tuple[Posterior, RatingLevels]:
    """Fit the ordered probit of ratings at the levels `values` [L], ascending."""
    at_levels = replace(design, rating=np.searchsorted(values, design.rating).astype(np.float64))
    draws = fold_draws(sample(at_levels, chain, ordinal=True), design.users, design.items)
    assert draws.cuts is not None
    steps = tuple(map(float, values))
    mean, std = ordinal_posterior(draws, [RatingLevels(steps, tuple(cuts)) for cuts in draws.cuts.tolist()])
    return Posterior(mean, std, 1.0), RatingLevels(steps, tuple(draws.cuts.mean(axis=0).tolist()))


def sample(design: Design, chain: Chain, *, ordinal: bool = False) -> Any:
    """Return the myfm model after its sweeps; an ordinal model takes the ratings as levels from 0."""
    require_extra("train", "the rating model 'bayesian_fm'")
    with _quiet_myfm() as myfm, progress("rating model", chain.sweeps, unit="sweeps") as bar:

        def count(_sweep: int, _fm: Any, hyper: Any, _history: Any) -> tuple[bool, None]:
            bar.advance(1, "" if ordinal else f"noise {hyper.alpha**-0.5:.3f}")
            return False, None

        blocks = [
            myfm.RelationBlock(design.user.tolist(), design.users.matrix),
            myfm.RelationBlock(design.item.tolist(), design.items.matrix),
        ]
        kind, stream = (myfm.MyFMOrderedProbit, "/probit") if ordinal else (myfm.MyFMRegressor, "")
        model = kind(rank=chain.rank, random_seed=integer_seed(chain.seed, f"bayesian_fm{stream}"))
        rating = design.rating.astype(np.int64 if ordinal else np.float64)
        return model.fit(
            None, rating, X_rel=blocks, n_iter=chain.sweeps, n_kept_samples=chain.kept,
            group_shapes=[*design.users.sizes, *design.items.sizes], callback=count,
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
    """Turn each kept draw into w0, user rows and item rows, and the cut points of an ordered probit."""
    samples = regressor.predictor_.samples
    split = users.matrix.shape[1]
    sides: tuple[list[Array], list[Array]] = ([], [])
    for draw in samples:
        w, v = np.asarray(draw.w), np.asarray(draw.V)  # [F + F'], [F + F', K]
        sides[0].append(_fold(users.matrix, w[:split], v[:split]))
        sides[1].append(_fold(items.matrix, w[split:], v[split:]))
    alpha = np.array([hyper.alpha for hyper in regressor.history_.hypers[-len(samples) :]])
    ordinal = len(samples[0].cutpoints) > 0
    return Draws(
        base=np.array([draw.w0 for draw in samples]),
        user=np.stack(sides[0]),
        item=np.stack(sides[1]),
        noise_std=1.0 if ordinal else float(np.mean(alpha**-0.5)),
        cuts=np.array([draw.cutpoints[0] for draw in samples]) if ordinal else None,
    )


def _fold(x: SparseMatrix, w: NDArray[np.float64], v: NDArray[np.float64]) -> Array:
    """Return rows [rows, K + 1]: factors, then the bias plus interactions within this side, (|xV|^2 - x^2 V^2) / 2."""
    factor = x @ v  # [rows, K]
    bias = x @ w + 0.5 * (np.square(factor).sum(axis=1) - (x.power(2) @ np.square(v)).sum(axis=1))
    return np.column_stack([factor, bias]).astype(np.float32)


def posterior(draws: Draws, scale: tuple[float, float]) -> tuple[Array, Array]:
    """Return the mean [U, I] of the expected ratings over draws, each clipped to the scale, and their std [U, I].

    Clipping each draw instead of the mean lowers the RMSE on u1 by .0006. The std uses unclipped draws: if all draws
    lay beyond the scale, clipping would make it 0.
    """
    mean, std = _mean_and_std(
        partial(_scores, draws), len(draws.base), partial(np.clip, a_min=scale[0], a_max=scale[1])
    )
    return np.clip(mean, *scale), std


def ordinal_posterior(draws: Draws, levels: list[RatingLevels]) -> tuple[Array, Array]:
    """Return the mean [U, I] over draws of the expected ratings, and their std [U, I]; one RatingLevels per draw."""

    def expected(index: int) -> Array:
        scores = _scores(draws, index)
        return uniform_lookup(levels[index].expected, scores, float(scores.min()), float(scores.max()))

    mean, std = _mean_and_std(expected, len(draws.base), lambda ratings: ratings)
    return np.clip(mean, levels[0].values[0], levels[0].values[-1]), std


def _mean_and_std(draw: Callable[[int], Array], count: int, limit: Callable[[Array], Array]) -> tuple[Array, Array]:
    """Return the mean of `limit(draw(index))` and the std of `draw(index)`, both [U, I].

    Sums use differences from the first draw, to keep float32 accurate.
    """
    size = np.float32(count)
    first = draw(0)  # [U, I]
    mean, gaps, squares = np.zeros_like(first), np.zeros_like(first), np.zeros_like(first)
    for index in range(count):
        ratings = draw(index)
        mean += limit(ratings) / size
        gap = np.subtract(ratings, first, out=ratings)
        gaps += gap
        squares += np.square(gap, out=gap)
    variance = squares / size - np.square(gaps / size)
    return mean, np.sqrt(np.maximum(variance, 0))


def uniform_lookup(
    function: Callable[[NDArray[np.float64]], NDArray[np.floating]], x: Array, low: float, high: float
) -> Array:
    """Return a smooth function at x [...], within low..high, by interpolation in a uniform table: far fewer calls."""
    knots = np.linspace(low, high, _KNOTS)
    table = np.asarray(function(knots), np.float32)
    place = (x - np.float32(low)) * np.float32((_KNOTS - 1) / max(high - low, 1e-12))
    cell = np.minimum(place.astype(np.int32), _KNOTS - 2)
    place -= cell
    return np.asarray(table[cell] * (1 - place) + table[cell + 1] * place, np.float32)


def _scores(draws: Draws, index: int) -> Array:
    """Return the unclipped expected ratings [U, I] of one draw."""
    user, item = draws.user[index], draws.item[index]
    scores: Array = user[:, :-1] @ item[:, :-1].T
    scores += user[:, -1:] + np.float32(draws.base[index])
    scores += item[:, -1]
    return scores
