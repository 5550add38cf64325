"""The two worlds of sessions: one for training, one for evaluation.

World A simulates one half of the users by a matrix factorization of their training ratings. World B simulates the other
half by item neighbors fitted on all their ratings, test included, and pays the levels of real test ratings. The worlds
have no user, rating or model class in common, so a gain in A but not in B is an artifact of the simulator.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.seeds import generator
from recpolicy.data.ratings import Ratings
from recpolicy.data.splits import Split
from recpolicy.models.own_like_model import OwnLikeModel
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


def fit_two_worlds(
    split: Split, config: SessionWorldConfig | None = None, seed: int = 0, like_model: OwnLikeModel | None = None
) -> TwoWorlds:
    """Fit both worlds; `config` is world A's, and B's with the rating model `EVALUATION_MODEL` at its defaults.

    A like model of your own replaces the fitted ones in both worlds, so the gap between them says nothing about it.

    Raises DataError without timestamps or with fewer than four users in the train part.
    """
    config = config or SessionWorldConfig()
    half, other = halves(split.train, seed)
    training_world = fit_session_world(of_users(split.train, half, "half A"), half, half, config, seed, like_model)
    return TwoWorlds(training_world, _fit_evaluation_world(split, other, "half B", config, seed, like_model))


def fit_evaluation_worlds(
    split: Split, worlds: int, config: SessionWorldConfig | None = None, seed: int = 0,
    like_model: OwnLikeModel | None = None,
) -> list[SessionWorld]:  # fmt: skip
    """Return evaluation worlds that are fitted on random halves of world B's users and simulate these users.

    Half-samples without replacement: the variance of a mean, or of a fitted model, over half-samples of n users is
    that of the full sample of n users (the delete-d jackknife with d = n / 2). Users drawn twice, as in a bootstrap,
    would be perfect neighbors of each other in the item-neighbor model. Source: Shao & Wu 1989.

    Args:
        split: The split, with timestamps.
        worlds: Number of worlds, 2 or more.
        config: As for `fit_two_worlds`.
        seed: Seed of `fit_two_worlds`: the users are those of its evaluation world.
        like_model: A like model of your own, the same in all worlds.

    Raises:
        ConfigError: Fewer than two worlds.
        DataError: No timestamps, or too few users.
    """
    if worlds < 2:
        raise ConfigError(f"worlds is {worlds}; an interval needs 2 or more")
    config = config or SessionWorldConfig()
    _, other = halves(split.train, seed)
    if len(other) < 4:
        raise DataError(f"{split.train.name}: {len(other)} users in the evaluation world; half-samples need four")
    fitted = []
    for number in range(worlds):
        drawn = generator(seed, f"session worlds/half-sample {number}").permutation(other)[: len(other) // 2]
        fitted.append(
            _fit_evaluation_world(split, np.sort(drawn), f"half-sample {number} of half B", config, seed, like_model)
        )
    return fitted


def _fit_evaluation_world(
    split: Split, users: NDArray[np.int32], name: str, config: SessionWorldConfig, seed: int,
    like_model: OwnLikeModel | None,
) -> SessionWorld:  # fmt: skip
    """Return the world of these users, from all their ratings; it pays the levels of their real test ratings."""
    both = joined(split.train, split.test, split.name)
    config = replace(config, rating_model=EVALUATION_MODEL, rating_model_config=None)
    world = fit_session_world(of_users(both, users, name), users, users, config, seed, like_model)
    return paying(world, split.test)


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
    timestamp, watch, context = (
        None if first is None or second is None else np.concatenate([first, second])
        for first, second in (
            (train.timestamp, test.timestamp),
            (train.watch, test.watch),
            (train.context, test.context),
        )
    )
    return replace(
        train, user=np.concatenate([train.user, test.user]), item=np.concatenate([train.item, test.item]),
        rating=np.concatenate([train.rating, test.rating]), timestamp=timestamp, name=f"{name}, all ratings",
        watch=watch, context=context,
    )  # fmt: skip


def paying(world: SessionWorld, ratings: Ratings) -> SessionWorld:
    """Return the world that responds with the levels of these real ratings where they exist."""
    place = np.full(ratings.shape[0], -1)
    place[world.users] = np.arange(len(world.users))
    mine = place[ratings.user] >= 0
    known = np.full(world.like.shape, -1, np.int8)
    known[place[ratings.user[mine]], ratings.item[mine]] = watch_levels(ratings.rating[mine], ratings.scale)
    return replace(world, known=known, name=f"{world.name}, real ratings of {ratings.name} paid")
