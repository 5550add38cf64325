"""Ratings of users whose responses we planted: every session is played by the environment's own step.

An item is shown to a user at most once; a session's ratings are 20 seconds apart and the next one comes a day later.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.data.ratings import Ratings
from recpolicy.evaluation.session_rollout import SessionSimulator
from recpolicy.models.session_world import SessionWorld

STEPS, SESSIONS, GENRES, RANK = 10, 10, 6, 2
STAY_HISTORY = (-1.0, -1.5)
LIKE_HISTORY = (0.8, -1.0)


@dataclass(frozen=True)
class PlantedResponses:
    """The truth and what was seen of it."""

    world: SessionWorld
    ratings: Ratings
    shown: NDArray[np.intp]  # [U, SESSIONS, STEPS] items that a session shows or would have shown
    length: NDArray[np.int64]  # [U, SESSIONS]


def planted_responses(seed: int = 0, users: int = 240, items: int = 120, stay: float | None = None) -> PlantedResponses:
    """Draw users and their ratings; `stay` is one probability of going on, whatever happens."""
    rng = np.random.default_rng([seed, 41])
    rows = rng.random((items, GENRES)) < 0.2
    rows[np.arange(items), rng.integers(0, GENRES, items)] = True
    interest, direction = rng.normal(size=(users, RANK)), rng.normal(size=(items, RANK))
    like = 0.3 + rng.normal(0, 0.9, (users, 1)) + rng.normal(0, 1.3, items) + 1.1 * interest @ direction.T
    base = 2.4 + rng.normal(0, 0.5, (users, 1)) + np.minimum(0.1 * np.arange(STEPS), 0.5)
    if stay is not None:
        base = np.full((users, STEPS), np.log(stay / (1 - stay)))
    world = SessionWorld(
        name="planted", users=np.arange(users, dtype=np.int32), like=like.astype(np.float32), slope=0.0,
        interest=interest.astype(np.float32), direction=direction.astype(np.float32),
        like_history=np.array(LIKE_HISTORY, np.float32), stay=base.astype(np.float32),
        stay_history=np.array(STAY_HISTORY if stay is None else (0, 0), np.float32), fatigue=(0.0, 0.0),
        levels=np.array([[-1.0, 0.7], [0.7, 0.6], [1.0, 0.4]], np.float32),
        genres=(rows / np.sqrt(rows.sum(axis=1, keepdims=True))).astype(np.float32),
    )  # fmt: skip
    order = rng.permuted(np.tile(np.arange(items), (users, 1)), axis=1)[:, : SESSIONS * STEPS]
    shown = order.reshape(users, SESSIONS, STEPS)
    responses = SessionSimulator(world).simulate(np.repeat(world.users, SESSIONS), shown.reshape(-1, STEPS), seed)
    row, step = np.nonzero(responses.shown)
    user, session = row // SESSIONS, row % SESSIONS
    table = _table(world, rows)
    ratings = Ratings(
        user=user.astype(np.int32), item=shown.reshape(-1, STEPS)[row, step].astype(np.int32),
        rating=(1 + responses.level[row, step]).astype(np.float32),
        timestamp=880_000_000 + 86_400 * session + 20 * step, name="planted", **table,
    )  # fmt: skip
    return PlantedResponses(world, ratings, shown, responses.length.reshape(users, SESSIONS))


def _table(world: SessionWorld, rows: NDArray[np.bool_]) -> dict[str, pd.DataFrame]:
    names = np.array([f"G{number}" for number in range(GENRES)])
    items = pd.DataFrame(
        {
            "item_id": [f"m{row}" for row in range(len(rows))],
            "title": "",
            "year": pd.array([pd.NA] * len(rows), dtype="Int64"),
            "genres": ["|".join(names[row]) for row in rows],
        }
    )
    return {"users": pd.DataFrame({"user_id": [f"u{row}" for row in world.users]}), "items": items}
