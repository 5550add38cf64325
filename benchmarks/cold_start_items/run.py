"""How well are new items estimated from their genres, and how fast do ratings replace them?

MovieLens 100K, 5 folds over the items with at least 25 ratings. The rating model, the embeddings and the regression on
genres never see an item of the fold. Of each hidden item, 20 ratings in random order may be learned, one after the
other, by the Bayesian step of an added arm; all others are test. So every number of learned ratings is judged by the
same test ratings. Rivals: the mean item of the training (no genres), and the item's own mean, shrunk to that of all.
Control: the genres of another item. Held-out choice: each user chooses among the hidden items of a fold that the
user rated in the test part.

    python benchmarks/cold_start_items/run.py [--quick] --out results.json
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from common import arguments, context, write_results

from recpolicy import load_ratings
from recpolicy.core.files import atomic_path
from recpolicy.core.plotting import draw_legend, new_figure, style_axes, to_png
from recpolicy.core.seeds import generator
from recpolicy.core.statistics import mean_interval
from recpolicy.data.ratings import Ratings, genre_matrix
from recpolicy.models.embeddings import Embeddings, embed
from recpolicy.models.fold_in import FoldedItems, fold_in_items, genre_prior
from recpolicy.models.rating_models import fit_rating_model

FOLDS, RANK, SEED = 5, 20, 0
SWEEPS = 100
"""Gibbs sweeps of the rating model; its default is 300."""
LEARNED = (0, 1, 2, 5, 10, 20)
MIN_RATINGS = 25
SHRINKAGE = 4.0
"""Weight of the mean of all ratings in an item's mean, in ratings, as in agents/item_features.py."""
FIGURE = Path(__file__).with_name("rmse.png")
RESAMPLES = 2_000
Array = NDArray[np.float64]


@dataclass(frozen=True)
class Estimated:
    """The test ratings of hidden items, with the estimates of each method."""

    item: NDArray[np.int64]  # [N]
    user: NDArray[np.int64]  # [N]
    fold: NDArray[np.int64]  # [N]
    rating: Array  # [N]
    mean: dict[str, Array]  # [N] by method
    std: dict[str, Array]  # [N] of one rating, by method of the regression


def main() -> None:
    """Measure, print, plot and write."""
    options = arguments(__doc__ or "")
    ratings = load_ratings("ml-100k")
    folds = 1 if options.quick else FOLDS
    parts = [measure(ratings, fold) for fold in range(folds)]
    result = Estimated(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("item", "user", "fold", "rating")),
        *(
            {key: np.concatenate([getattr(part, name)[key] for part in parts]) for key in getattr(parts[0], name)}
            for name in ("mean", "std")
        ),
    )
    figures = compute_figures(result)
    for name, value in figures.items():
        print(f"{name:44} {value:.4f}")
    plot(figures, options.out.with_suffix(".png") if options.quick else FIGURE)
    write_results(options.out, figures, context([SEED], folds=folds))


