"""The posterior of one user's vector, moved by one rating at a time, in the space of the embeddings.

A rating of item i is r = offset_i + x_i . w + error, where w has the posterior Normal(mean, covariance) and the error
has the variance of the rating noise and of the item's expected rating (fold_in.rating_variance). One rating is a
Sherman-Morrison step: d = S x, k = 1 / (v + x . d), mean += d k (r - offset - x . mean), S -= k d d'. It costs D^2, and
a fold over the ratings ends at the posterior of models/fold_in.py in any order; in one order it repeats bit for bit.

A reward that arrives in parts moves the posterior when each part arrives: `update` at the first part, `revise` at the
later ones. That ends where one update with the whole reward ends.

All arrays are float64. B users, I items, D directions, T = D (D + 1) / 2 entries of a triangle. A leading axis B of
every argument is a batch of different users. Source: Sherman & Morrison 1950; Bishop 2006, section 3.3.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from recpolicy.core.errors import DataError
from recpolicy.models.embeddings import Embeddings
from recpolicy.models.fold_in import UserPrior, rating_variance, user_covariances, user_prior

Array = NDArray[np.float64]


@dataclass(frozen=True)
class UserPosterior:
    """The mean and covariance of a user's vector, or those of B users."""

    mean: Array  # [D] or [B, D]
    covariance: Array  # [D, D] or [B, D, D], symmetric to the last bit

    def __post_init__(self) -> None:
        if self.covariance.shape != (*self.mean.shape, self.mean.shape[-1]):
            raise DataError(
                f"user posterior: mean {self.mean.shape} and covariance {self.covariance.shape}; expected [D] and"
                " [D, D], or [B, D] and [B, D, D]"
            )


@dataclass(frozen=True)
class RatedItems:
    """The items of a rating model as observations of a user's vector."""

    x: Array  # [I, D]
    offset: Array  # [I]
    variance: Array  # [I] of a rating, given the user's vector
    error: Array  # [I] the part of `variance` that is the item's: of its expected rating
    scale: tuple[float, float]

    @classmethod
    def from_embeddings(cls, embeddings: Embeddings) -> "RatedItems":
        """Return the items of the embeddings in float64."""
        std = embeddings.item_std
        return cls(
            x=embeddings.item.astype(np.float64),
            offset=embeddings.offset.astype(np.float64),
            variance=rating_variance(embeddings, np.arange(len(embeddings.item))),
            error=np.zeros(len(embeddings.item)) if std is None else np.square(std.astype(np.float64)),
            scale=embeddings.scale,
        )


def prior_posterior(embeddings: Embeddings, prior: UserPrior | None = None) -> UserPosterior:
    """Return the posterior of a user without ratings: the population's prior, computed if it is not given."""
    prior = user_prior(embeddings) if prior is None else prior
    return UserPosterior(prior.mean, _symmetric(prior.covariance))


def trained_posterior(embeddings: Embeddings, user: NDArray[np.integer], item: NDArray[np.integer]) -> UserPosterior:
    """Return the posteriors of the U fitted users: their embeddings, and the covariances that their ratings leave.

    A covariance depends on the rated items, not on the ratings.

    Args:
        embeddings: The embeddings of U users.
        user: [N], rows of the users of the training ratings.
        item: [N], rows of the rated items.

    Returns:
        The mean [U, D] and the covariance [U, D, D].
    """
    covariance = user_covariances(embeddings, user, item, len(embeddings.user))
    return UserPosterior(embeddings.user.astype(np.float64), _symmetric(covariance))


def update(posterior: UserPosterior, x: ArrayLike, rating: ArrayLike, variance: ArrayLike) -> UserPosterior:
    """Return the posterior after one rating of each user.

    Args:
        posterior: The posterior before; of one user or of B different ones.
        x: [D] or [B, D], the embedding of the rated item.
        rating: A number or [B], the rating minus the offset of the item.
        variance: A number or [B], above 0: the variance of the rating, given the user's vector.
    """
    x, mean, covariance = np.asarray(x, np.float64), posterior.mean, posterior.covariance
    direction = _times(covariance, x)
    gain = 1 / (np.asarray(variance, np.float64) + (x * direction).sum(axis=-1))
    residual = np.asarray(rating, np.float64) - (x * mean).sum(axis=-1)
    # The product d d' is symmetric to the last bit; (k d) d' would not be.
    square = direction[..., :, np.newaxis] * direction[..., np.newaxis, :]
    return UserPosterior(
        mean + direction * (gain * residual)[..., np.newaxis],
        covariance - square * gain[..., np.newaxis, np.newaxis],
    )


