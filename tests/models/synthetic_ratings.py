"""Ratings whose truth we made, for the tests of rating models."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.data.ratings import Ratings


def table(
    user: NDArray[np.integer], movie: NDArray[np.integer], rating: NDArray[np.floating], shape: tuple[int, int]
) -> Ratings:
    """A table without attributes: ids, empty genres, no years, no times."""
    users, movies = shape
    return Ratings(
        user=np.asarray(user, np.int32),
        movie=np.asarray(movie, np.int32),
        rating=np.asarray(rating, np.float32),
        timestamp=None,
        users=pd.DataFrame({"user_id": [f"u{row}" for row in range(users)]}),
        movies=pd.DataFrame(
            {
                "movie_id": [f"m{row}" for row in range(movies)],
                "title": ["" for _ in range(movies)],
                "year": pd.array([pd.NA] * movies, dtype="Int64"),
                "genres": ["" for _ in range(movies)],
            }
        ),
        name="planted",
    )


def rank_two(
    seed: int, noise: float, users: int = 120, movies: int = 90, share: float = 0.5
) -> tuple[Ratings, Ratings]:
    """Fit and test parts of 3 + rank-2 preference + noise; a fifth of the rated `share` of cells is test."""
    rng = np.random.default_rng(seed)
    expected = 3 + 0.7 * rng.normal(size=(users, 2)) @ rng.normal(size=(movies, 2)).T / np.sqrt(2)
    user, movie = np.nonzero(rng.random((users, movies)) < share)
    rating = np.clip(expected[user, movie] + rng.normal(0, noise, len(user)), 1, 5)
    every = table(user, movie, rating, (users, movies))
    test = rng.random(len(user)) < 0.2
    return every.take(~test), every.take(test)


def rmse(mean: NDArray[np.floating], test: Ratings) -> float:
    return float(np.sqrt(np.mean(np.square(mean[test.user, test.movie] - test.rating))))
