"""The attributes of a catalog that guardrails look at. A items that a policy can show, G categories, D embedding."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Array, Bools


@dataclass(frozen=True)
class CatalogFeatures:
    """Categories, popularity and directions of the items of a catalog."""

    names: Sequence[str]  # [G] categories
    category: Bools  # [G, A]
    share: Array  # [G, A] 1 / number of the item's categories, 0 where it has not this one
    popularity: Array  # [A] log(1 + ratings) / log(1 + ratings of the most rated item), 0..1
    direction: Array  # [A, D] embeddings of length 1, so that products are cosines

    @cached_property
    def categories_of(self) -> list[tuple[int, ...]]:
        """The numbers of the categories of each item [A]."""
        return [tuple(np.flatnonzero(column).tolist()) for column in self.category.T]

    @cached_property
    def items_of(self) -> list[NDArray[np.intp]]:
        """The items of each category [G]."""
        return [np.flatnonzero(row) for row in self.category]

    @classmethod
    def of(
        cls, names: Sequence[str], genres: NDArray[Any], rated: NDArray[np.integer[Any]], most_rated: int,
        direction: NDArray[np.floating[Any]],
    ) -> "CatalogFeatures":  # fmt: skip
        """Return the attributes of items.

        Args:
            names: [G] names of the categories.
            genres: [A, G] true where an item has the category.
            rated: [A] number of ratings of each item.
            most_rated: Number of ratings of the most rated item.
            direction: [A, D] embeddings of length 1.
        """
        category = np.ascontiguousarray(np.asarray(genres, bool).T)
        share = np.where(category, 1.0 / np.maximum(category.sum(axis=0), 1), 0.0)
        popularity = np.log1p(rated) / max(float(np.log1p(most_rated)), 1e-12)
        return cls(list(names), category, share, popularity, direction.astype(np.float64))

    def of_arms(self, arms: NDArray[np.integer[Any]]) -> "CatalogFeatures":
        """Return the attributes of some items, in this order."""
        return replace(
            self, category=self.category[:, arms], share=self.share[:, arms], popularity=self.popularity[arms],
            direction=self.direction[arms],
        )  # fmt: skip
