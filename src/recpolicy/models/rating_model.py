"""A fitted rating model: for every user and item the expected rating and how sure the model is of it.

U users, I items. Dense on purpose: MovieLens 100K to 1M fit in memory many times over, and every consumer (worlds,
embeddings, baselines) wants whole rows.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError

Array = NDArray[np.float32]


@dataclass(frozen=True)
class RatingModel:
    """Expected ratings and their standard deviations, fitted on the ratings whose digest it carries."""

    name: str
    """Its name in RATING_MODELS."""
    mean: Array  # [U, I] expected rating, within scale
    std: Array  # [U, I] posterior standard deviation of the expected rating (without rating noise), >= 0
    noise_std: float
    """Standard deviation of one rating around its expectation."""
    scale: tuple[float, float]
    fit_digest: str
    """Ratings.digest of the ratings it was fitted on."""
    seed: int
    config: dict[str, Any]

    def __post_init__(self) -> None:
        low, high = self.scale
        if self.mean.ndim != 2 or self.mean.shape != self.std.shape:
            raise DataError(f"{self.name}: mean {self.mean.shape} and std {self.std.shape} must be the same [U, I]")
        if not (np.all(self.mean >= low) and np.all(self.mean <= high)):  # false for NaN, too
            raise DataError(f"{self.name}: expected ratings must lie in {low:g}..{high:g}")
        if not (np.all(self.std >= 0) and np.all(np.isfinite(self.std))):
            raise DataError(f"{self.name}: standard deviations must be finite and not negative")

    @property
    def shape(self) -> tuple[int, int]:
        """(U, I)."""
        users, items = self.mean.shape
        return users, items
