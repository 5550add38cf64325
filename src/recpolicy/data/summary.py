"""Summarize a ratings table in numbers, for people and programs."""

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.data.ratings import Ratings, genre_matrix

_YEAR = 365 * 86_400


def summarise(ratings: Ratings) -> dict[str, Any]:
    """Return counts, mean and (population) standard deviation, share of each rating value, first and last time, genres,
    notes, digest.

    All values are plain JSON; `shares` has the rating values as text, lowest first; times are ISO 8601 in UTC or None.
    `notes` are sentences about values that are probably wrong.
    """
    users, items = ratings.shape
    values, counts = _value_counts(ratings.rating)
    stars = ratings.rating.astype(np.float64)
    rated_users, rated_items = (int(np.count_nonzero(np.bincount(rows))) for rows in (ratings.user, ratings.item))
    times, genres = ratings.timestamp, genre_matrix(ratings.items)[0]
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
        "merged_rows": ratings.merged_rows,
        "genres": genres,
        "notes": [
            *([] if times is None else _time_notes(int(times.min()), int(times.max()))),
            *_genre_notes(genres),
        ],
        "digest": ratings.digest,
    }


def _value_counts(rating: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the distinct ratings, lowest first, and the number of each; by hashing, which is faster than sorting."""
    codes, values = pd.factorize(rating)
    order = np.argsort(values)
    return values[order], np.bincount(codes, minlength=len(values))[order]


def _time_notes(first: int, last: int) -> list[str]:
    """Return a note if all times are in 1970, as days since 1970 or other small numbers are."""
    if not 0 <= first <= last < _YEAR or first == last == 0:
        return []
    return [
        "all times are in 1970: the numbers are probably no seconds since 1970 but, for example, days; convert them, or"
        " leave the times out"
    ]


def _genre_notes(genres: list[str]) -> list[str]:
    """Return a note if names of genres hold a comma or semicolon, which then probably separates several."""
    for separator in (",", ";"):
        several = [genre for genre in genres if separator in genre]
        if several:
            return [
                f"{len(several)} of {len(genres)} genres hold {separator!r}, such as {several[0]!r}: if it separates"
                f' genres, set genre_separator = "{separator}" in the table [data]'
            ]
    return []


def _moment(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
