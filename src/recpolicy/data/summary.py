"""Summarize a ratings table in numbers, for people and programs."""

from datetime import UTC, datetime
from typing import Any

import numpy as np

from recpolicy.data.ratings import Ratings


def summarise(ratings: Ratings) -> dict[str, Any]:
    """Return counts, mean and (population) standard deviation, share of each rating value, first and last time, digest.

    All values are plain JSON; `shares` has the rating values as text, lowest first; times are ISO 8601 in UTC or None.
    """
    users, items = ratings.shape
    values, counts = np.unique(ratings.rating, return_counts=True)
    stars = ratings.rating.astype(np.float64)
    rated_users, rated_items = len(np.unique(ratings.user)), len(np.unique(ratings.item))
    times = ratings.timestamp
    return {
        "name": ratings.name,
        "ratings": len(ratings),
        "users": users,
        "items": items,
        "users_with_ratings": rated_users,
        "items_with_ratings": rated_items,
        "density": len(ratings) / (users * items),
        "scale": list(ratings.scale),
        "mean": float(stars.mean()),
        "std": float(stars.std()),
        "shares": {f"{value:g}": count / len(ratings) for value, count in zip(values, counts.tolist(), strict=True)},
        "first": None if times is None else _moment(int(times.min())),
        "last": None if times is None else _moment(int(times.max())),
        "digest": ratings.digest,
    }


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
