"""Ratings, splits and candidates small enough to work out by hand, and hypothesis strategies for them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from hypothesis import strategies as st

from recpolicy.data.ratings import Ratings
from recpolicy.data.splits import Split
from recpolicy.evaluation.candidates import Candidates, find_candidates
from recpolicy.models.rating_model import RatingModel

Triple = tuple[int, int, float]  # user row, item row, rating


def ratings_of(triples: Sequence[Triple], users: int, items: int, scale: tuple[float, float] = (1, 5)) -> Ratings:
    columns = np.array(triples, float).reshape(-1, 3)
    return Ratings(
        user=columns[:, 0].astype(np.int32),
        item=columns[:, 1].astype(np.int32),
        rating=columns[:, 2].astype(np.float32),
        timestamp=None,
        users=pd.DataFrame({"user_id": [f"u{row}" for row in range(users)]}),
        items=pd.DataFrame(
            {
                "item_id": [f"m{row}" for row in range(items)],
                "title": [f"Item {row}" for row in range(items)],
                "year": pd.array([1990] * items, "Int64"),
                "genres": "",
            }
        ),
        name="hand-made",
        scale=scale,
    )


def split_of(fit: Sequence[Triple], test: Sequence[Triple], users: int, items: int) -> Split:
    return Split("by hand", ratings_of(fit, users, items), ratings_of(test, users, items), seed=0)


def candidates_with(ratings_by_user: Sequence[Sequence[float]]) -> Candidates:
    """User u's candidates are items 0, 1, 2, ... with the u-th list of ratings."""
    triples = [(user, item, r) for user, row in enumerate(ratings_by_user) for item, r in enumerate(row)]
    return find_candidates(ratings_of(triples, len(ratings_by_user), max(map(len, ratings_by_user))), at_least=1)


def planted_split(users: int = 120, items: int = 60, each: int = 24, seed: int = 0) -> tuple[Split, np.ndarray]:
    """A split of users * each ratings whose expectations [U, I] we chose; a third of each user's ratings are test."""
    rng = np.random.default_rng(seed)
    truth = 3 + rng.normal(0, 0.4, (users, 1)) + rng.normal(0, 0.5, items) + rng.normal(0, 0.5, (users, items))
    truth = np.clip(truth, 1, 5)
    rated = rng.permuted(np.tile(np.arange(items), (users, 1)), axis=1)[:, :each]  # [U, each]
    rating = np.clip(np.rint(np.take_along_axis(truth, rated, 1) + rng.normal(0, 0.5, rated.shape)), 1, 5)
    rows = [
        [(u, int(rated[u, n]), rating[u, n]) for u in range(users) for n in part]
        for part in (range(each // 3, each), range(each // 3))
    ]
    return split_of(rows[0], rows[1], users, items), truth


def model_of(fit: Ratings, mean: np.ndarray) -> RatingModel:
    table = mean.astype(np.float32)
    return RatingModel("planted", table, np.zeros_like(table), 0.5, fit.scale, fit.digest, seed=0, config={})


@st.composite
def scored_users(draw, max_size: int = 6) -> tuple[list[list[int]], list[list[int]]]:
    """Ratings and whole-number scores (so that ties are common) of 1 to 5 users with 2 or more candidates each."""
    ratings = draw(st.lists(st.lists(st.integers(1, 5), min_size=2, max_size=max_size), min_size=1, max_size=5))
    scores = [draw(st.lists(st.integers(-3, 3), min_size=len(row), max_size=len(row))) for row in ratings]
    return ratings, scores


def flat(rows: Sequence[Sequence[float]]) -> np.ndarray:
    return np.array([value for row in rows for value in row], float)
