"""A simulated world that pays rewards from expected ratings, or from known real ratings.

U users, I items. A world uses another model class than the features of a policy. A rating in `known` is paid exactly;
all others are drawn around their expectation (environments/rating_noise.py).
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.files import content_digest
from recpolicy.data.ratings import Ratings
from recpolicy.models.rating_model import RatingModel


@dataclass(frozen=True)
class World:
    """A world of expected rewards [U, I] on the rating scale; `known` cells pay exactly their expectation."""

    expected: NDArray[np.float32]  # [U, I], within scale
    known: NDArray[np.bool_]  # [U, I]
    scale: tuple[float, float]
    name: str
    """Model class and ratings of this world, for reports."""

    def __post_init__(self) -> None:
        low, high = self.scale
        if not (self.expected.min() >= low and self.expected.max() <= high):  # NaN fails, too
            raise DataError(f"world {self.name}: expected rewards must lie within {low}..{high} and be finite")

    @property
    def digest(self) -> str:
        """The SHA-256 digest of the rewards."""
        return content_digest(self.expected, self.known, self.scale)

    def paying(self, ratings: Ratings) -> "World":
        """Return the world that pays these real ratings where they exist."""
        expected, known = self.expected.copy(), self.known.copy()
        expected[ratings.user, ratings.item] = ratings.rating
        known[ratings.user, ratings.item] = True
        return replace(self, expected=expected, known=known, name=f"{self.name}, real ratings of {ratings.name} paid")


def world_from_model(model: RatingModel) -> World:
    """Return the world in which the model's expectations are the truth."""
    low, high = model.scale
    expected = np.clip(model.mean, low, high).astype(np.float32)
    return World(expected, np.zeros(expected.shape, bool), model.scale, model.name)