def measure(ratings: Ratings, fold: int) -> Estimated:
    """Return the estimates of the test ratings of one fold's hidden items."""
    count = np.bincount(ratings.item, minlength=ratings.shape[1])
    eligible = np.flatnonzero(count >= MIN_RATINGS)
    order = generator(SEED, "cold start/items").permutation(eligible)
    hidden = np.sort(order[fold::FOLDS])
    is_hidden = np.zeros(len(count), bool)
    is_hidden[hidden] = True
    train = without_items(ratings, is_hidden)
    embeddings = embed(fit_rating_model(train, "bayesian_fm", {"sweeps": SWEEPS}, seed=SEED), RANK)
    _, genres = genre_matrix(ratings.items)
    prior = genre_prior(embeddings, genres[~is_hidden])
    shuffled = generator(SEED, f"cold start/permuted/{fold}").permutation(len(hidden))
    no_genres = genre_prior(embeddings, np.zeros((int((~is_hidden).sum()), 0), np.float32))
    folded = {
        "genres": fold_in_items(prior, genres[hidden]),
        "permuted genres": fold_in_items(prior, genres[hidden][shuffled]),
        "mean item": fold_in_items(no_genres, np.zeros((len(hidden), 0), np.float32)),
    }
    rows = np.flatnonzero(is_hidden[ratings.item])
    rows = generator(SEED, f"cold start/order/{fold}").permutation(rows)
    rows = rows[np.argsort(ratings.item[rows], kind="stable")]  # in random order within each item
    place = np.arange(len(rows)) - np.searchsorted(ratings.item[rows], ratings.item[rows])
    test = rows[place >= max(LEARNED)]
    mean, std = {}, {}
    column = np.searchsorted(hidden, ratings.item)
    user = embeddings.user.astype(np.float64)
    x = np.column_stack([np.ones(len(user)), user])  # [U, 1 + D]
    for learned in LEARNED:
        known = rows[place < learned]
        for method, start in folded.items():
            theta, covariance = learn(start, embeddings, x, ratings, known, column)
            features, arm = x[ratings.user[test]], column[test]
            expected = np.einsum("nd,nd->n", features, theta[arm])
            variance = np.einsum("nd,nde,ne->n", features, covariance[arm], features)
            mean[f"{method}/{learned}"] = np.clip(expected, *ratings.scale)
            std[f"{method}/{learned}"] = np.sqrt(np.maximum(variance, 0) + embeddings.noise_std**2)
        total = np.bincount(column[known], ratings.rating[known], minlength=len(hidden))
        overall = train.rating.mean()
        item_mean = (total + SHRINKAGE * overall) / (np.bincount(column[known], minlength=len(hidden)) + SHRINKAGE)
        mean[f"item mean/{learned}"] = item_mean[column[test]]
    narrow = genre_prior(replace(embeddings, item_std=None), genres[~is_hidden])
    start = fold_in_items(narrow, genres[hidden])
    features = x[ratings.user[test]]
    variance = np.einsum("nd,nde,ne->n", features, start.covariance[column[test]], features)
    std["without the items' own variance/0"] = np.sqrt(variance + embeddings.noise_std**2)
    print(f"fold {fold}: {len(hidden)} hidden items, {len(test)} test ratings")
    return Estimated(
        ratings.item[test].astype(np.int64), ratings.user[test].astype(np.int64), np.full(len(test), fold),
        ratings.rating[test].astype(np.float64), mean, std,
    )  # fmt: skip


def without_items(ratings: Ratings, hidden: NDArray[np.bool_]) -> Ratings:
    """Return the ratings of all other items, in tables that do not have the hidden ones."""
    rest = ratings.take(~hidden[ratings.item])
    row = np.cumsum(~hidden, dtype=np.int32) - 1
    return replace(
        rest, item=row[rest.item].astype(rest.item.dtype), items=ratings.items[~hidden].reset_index(drop=True)
    )


def learn(
    start: FoldedItems, embeddings: Embeddings, x: Array, ratings: Ratings, known: NDArray[np.int64],
    column: NDArray[np.int64],
) -> tuple[Array, Array]:  # fmt: skip
    """Return theta [M, 1 + D] and covariance of the hidden items after the ratings in the rows `known`."""
    theta = np.column_stack([start.offset, start.embedding]).astype(np.float64)
    precision = np.linalg.inv(start.covariance)
    moment = np.einsum("mde,me->md", precision, theta)
    features, arm = x[ratings.user[known]], column[known]
    noise = embeddings.noise_std**2
    np.add.at(precision, arm, features[:, :, np.newaxis] * features[:, np.newaxis, :] / noise)
    np.add.at(moment, arm, features * (ratings.rating[known] / noise)[:, np.newaxis])
    covariance = np.linalg.inv(precision)
    return np.einsum("mde,me->md", covariance, moment), covariance


def compute_figures(result: Estimated) -> dict[str, float]:
    """Return RMSE, differences, coverage and held-out choice, with 95 % intervals by item (of choices, by user)."""
    figures: dict[str, float] = {"items": len(np.unique(result.item)), "test_ratings": len(result.rating)}
    squared = {name: np.square(mean - result.rating) for name, mean in result.mean.items()}
    items = np.unique(result.item, return_inverse=True)[1]
    draws = resampled_weights(items.max() + 1)
    size = np.bincount(items)
    sums = {name: np.bincount(items, error) for name, error in squared.items()}
    for name in squared:
        rmse = np.sqrt(draws @ sums[name] / (draws @ size))
        put(figures, f"rmse/{name}", float(np.sqrt(squared[name].mean())), np.quantile(rmse, [0.025, 0.975]))
    for method, rival in compared():
        difference = np.sqrt(draws @ sums[method] / (draws @ size)) - np.sqrt(draws @ sums[rival] / (draws @ size))
        value = np.sqrt(squared[method].mean()) - np.sqrt(squared[rival].mean())
        put(figures, f"rmse_difference/{method} - {rival}", float(value), np.quantile(difference, [0.025, 0.975]))
    for name, std in result.std.items():
        method = "genres/0" if name.startswith("without") else name
        inside = np.abs(result.rating - result.mean[method]) <= 1.96 * std
        shares = draws @ np.bincount(items, inside) / (draws @ size)
        put(figures, f"coverage/{name}", float(inside.mean()), np.quantile(shares, [0.025, 0.975]))
    figures |= choices(result)
    return figures


