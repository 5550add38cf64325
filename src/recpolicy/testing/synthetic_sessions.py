"""A planted world of sessions, small enough to compute by hand, and the tables of the policies that play in it.

U users, I items, D embedding, G genres, S steps. Each effect of the world can be switched off by an argument.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.agents.item_features import ItemFeatures
from recpolicy.models.session_world import SessionWorld

USERS, ITEMS, RANK, GENRES, STEPS = 30, 24, 4, 5, 8
"""Default sizes of the world: U, I, D, G, S."""
FATIGUE = (1.5, 1.0)


@dataclass(frozen=True)
class PlantedSessions:
    """A world and the tables of the policies that play in it."""

    world: SessionWorld
    context: NDArray[np.float32]
    """[2 U, D + 1], the embedding first, then a random age."""
    embedding: NDArray[np.float32]
    """[I, D]."""

    @property
    def candidates(self) -> NDArray[np.int32]:
        """All item rows [I], in order."""
        return np.arange(len(self.embedding), dtype=np.int32)


def planted_sessions(
    seed: int = 0, *, users: int = USERS, items: int = ITEMS, rank: int = RANK, genres: int = GENRES,
    steps: int = STEPS, fatigue: tuple[float, float] = FATIGUE, slope: float = 0.8, known: float = 0.1,
    like_history: tuple[float, float] = (-0.4, -0.3), stay: float | None = None,
) -> PlantedSessions:  # fmt: skip
    """Draw a world; its users are every second row of the context.

    Args:
        seed: Seed of the draw.
        users: Number U of users of the world.
        items: Number I of items.
        rank: Width D of embeddings.
        genres: Number G of genres.
        steps: Largest length S of a session.
        fatigue: Effect of repeated genres and of misses on staying, in log-odds; (0, 0) switches it off.
        slope: Effect of interest on likes, in log-odds per point; 0 switches drift off.
        known: Share of (user, item) pairs that pay a fixed level, in [0, 1].
        like_history: Effect of repeated genres and of misses on likes, in log-odds; (0, 0) switches it off.
        stay: Probability of staying after each step, for all users; None draws one per user and step.

    Returns:
        The world and its tables.
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


def planted_items(planted: PlantedSessions | None = None) -> ItemFeatures:
    """Return the tables of a rating model that expects an item offset + embedding . user.

    Args:
        planted: The world; the default world if None.

    Returns:
        Features of the I items on the scale 1 to 5; offsets are drawn around 3.
    """
    planted = planted or planted_sessions()
    items = len(planted.embedding)
    offset = 3 + np.random.default_rng(1).normal(0, 0.3, items).astype(np.float32)
    count = np.full(items, 9, np.float32)
    return ItemFeatures(planted.embedding, offset, count, offset, (1.0, 5.0), planted.world.genres)
