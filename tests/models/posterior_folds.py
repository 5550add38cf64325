"""What tests ask of posteriors of users: all ratings at once, and the ratings that a posterior expects."""

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recpolicy.models.fold_in import check_ratings
from recpolicy.models.user_posterior import Array, RatedItems, UserPosterior, outer_triangle, pack_covariance, rate


def fold_ratings(
    posterior: UserPosterior, items: RatedItems, item: NDArray[np.integer], rating: ArrayLike
) -> UserPosterior:
    """Return one user's posterior after n ratings, one after the other; item, rating [n]."""
    item, rating = np.asarray(item, np.int64), np.asarray(rating, np.float64)
    check_ratings(items.scale, len(items.x), item, rating)
    for row, value in zip(item, rating, strict=True):
        posterior = rate(posterior, items, row, value)
    return posterior


def rating_moments(posterior: UserPosterior, items: RatedItems) -> tuple[Array, Array]:
    """Return the expected ratings [I] or [B, I], not clipped, and their variances without the noise of one rating."""
    mean = posterior.mean @ items.x.T + items.offset
    spread = pack_covariance(posterior.covariance) @ outer_triangle(items.x).T
    return mean, np.maximum(spread, 0) + items.error
