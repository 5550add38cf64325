"""Ratings whose truth we made, for the tests of rating models."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.data.ratings import Ratings


def table(
    user: NDArray[np.integer], item: NDArray[np.integer], rating: NDArray[np.floating], shape: tuple[int, int]
) -> Ratings:
    """A table without attributes: ids, empty genres, no years, no times."""
    users, items = shape
    return Ratings(
        user=np.asarray(user, np.int32),
        item=np.asarray(item, np.int32),
        rating=np.asarray(rating, np.float32),
        timestamp=None,
        users=pd.DataFrame({"user_id": [f"u{row}" for row in range(users)]}),
        items=pd.DataFrame(
            {
                "item_id": [f"m{row}" for row in range(items)],
                "title": ["" for _ in range(items)],
                "year": pd.array([pd.NA] * items, dtype="Int64"),
                "genres": ["" for _ in range(items)],
            }
        ),
        name="planted",
    )


def rank_two(seed: int, noise: float, users: int = 120, items: int = 90, share: float = 0.5) -> tuple[Ratings, Ratings]:
    """Fit and test parts of 3 + rank-2 preference + noise; a fifth of the rated `share` of cells is test."""
    rng = np.random.default_rng(seed)
    expected = 3 + 0.7 * rng.normal(size=(users, 2)) @ rng.normal(size=(items, 2)).T / np.sqrt(2)
    user, item = np.nonzero(rng.random((users, items)) < share)
    rating = np.clip(expected[user, item] + rng.normal(0, noise, len(user)), 1, 5)
    every = table(user, item, rating, (users, items))
    test = rng.random(len(user)) < 0.2
    return every.take(~test), every.take(test)


def rmse(mean: NDArray[np.floating], test: Ratings) -> float:
    return float(np.sqrt(np.mean(np.square(mean[test.user, test.item] - test.rating))))
