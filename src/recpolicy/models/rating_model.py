"""A fitted rating model: the expected rating and its uncertainty for every user and item.

U users, I items. The arrays are dense on purpose: MovieLens 100K and 1M easily fit in memory, and every consumer
(worlds, embeddings, baselines) reads whole rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.models.rating_levels import RatingLevels

Array = NDArray[np.float32]


@dataclass(frozen=True)
class RatingModel:
    """Expected ratings and their standard deviations, with the digest of the ratings they were fitted on."""

    name: str
    """Name of the model in RATING_MODELS."""
    mean: Array  # [U, I] expected rating, within scale
    std: Array  # [U, I] posterior standard deviation of the expected rating (without rating noise), >= 0
    noise_std: float
    """Standard deviation of one rating around its expectation."""
    scale: tuple[float, float]
    train_digest: str
    """Digest (Ratings.digest) of the ratings that the model was fitted on."""
    seed: int
    config: dict[str, Any]
    linear_mean: Array | None = None
    """[U, I] expected rating of the part of the model that is linear in factors; None: `mean`. Embeddings, and what is
    trained on them, come from it."""
    levels: RatingLevels | None = None
    """The distribution of one rating over the levels of the scale; None: Gaussian noise of `noise_std`."""

    def __post_init__(self) -> None:
        low, high = self.scale
        if self.mean.ndim != 2 or self.mean.shape != self.std.shape:
            raise DataError(f"{self.name}: mean {self.mean.shape} and std {self.std.shape} must be the same [U, I]")
        if not (np.all(self.mean >= low) and np.all(self.mean <= high)):  # also false for NaN
            raise DataError(f"{self.name}: expected ratings must lie in {low:g}..{high:g}")
        if not (np.all(self.std >= 0) and np.all(np.isfinite(self.std))):
            raise DataError(f"{self.name}: standard deviations must be finite and not negative")
        if not (self.linear.shape == self.mean.shape and np.all(self.linear >= low) and np.all(self.linear <= high)):
            raise DataError(f"{self.name}: linear expected ratings {self.linear.shape} must lie in {low:g}..{high:g}")

    @property
    def linear(self) -> Array:
        """Expected ratings [U, I] of the part that is linear in factors."""
        return self.mean if self.linear_mean is None else self.linear_mean

    @property
    def shape(self) -> tuple[int, int]:
        """(U, I)."""
        users, items = self.mean.shape
        return users, items
