"""Item features: tables of the catalog learned from training ratings, before any feedback."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.data.features.attributes import Attributes
from recpolicy.data.ratings import Ratings, genre_directions
from recpolicy.models.embeddings import Embeddings

_SHRINKAGE = 4.0
"""Weight of the global mean in an item's mean, in ratings; an analysis of variance on u1.base gives 4.2."""


@dataclass(frozen=True)
class ItemFeatures:
    """Tables of A arms: the rating model's expectation for a context x is offset + embedding . x[:D]."""

    embedding: NDArray[np.float32]  # [A, D]
    offset: NDArray[np.float32]  # [A]
    count: NDArray[np.float32]  # [A], training ratings
    mean_rating: NDArray[np.float32]  # [A], shrunk to the global mean
    scale: tuple[float, float]
    genres: NDArray[np.float32] | None = None  # [A, G], rows of length 1, or 0 where no genre is known
    attributes: NDArray[np.float32] | None = None  # [A, G'], encoded attributes by a schema; None without one
    interactions: bool = False
    """Linear agents see products of the attributes of users and items."""
    noise_std: float = 1.0
    """Standard deviation of one rating around its expectation."""
    item_std: NDArray[np.float32] | None = None
    """[A] standard deviation of an item's expected ratings because its embedding is uncertain; None: unknown."""

    def linear_prior(self, context_width: int, bias: bool) -> NDArray[np.float32]:
        """Return the weights [A, context_width (+ 1)] with which a linear model equals the rating model."""
        arms, rank = self.embedding.shape
        weights = np.zeros((arms, context_width + bias), np.float32)
        weights[:, :rank] = self.embedding
        if bias:
            weights[:, -1] = self.offset
        return weights


def compute_item_features(
    action_items: NDArray[np.int32], embeddings: Embeddings, train: Ratings, attributes: Attributes | None = None
) -> ItemFeatures:
    """Return the tables of the catalog's items (rows [A])."""
    items = train.shape[1]
    count = np.bincount(train.item, minlength=items)
    total = np.bincount(train.item, train.rating, minlength=items)
    mean = (total + _SHRINKAGE * train.rating.mean()) / (count + _SHRINKAGE)
    return ItemFeatures(
        embeddings.item[action_items], embeddings.offset[action_items], count[action_items].astype(np.float32),
        mean[action_items].astype(np.float32), train.scale, genre_directions(train.items)[action_items],
        None if attributes is None or not attributes.item.shape[1] else attributes.item[action_items],
        attributes is not None and attributes.encoder.schema.interactions, float(embeddings.noise_std),
        None if embeddings.item_std is None else embeddings.item_std[action_items],
    )  # fmt: skip
