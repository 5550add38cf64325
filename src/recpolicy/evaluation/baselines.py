"""The four policies that every comparison shows: random, most popular, highest mean, rating-model greedy.

U users, I items. All are made from the train part only.

- random: all scores equal; evaluation shares ties, so this is the uniform choice itself, not one draw of it.
- most_popular: the number of training ratings of an item.
- highest_mean: (sum of ratings + m * global mean) / (count + m), the posterior mean under a normal prior worth m
  ratings. m is the variance of ratings within items over that between items: 1.01 / 0.24 = 4.2 by one-way analysis
  of variance on the train part of MovieLens 100K u1, so m = 4 unless told otherwise.
- rating_model: the expected rating of the rating model.

Random and most popular estimate no ratings; the estimate of highest_mean is its score.
"""

import numpy as np

from recpolicy.core.errors import DataError
from recpolicy.data.ratings import Ratings
from recpolicy.evaluation.policy_scores import PolicyTables
from recpolicy.models.item_mean import ItemMeanConfig, fit_item_mean
from recpolicy.models.rating_model import RatingModel

PRIOR_COUNT = 4.0


def baseline_tables(fit: Ratings, model: RatingModel, prior_count: float = PRIOR_COUNT) -> dict[str, PolicyTables]:
    """Return the tables of the four baselines by name, in the order in which comparisons show them.

    Raises DataError when the model was fitted on other ratings than `fit`: it might have seen the test part.
    """
    if model.fit_digest != fit.digest:
        raise DataError(
            f"{fit.name}: rating model {model.name!r} was fitted on other ratings (digest {model.fit_digest[:12]}, "
            f"expected {fit.digest[:12]}); fit it on the train part of this split"
        )
    popularity = np.bincount(fit.item, minlength=len(fit.items)).astype(np.float64)
    means = fit_item_mean(fit, ItemMeanConfig(damping=prior_count), seed=0).mean  # counting: the seed plays no part
    return {
        "random": PolicyTables(np.broadcast_to(0.0, fit.shape)),
        "most_popular": PolicyTables(np.broadcast_to(popularity, fit.shape)),
        "highest_mean": PolicyTables(means, rating=means),
        "rating_model": PolicyTables(model.mean, rating=model.mean),
    }
