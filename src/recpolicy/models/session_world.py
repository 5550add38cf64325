"""A simulated world of sessions: users respond to items shown one after the other.

W simulated users, I items, D interest, G genres, S steps at most. Tables and weights define a session:

    log-odds(like)     = like[u, m] + slope (interest_t - interest_0) . direction[m] + like_history . h
    log-odds(level >=) = a continuation-ratio model of the five levels 0, .25, .5, .75, 1 of the watch fraction
    log-odds(go on)    = stay[u, s] + stay_history . h'

h = (genre repeat, consecutive misses) when the item is shown, h' after the user's response. On a like the interest
turns toward the item: interest <- d interest + (1 - d) direction / |direction|. MovieLens has no clicks, so likes,
watch fractions and sessions are proxies from ratings and their times. A like is a rating of 4 or 5 of 5, the watch
fraction is (rating - low) / (high - low), and a session is a sequence of ratings with gaps of at most 30 minutes.
Source of the continuation ratios: Tutz 1990.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.files import content_digest

Array = NDArray[np.float32]

HISTORY = ("genre_repeat", "misses")
"""The features h: cosine-weighted share of the recent genres that the item repeats, 0..1; consecutive misses, capped at
MISSES and divided by it, 0..1."""
MISSES = 5
INTEREST_DECAY = 0.9
"""Share of the old interest that remains after a like in a policy's history state (observation encoders)."""
GENRE_DECAY = 0.7
"""Share of the remembered genres that remains in that state after each shown item."""
SIMILARITIES = ("similarity", "cosine_similarity")
"""Rewards that are circular: dot product and cosine of the embeddings of user and item. No feedback is in them."""
LIKE_LEVEL = 3
"""Levels 3 and 4 of 0..4 (ratings 4 and 5 of 1..5) are likes."""

QUARTERS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Watch fractions of the levels of ratings."""


@dataclass(frozen=True)
class SessionWorld:
    """A world of W users; see the module for the formulas."""

    name: str
    """Model class and ratings of this world, for reports."""
    users: NDArray[np.int32]  # [W] rows of the users table
    like: Array  # [W, I] log-odds of a like at the start of a session, calibrated
    slope: float
    """Log-odds of a like per point of expected rating."""
    interest: Array  # [W, D] interests at the start of a session
    direction: Array  # [I, D]; (interest_t - interest_0) . direction is a change of expected rating
    like_history: Array  # [2] weights of HISTORY
    stay: Array  # [W, S] log-odds of continuing after step s = 0..S-1, without history
    stay_history: Array  # [2] weights of HISTORY, fatigue included
    fatigue: tuple[float, float]
    """Assumed, not fitted, part of stay_history: (genre repeat, misses), >= 0; (0, 0) disables fatigue."""
    levels: Array  # [3, 2] intercept and slope, in the log-odds of a like, of P(5 | like), P(3 | miss), P(2 | below 3)
    genres: Array  # [I, G], rows of length 1, or 0 where no genre is known
    known: NDArray[np.int8] | None = None  # [W, I] known level 0..4 that is paid, -1 where the level is drawn
    interest_decay: float = 0.9
    """Share of the old interest that remains after a like."""
    genre_decay: float = 0.7
    """Share of the remembered genres that remains after each shown item."""
    scale: tuple[float, float] = (1.0, 5.0)
    watch: tuple[float, ...] = QUARTERS
    """Watch fraction that each level pays; quarters for ratings, means of a log with watch times."""

    def __post_init__(self) -> None:
        users, items = self.like.shape
        steps, rank = self.stay.shape[1], self.interest.shape[1]
        expected = {
            "users": (users,), "interest": (users, rank), "direction": (items, rank), "like_history": (2,),
            "stay": (users, steps), "stay_history": (2,), "levels": (3, 2), "genres": (items, self.genres.shape[1]),
        }  # fmt: skip
        for name, shape in expected.items():
            table = getattr(self, name)
            if table.shape != shape or not np.isfinite(table).all():
                raise DataError(f"session world {self.name}: {name} {table.shape} must be {shape} and finite")
        if len(self.watch) != len(QUARTERS) or not all(0 <= fraction <= 1 for fraction in self.watch):
            raise DataError(f"session world {self.name}: watch {self.watch} must be five fractions")
        if not np.isfinite(self.like).all() or (self.known is not None and self.known.shape != self.like.shape):
            raise DataError(f"session world {self.name}: like and known must be [W, I], like finite")

    @property
    def steps(self) -> int:
        """S, the most items that a session shows."""
        return int(self.stay.shape[1])

    @property
    def digest(self) -> str:
        """SHA-256 of all that determines the responses."""
        known = [] if self.known is None else [self.known]
        return content_digest(
            self.users,
            self.like,
            self.slope,
            self.interest,
            self.direction,
            self.like_history,
            self.stay,
            self.stay_history,
            self.levels,
            self.genres,
            self.interest_decay,
            self.genre_decay,
            list(self.scale),
            *known,
            *([] if self.watch == QUARTERS else [list(self.watch)]),
        )