def compared() -> list[tuple[str, str]]:
    """Return the pairs of methods whose difference is measured."""
    pairs = [(f"genres/{learned}", f"{rival}/{learned}") for learned in LEARNED for rival in ("mean item", "item mean")]
    return [*pairs, *((f"genres/{learned}", f"permuted genres/{learned}") for learned in LEARNED)] + [
        ("genres/0", f"genres/{learned}") for learned in (5, 10, 20)
    ]


def choices(result: Estimated) -> dict[str, float]:
    """Return the mean true rating of the item that each user chooses among the hidden items of a fold."""
    table = pd.DataFrame({"user": result.user, "fold": result.fold, "rating": result.rating, **result.mean})
    sizes = table.groupby(["user", "fold"])["rating"].transform("size")
    table = table[sizes >= 2]
    figures: dict[str, float] = {}
    groups = table.groupby(["user", "fold"])
    chosen = {"random": groups["rating"].mean(), "best": groups["rating"].max()}
    for name in result.mean:
        best = table[table[name] == groups[name].transform("max")]  # ties count with equal shares
        chosen[name] = best.groupby(["user", "fold"])["rating"].mean()
    by_user = {name: values.groupby("user").mean() for name, values in chosen.items()}
    figures["choice_users"] = len(by_user["random"])
    for name, values in by_user.items():
        interval = mean_interval(values.to_numpy(), generator(SEED, "cold start/choices"))
        put(figures, f"choice/{name}", interval.value, np.array([interval.lo, interval.hi]))
    for rival in ("random", "permuted genres/0", "mean item/0"):
        interval = mean_interval(
            (by_user["genres/0"] - by_user[rival]).to_numpy(), generator(SEED, "cold start/choices")
        )
        put(figures, f"choice_difference/genres/0 - {rival}", interval.value, np.array([interval.lo, interval.hi]))
    for learned in (5, 10, 20):
        interval = mean_interval(
            (by_user["genres/0"] - by_user[f"genres/{learned}"]).to_numpy(), generator(SEED, "cold start/choices")
        )
        name = f"choice_difference/genres/0 - genres/{learned}"
        put(figures, name, interval.value, np.array([interval.lo, interval.hi]))
    return figures


def resampled_weights(clusters: int) -> Array:
    """Return how often each cluster is drawn [RESAMPLES, clusters] in the bootstrap."""
    rng = generator(SEED, "cold start/bootstrap")
    return rng.multinomial(clusters, np.full(clusters, 1 / clusters), size=RESAMPLES).astype(np.float64)


def put(figures: dict[str, float], name: str, value: float, ends: NDArray[np.floating]) -> None:
    """Add a figure with its interval."""
    figures[name], figures[f"{name}_lo"], figures[f"{name}_hi"] = value, float(ends[0]), float(ends[1])


def plot(figures: Mapping[str, float], path: Path) -> None:
    """Write the plot of RMSE and held-out choice by the number of learned ratings."""
    figure = new_figure(8.6, 3.4)
    for axes, kind, label in zip(
        figure.subplots(1, 2), ("rmse", "choice"), ("RMSE", "mean rating of the chosen item"), strict=True
    ):
        style_axes(axes)
        for method, style in (("genres", "-"), ("mean item", "--"), ("permuted genres", ":"), ("item mean", "-.")):
            names = [f"{kind}/{method}/{learned}" for learned in LEARNED]
            axes.plot(range(len(LEARNED)), [figures[name] for name in names], style, label=method)
            axes.fill_between(
                range(len(LEARNED)), *([figures[f"{name}_{end}"] for name in names] for end in ("lo", "hi")), alpha=0.12
            )
        axes.set_xticks(range(len(LEARNED)), [str(learned) for learned in LEARNED])
        axes.set_xlabel("ratings of the new item that were learned")
        axes.set_ylabel(label)
        draw_legend(axes)
    with atomic_path(path) as temporary:
        temporary.write_bytes(to_png(figure))


if __name__ == "__main__":
    main()
