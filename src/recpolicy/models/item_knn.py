"""Item neighbors: a user's expected rating is the baseline plus their mean residual at the most similar items.

mean[u, i] = b_ui + sum_j s_ij (r_uj - b_uj) / sum_j s_ij over the k items j that u rated, other than i itself, with
the largest similarity s_ij; only s_ij > 0 count. Similarity is Pearson's correlation of the residuals r - b over the n
users who rated both, shrunk by (n - 1) / (n - 1 + shrinkage). Source: Koren 2010, section 2.2; as in Surprise's
KNNBaseline with `pearson_baseline`.

Dense: similarities are a few [I, U] x [U, I] products, neighbors a partial sort over padded rows of rated items.
"""

from dataclasses import field

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.config import Count, NonNegativeNumber, Size, as_dict, config_dataclass
from recpolicy.core.progress import progress
from recpolicy.data.ratings import Ratings
from recpolicy.models.bias import BiasConfig, fit_biases
from recpolicy.models.rating_model import Array, RatingModel
from recpolicy.models.residual_noise import held_out_noise

_CELLS = 1 << 23  # similarities held at once; 32 MB


@config_dataclass
class ItemKNNConfig:
    """Settings of the item neighbors."""

    max_neighbors: Size = 40
    """Largest number of rated items in one prediction."""
    shrinkage: NonNegativeNumber = 100.0
    """Shrinkage of similarities toward 0, in common raters."""
    min_support: Count = 1
    """Smallest number of common raters of similar items."""
    min_neighbors: Count = 1
    """Smallest number of neighbors; with fewer, the prediction is the baseline."""
    baseline: BiasConfig = field(default_factory=BiasConfig)
    """Settings of the biases that form the baseline."""


def fit_item_knn(train: Ratings, config: ItemKNNConfig, seed: int) -> RatingModel:
    """Fit by products and partial sorts; only the choice of held-out ratings for the noise is random.

    std^2 = the baseline's variance + noise^2 / (1 + m), m = (sum s)^2 / sum s^2 being the effective number of
    neighbors (Kish). It is a count-based substitute: neighbor methods have no posterior.
    """

    def predict(ratings: Ratings) -> tuple[Array, Array]:
        biases = fit_biases(ratings, config.baseline)
        baseline = biases.expected()  # [U, I]
        residual = ratings.rating - baseline[ratings.user, ratings.item]  # [N]
        shift, effective = neighbor_shift(ratings, residual, similarity(ratings, residual, config), config)
        factor = biases.user_variance[:, None] + biases.item_variance + 1 / (1 + effective)
        return np.clip(baseline + shift, *train.scale, dtype=np.float32), factor.astype(np.float32)

    mean, factor = predict(train)
    noise = held_out_noise(train, predict, seed)
    return RatingModel(
        name="item_knn",
        mean=mean,
        std=(noise * np.sqrt(factor)).astype(np.float32),
        noise_std=noise,
        scale=train.scale,
        train_digest=train.digest,
        seed=seed,
        config=as_dict(config),
    )


def similarity(train: Ratings, residual: NDArray[np.float64], config: ItemKNNConfig) -> Array:
    """Return the shrunken correlations [I, I] of residuals over common raters; the diagonal is 0."""
    dense, rated = np.zeros(train.shape, np.float32), np.zeros(train.shape, np.float32)
    dense[train.user, train.item] = residual
    rated[train.user, train.item] = 1
    common = rated.T @ rated  # [I, I] users who rated both
    product = dense.T @ dense
    squares = np.square(dense).T @ rated  # [i, j]: sum of i's squares over users who rated both
    norm = np.sqrt(squares * squares.T)
    trust = np.maximum(common - 1, 0) / np.maximum(common - 1 + np.float32(config.shrinkage), 1e-9)
    similar: Array = np.where((norm > 0) & (common >= config.min_support), trust * product / np.maximum(norm, 1e-12), 0)
    np.fill_diagonal(similar, 0)
    return similar


def neighbor_shift(
    train: Ratings, residual: NDArray[np.float64], similar: Array, config: ItemKNNConfig
) -> tuple[Array, Array]:
    """Return the mean residual [U, I] of the nearest rated items and their effective number [U, I]."""
    users, items = train.shape
    order = np.lexsort((train.item, train.user))
    count = np.bincount(train.user, minlength=users)  # [U]
    start = np.concatenate([[0], np.cumsum(count)[:-1]])
    shift, effective = np.zeros(train.shape, np.float32), np.zeros(train.shape, np.float32)
    by_count = np.argsort(count, kind="stable")  # users with lists of similar length share a chunk, so padding is small
    with progress("item neighbors", users, unit="users") as bar:
        while len(by_count):
            longest = count[by_count[: max(1, _CELLS // items)]].max()  # for the most users that could fit
            chunk = by_count[: max(1, _CELLS // (items * max(int(longest), 1)))]
            by_count = by_count[len(chunk) :]
            slot = np.arange(max(int(count[chunk].max()), 1))
            real = slot < count[chunk][:, None]  # [B, L] slots that hold a rating
            row = order[np.where(real, start[chunk][:, None] + slot, 0)]
            weight = similar[:, train.item[row]] * real  # [I, B, L]
            _keep_largest(weight, config.max_neighbors, config.min_neighbors)
            total = weight.sum(axis=2)  # [I, B]
            safe = np.maximum(total, 1e-12)
            shift[chunk] = (np.einsum("ibl,bl->ib", weight, residual[row].astype(np.float32)) / safe).T
            effective[chunk] = (np.square(total) / np.maximum(np.square(weight).sum(axis=2), 1e-12)).T
            bar.advance(len(chunk))
    return shift, effective


def _keep_largest(weight: Array, most: int, least: int) -> None:
    """Set to 0, in place, all but the `most` largest positives of the last axis; all if those are below `least`."""
    np.maximum(weight, 0, out=weight)
    if weight.shape[-1] > most:
        smallest = np.partition(weight, -most, axis=-1)[..., -most, None]
        weight[weight < smallest] = 0
    if least > 1:
        weight[np.count_nonzero(weight, axis=-1) < least] = 0
