"""The inputs of the retention study: heads of a policy, the two environments, return times, and normalized returns.

U users, W users of a world, A items of the catalog, H heads. Heads, features and activity come from the train part. The
return model of each world is fitted on the gaps of its own users.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from recpolicy.agents.rlur import normalized_return
from recpolicy.core.seeds import generator
from recpolicy.core.types import Array, Floats
from recpolicy.data.ratings import Ratings
from recpolicy.data.splits import Split
from recpolicy.inference.predictor import Policy
from recpolicy.inference.ranking_utility import RankingUtility
from recpolicy.models.logistic import fit_logistic, sigmoid
from recpolicy.models.return_time import (
    DAY_SECONDS,
    Calibration,
    ReturnModel,
    calibration,
    fit_return_model,
    return_times_of_ratings,
)
from recpolicy.models.session_world import SessionWorld
from recpolicy.models.session_worlds import TwoWorlds

if TYPE_CHECKING:
    from recpolicy.environments.session_retention import RetentionConfig, RetentionEnvironment

HEADS = ("like", "top", "rating", "popularity", "novelty", "genre_match", "recency", "no_dislike")
"""The eight heads whose weights an agent chooses."""
SHORT_PERCENTILE = 60.0
"""Percentile of the return days below which a return is short."""


@dataclass(frozen=True)
class RetentionWorlds:
    """The environments of both worlds, with what they were fitted on."""

    training: "RetentionEnvironment"
    evaluation: "RetentionEnvironment"
    model: ReturnModel
    """Return model of the training world's users."""
    calibration: Calibration
    """Its days against the gaps of the evaluation world's users, whom it did not see."""


@dataclass(frozen=True)
class ReturnScale:
    """Costs of return days: min(day * scale[user], cap) * unit."""

    scale: Array  # [W]
    cap: float
    unit: float


def make_retention_worlds(
    policy: Policy, parts: Split, worlds: TwoWorlds, config: "RetentionConfig", seed: int = 0
) -> RetentionWorlds:
    """Return the environments in which weights of the policy's heads make the slates.

    Raises:
        DataError: No user of a world has a return within ten days, or a head has one value only.
    """
    from recpolicy.environments.session_retention import RetentionEnvironment

    times = return_times_of_ratings(parts.train)
    users = parts.train.shape[0]
    utility = RankingUtility(policy.scorer, HEADS)
    novelty = utility.heads([policy.scorer.user_ids[0]])[0, :, HEADS.index("novelty")]  # [A], alike for all users
    activity = relative_activity(parts.train, worlds.training_world.users)
    environments, models = [], []
    for name, world in (("training", worlds.training_world), ("evaluation", worlds.evaluation_world)):
        model = fit_return_model(times.of_users(world.users), users)
        personal = model.draw(world.users, generator(seed, f"retention/{name}"))
        context = np.concatenate([policy.artifact.context[world.users], activity[world.users, np.newaxis]], axis=1)
        heads = _heads(utility, world, policy.scorer.user_ids)
        items = policy.artifact.action_items
        environments.append(
            RetentionEnvironment(world, context.astype(np.float32), heads, novelty, personal, items, config)
        )
        models.append(model)
    held_out = calibration(models[0], times.of_users(worlds.evaluation_world.users))
    return RetentionWorlds(environments[0], environments[1], models[0], held_out)


def relative_activity(train: Ratings, users: NDArray[np.integer]) -> Array:
    """Return the log of each user's ratings per active day [U] over the median of `users`; 0 without ratings.

    Above 0 is high activity.
    """
    assert train.timestamp is not None  # the worlds of sessions have been fitted on it
    count = np.bincount(train.user, minlength=train.shape[0])
    days = np.unique(np.stack([train.user, train.timestamp // DAY_SECONDS]), axis=1)[0]
    active = np.bincount(days, minlength=train.shape[0])
    rate = count / np.maximum(active, 1)
    return np.asarray(np.log(np.maximum(rate, 1e-9) / np.median(rate[users])) * (count > 0), np.float64)


def plain_scale(days: Floats, users: int) -> ReturnScale:
    """Return costs in units of the mean of return days."""
    return ReturnScale(np.ones(users), 1e9, float(1 / np.mean(days)))


def normalized_scale(days: Floats, user: NDArray[np.integer], features: Floats) -> ReturnScale:
    """Return costs normalized by each user's probability of a short return, with mean 1 over the sessions given.

    The probability is a logistic regression on features of the user alone. With features of the session, which an agent
    moves, normalization would take away what the agent gains.

    Args:
        days: [N] return days of logged sessions. user: [N], 0..W-1.
        features: [W, C] of the users.
    """
    threshold = float(np.percentile(days, SHORT_PERCENTILE))
    columns = np.concatenate([np.ones((len(features), 1)), features], axis=1).astype(np.float64)
    penalty = np.diag([0.0] + [1.0] * features.shape[1])
    fit = fit_logistic(columns[user], np.asarray(days <= threshold), penalty=penalty)
    short = sigmoid(columns @ fit.weight)  # [W]
    scale = normalized_return(np.ones(len(features)), short, threshold, cap=np.inf)
    cap = 3.0
    return ReturnScale(np.asarray(scale, np.float64), cap, float(1 / np.minimum(days * scale[user], cap).mean()))


def _heads(utility: RankingUtility, world: SessionWorld, ids: Sequence[object]) -> NDArray[np.float32]:
    return utility.heads([ids[row] for row in world.users])
