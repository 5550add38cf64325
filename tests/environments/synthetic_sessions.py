"""A world of sessions small enough to see through, and what a policy knows of it; every part can be switched off."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.models.session_world import SessionWorld

USERS, ITEMS, RANK, GENRES, STEPS = 30, 24, 4, 5, 8
"""Users of the world, items, D, G, S."""
FATIGUE = (1.5, 1.0)


@dataclass(frozen=True)
class PlantedSessions:
    """A world and the tables of the policies that play in it."""

    world: SessionWorld
    context: NDArray[np.float32]  # [U, D + 1], the embedding first, then a made-up age
    embedding: NDArray[np.float32]  # [I, D]


def planted_sessions(
    seed: int = 0, *, users: int = USERS, items: int = ITEMS, rank: int = RANK, genres: int = GENRES,
    steps: int = STEPS, fatigue: tuple[float, float] = FATIGUE, slope: float = 0.8, known: float = 0.1,
    like_history: tuple[float, float] = (-0.4, -0.3), stay: float | None = None,
) -> PlantedSessions:  # fmt: skip
    """Draw a world.

    fatigue (0, 0) makes genres and misses leave the length of sessions alone; slope 0 switches drift off; like_history
    (0, 0) makes likes independent of what was shown; `known` is the share of cells that pay a fixed level; `stay` is
    one probability of going on for all users and steps, None draws the log-odds. The world knows every second user.
    """
    rng = np.random.default_rng([seed, 23])
    interest = rng.normal(0, 0.5, (users, rank))
    direction = rng.normal(0, 0.5, (items, rank))
    like = 0.2 + rng.normal(0, 0.5, items) + interest @ direction.T
    base = rng.normal(1.5, 0.4, (users, 1)) - 0.05 * np.arange(steps)
    levels = np.where(rng.random(like.shape) < known, rng.integers(0, 5, like.shape), -1)
    rows = rng.random((items, genres)) < 0.3
    rows[np.arange(items), rng.integers(0, genres, items)] = True  # every item has a genre
    world = SessionWorld(
        name="planted",
        users=np.arange(1, 2 * users, 2, dtype=np.int32),
        like=like.astype(np.float32),
        slope=slope,
        interest=interest.astype(np.float32),
        direction=direction.astype(np.float32),
        like_history=np.array(like_history, np.float32),
        stay=(base if stay is None else np.full((users, steps), np.log(stay / (1 - stay)))).astype(np.float32),
        stay_history=-np.array(fatigue, np.float32),
        fatigue=fatigue,
        levels=np.array([[-0.5, 0.3], [0.4, 0.2], [0.3, 0.1]], np.float32),
        genres=(rows / np.sqrt(rows.sum(axis=1, keepdims=True))).astype(np.float32),
        known=levels.astype(np.int8) if known else None,
    )
    context = rng.normal(0, 0.5, (2 * users, rank + 1)).astype(np.float32)
    context[world.users, :rank] += world.interest
    embedding = (direction + rng.normal(0, 0.1, direction.shape)).astype(np.float32)
    return PlantedSessions(world, context, embedding)
