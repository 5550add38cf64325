"""Item mean: the expected rating of an item is its mean rating for every user. The simplest baseline.

mean[u, i] = (sum of ratings of i + damping * mu) / (n_i + damping), mu the mean of all ratings; an item without ratings
gets mu.
"""

import numpy as np

from recpolicy.core.config import NonNegativeNumber, as_dict, config_dataclass
from recpolicy.data.ratings import Ratings
from recpolicy.models.rating_model import RatingModel


@config_dataclass
class ItemMeanConfig:
    """Settings of the item mean."""

    damping: NonNegativeNumber = 0.0
    """Weight of the overall mean in each item's mean, in ratings."""


def fit_item_mean(train: Ratings, config: ItemMeanConfig, seed: int) -> RatingModel:
    """Fit by counting, without randomness. The std is noise / sqrt(n_i + damping + 1), as for a mean."""
    items = train.shape[1]
    overall = float(np.mean(train.rating, dtype=np.float64))
    count = np.bincount(train.item, minlength=items)  # [I]
    excess = np.bincount(train.item, train.rating - overall, items)
    expected = overall + excess / np.maximum(count + config.damping, 1e-9)
    freedom = max(len(train) - np.count_nonzero(count), 1)
    noise = float(np.sqrt(np.sum(np.square(train.rating - expected[train.item])) / freedom))
    return RatingModel(
        name="item_mean",
        mean=np.tile(np.clip(expected, *train.scale).astype(np.float32), (train.shape[0], 1)),
        std=np.tile((noise / np.sqrt(count + config.damping + 1)).astype(np.float32), (train.shape[0], 1)),
        noise_std=noise, scale=train.scale, train_digest=train.digest, seed=seed, config=as_dict(config),
    )  # fmt: skip
