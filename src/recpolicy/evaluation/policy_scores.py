"""Score tables of policies over U users and I items, the baselines, and the regret of a greedy policy.

The baselines are made from the train part only:

- random: all scores equal; evaluation shares ties, so this is the uniform choice itself, not one draw of it.
- most_popular: the number of training ratings of an item.
- highest_mean: (sum of ratings + m * global mean) / (count + m), the posterior mean under a normal prior worth m
  ratings. m is the variance of ratings within items over that between items: 1.01 / 0.24 = 4.2 by one-way analysis of
  variance on the train part of MovieLens 100K u1, so m = 4 by default.
- rating_model: the expected rating of the rating model.
- svd: the expected rating of the default training world. A policy that copies its simulator perfectly chooses as it
  does, so a trained policy must beat it. `baseline_tables` leaves it out; workflows/held_out_evaluation.py adds it.

Random and most popular estimate no ratings; the estimate of highest_mean is its score.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.types import Array, Floats
from recpolicy.data.ratings import Ratings
from recpolicy.models.item_mean import ItemMeanConfig, fit_item_mean
from recpolicy.models.rating_model import RatingModel

PRIOR_COUNT = 4.0


@dataclass(frozen=True)
class PolicyTables:
    """The scores of one policy for every user and item.

    Broadcast views (`np.broadcast_to(popularity, (U, I))`) are allowed: nothing writes to the tables.
    """

    score: Floats
    """[U, I], the greedy policy takes the highest, on any scale; equal scores share the choice."""
    rating: Floats | None = None
    """[U, I], rating estimates on the scale of the data; None for a policy that estimates none."""
    probability: Floats | None = None
    """[U, I], choice probabilities of a stochastic policy among a user's candidates, up to a factor per user; None
    takes the best score. A Boltzmann policy can give its probabilities over the whole catalog, because masking
    rescales them. For an epsilon-greedy policy compute them with the candidates as its mask."""


def baseline_tables(
    train: Ratings, model: RatingModel | None, prior_count: float = PRIOR_COUNT
) -> dict[str, PolicyTables]:
    """Return the tables of four baselines by name, in the order of comparisons; of three without a rating model.

    Raises DataError when the model was fitted on other ratings than `train`: it might include the test part.
    """
    if model is not None and model.train_digest != train.digest:
        raise DataError(
            f"{train.name}: rating model {model.name!r} was fitted on other ratings (digest {model.train_digest[:12]}, "
            f"expected {train.digest[:12]}); fit it on the train part of this split"
        )
    popularity = np.bincount(train.item, minlength=len(train.items)).astype(np.float64)
    means = fit_item_mean(train, ItemMeanConfig(damping=prior_count), seed=0).mean  # the seed has no effect
    return {
        "random": PolicyTables(np.broadcast_to(0.0, train.shape)),
        "most_popular": PolicyTables(np.broadcast_to(popularity, train.shape)),
        "highest_mean": PolicyTables(means, rating=means),
        # Greedy in what the embeddings come from, as the agent of this name is.
        **({} if model is None else {"rating_model": PolicyTables(model.linear, rating=model.mean)}),
    }


def regret_by_user(expected: Floats, score: Floats, rated: NDArray[np.bool_] | None = None) -> Array:
    """Return the best expected rating minus that of the best-scored item, per user.

    Expectations are known and enumerated, not sampled. Ties share the choice.

    Args:
        expected: Expected ratings [U, I].
        score: Scores [U, I] of the policy.
        rated: True [U, I] for items that are not offered, because the user has rated them already. None offers all.

    Returns:
        The regret [U'] of the users with at least one offered item, in rating units.
    """
    if rated is not None:
        users = ~rated.all(axis=1)
        score = np.where(rated[users], -np.inf, score[users])
        expected = np.where(rated[users], -np.inf, expected[users])
    best = score == score.max(axis=1, keepdims=True)
    value = np.where(best, expected, 0.0).sum(axis=1, dtype=np.float64) / best.sum(axis=1)
    return np.asarray(expected.max(axis=1) - value, np.float64)
