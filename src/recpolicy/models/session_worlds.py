"""The two worlds of sessions: one for training, one for evaluation.

World A simulates one half of the users by a matrix factorization of their training ratings. World B simulates the other
half by item neighbors fitted on all their ratings, test included, and pays the levels of real test ratings. The worlds
have no user, rating or model class in common, so a gain in A but not in B is an artifact of the simulator.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.seeds import generator
from recpolicy.data.ratings import Ratings
from recpolicy.data.splits import Split
from recpolicy.models.session_world import SessionWorld
from recpolicy.models.user_model import SessionWorldConfig, fit_session_world
from recpolicy.models.user_model_fits import watch_levels

EVALUATION_MODEL = "item_knn"
"""Model class of world B; features and world A use other classes."""


@dataclass(frozen=True)
class TwoWorlds:
    """Two worlds with disjoint users."""

    training_world: SessionWorld
    """World A, for training."""
    evaluation_world: SessionWorld
    """World B, for evaluation; it knows the test ratings of its users."""


def fit_two_worlds(split: Split, config: SessionWorldConfig | None = None, seed: int = 0) -> TwoWorlds:
    """Fit both worlds; `config` is world A's, and B's with the rating model `EVALUATION_MODEL` at its defaults.

    Raises DataError without timestamps or with fewer than four users in the train part.
    """
    config = config or SessionWorldConfig()
    half, other = halves(split.train, seed)
    both = joined(split.train, split.test, split.name)
    training_world = fit_session_world(of_users(split.train, half, "half A"), half, half, config, seed)
    evaluation_config = replace(config, rating_model=EVALUATION_MODEL, rating_model_config=None)
    evaluation_world = fit_session_world(of_users(both, other, "half B"), other, other, evaluation_config, seed)
    return TwoWorlds(training_world, paying(evaluation_world, split.test))


def halves(train: Ratings, seed: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Return two random halves of the users with a rating in `train`, as ascending rows."""
    users = np.unique(train.user)
    if len(users) < 4:
        raise DataError(f"{train.name}: {len(users)} users; two worlds need at least four")
    shuffled = generator(seed, "session worlds/halves").permutation(users)
    return np.sort(shuffled[: len(users) // 2]), np.sort(shuffled[len(users) // 2 :])


def of_users(ratings: Ratings, users: NDArray[np.integer], name: str) -> Ratings:
    """Return the ratings of these users (rows), over the same users and items."""
    return ratings.take(np.isin(ratings.user, users), name=f"{ratings.name}, {name}")


def joined(train: Ratings, test: Ratings, name: str) -> Ratings:
    """Return all ratings of a split in one table."""
    timestamp = None
    if train.timestamp is not None and test.timestamp is not None:
        timestamp = np.concatenate([train.timestamp, test.timestamp])
    return replace(
        train, user=np.concatenate([train.user, test.user]), item=np.concatenate([train.item, test.item]),
        rating=np.concatenate([train.rating, test.rating]), timestamp=timestamp, name=f"{name}, all ratings",
    )  # fmt: skip


def paying(world: SessionWorld, ratings: Ratings) -> SessionWorld:
    """Return the world that responds with the levels of these real ratings where they exist."""
    place = np.full(ratings.shape[0], -1)
    place[world.users] = np.arange(len(world.users))
    mine = place[ratings.user] >= 0
    known = np.full(world.like.shape, -1, np.int8)
    known[place[ratings.user[mine]], ratings.item[mine]] = watch_levels(ratings.rating[mine], ratings.scale)
    return replace(world, known=known, name=f"{world.name}, real ratings of {ratings.name} paid")