def revise(posterior: UserPosterior, x: ArrayLike, change: ArrayLike, variance: ArrayLike) -> UserPosterior:
    """Return the posterior after a change of a rating that is part of it already; later ratings may be in between.

    The mean is linear in the ratings and the covariance ignores them, so this is exact.

    Args:
        posterior: The posterior; of one user or of B different ones.
        x: [D] or [B, D], the embedding of the rated item.
        change: A number or [B], the new rating minus the old one.
        variance: A number or [B], the variance that `update` got.
    """
    direction = _times(posterior.covariance, np.asarray(x, np.float64))
    share = np.asarray(change, np.float64) / np.asarray(variance, np.float64)
    return UserPosterior(posterior.mean + direction * share[..., np.newaxis], posterior.covariance)


def rate(
    posterior: UserPosterior, items: RatedItems, item: Any, rating: ArrayLike, before: ArrayLike | None = None
) -> UserPosterior:
    """Return the posterior after a rating of an item.

    Args:
        posterior: The posterior; of one user or of B different ones.
        items: The items of the rating model.
        item: Row of the item, or rows [B].
        rating: A number or [B], on the scale.
        before: The rating of the same item that is part of the posterior; None: there is none.
    """
    x, variance = items.x[item], items.variance[item]
    if before is None:
        return update(posterior, x, np.asarray(rating, np.float64) - items.offset[item], variance)
    return revise(posterior, x, np.asarray(rating, np.float64) - np.asarray(before, np.float64), variance)


def pack(posterior: UserPosterior) -> Array:
    """Return the posterior as one vector [D + T] or [B, D + T]: the mean, then the upper triangle by rows."""
    return np.concatenate([posterior.mean, pack_covariance(posterior.covariance)], axis=-1)


def unpack(packed: NDArray[np.floating], rank: int) -> UserPosterior:
    """Return the posterior of packed vectors [D + T] or [B, D + T] of D = `rank` directions."""
    if packed.shape[-1] != packed_size(rank):
        raise DataError(f"user posterior: {packed.shape[-1]} numbers; {rank} directions need {packed_size(rank)}")
    wide = np.asarray(packed, np.float64)
    return UserPosterior(wide[..., :rank].copy(), unpack_covariance(wide[..., rank:], rank))


def packed_size(rank: int) -> int:
    """Return the length D + T of a packed posterior of D = `rank` directions."""
    return rank + rank * (rank + 1) // 2


def pack_covariance(covariance: NDArray[Any]) -> NDArray[Any]:
    """Return the upper triangles [..., T] of covariances [..., D, D], row after row."""
    rows, columns = np.triu_indices(covariance.shape[-1])
    return covariance[..., rows, columns]


def unpack_covariance(packed: NDArray[Any], rank: int) -> NDArray[Any]:
    """Return the covariances [..., D, D] of upper triangles [..., T]."""
    rows, columns = np.triu_indices(rank)
    covariance = np.empty((*packed.shape[:-1], rank, rank), packed.dtype)
    covariance[..., rows, columns] = covariance[..., columns, rows] = packed
    return covariance


def outer_triangle(x: NDArray[Any]) -> NDArray[Any]:
    """Return the upper triangles [..., T] of x x', off-diagonals doubled: x' S x = pack_covariance(S) . that."""
    rows, columns = np.triu_indices(x.shape[-1])
    return x[..., rows] * x[..., columns] * np.where(rows == columns, 1, 2).astype(x.dtype)


def _times(covariance: Array, x: Array) -> Array:
    """Return S x [D] or [B, D]; one user of a batch gets the bits of a single one."""
    return np.matmul(covariance, x[..., np.newaxis])[..., 0]


def _symmetric(covariance: Array) -> Array:
    return (covariance + np.swapaxes(covariance, -1, -2)) / 2
