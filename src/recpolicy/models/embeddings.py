"""User and item embeddings: the leading directions of a rating model's expected ratings (of its linear part).

rating[u, i] ~ offset[i] + user[u] . item[i], from the truncated singular value decomposition of the expected ratings
centered by item. Every rating model has them, and they are equal on every run. Conventions make them unique: directions
have descending singular values; the largest entry of each item direction is positive; the mean squared norm of the
users is 1. U users, I items, D directions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.memory import FEWER_CELLS, check_memory
from recpolicy.models.rating_model import Array, RatingModel


@dataclass(frozen=True)
class Embeddings:
    """rating[u, i] ~ offset[i] + user[u] . item[i]."""

    user: Array  # [U, D]
    item: Array  # [I, D]
    offset: Array  # [I] mean expected rating of the item over users
    scale: tuple[float, float]
    noise_std: float
    """Standard deviation of one rating around its expectation, from the rating model."""
    explained: float
    """Share of the centered expected ratings' variance in the D directions, 0..1."""
    item_std: Array | None = None
    """[I] standard deviation of an item's expected ratings because its embedding is uncertain; None: it is exact."""

    def __post_init__(self) -> None:
        rank = self.user.shape[-1]
        if self.user.ndim != 2 or self.item.shape != (len(self.offset), rank):
            raise DataError(
                f"embeddings: user {self.user.shape}, item {self.item.shape} and offset {self.offset.shape} must be"
                " [U, D], [I, D] and [I]"
            )

    def ratings(self) -> Array:
        """Return the expected ratings [U, I], clipped to the scale."""
        return np.clip(self.user @ self.item.T + self.offset, *self.scale)


_ITEM_SHARE = 0.5
"""Share of the variance of an expected rating that belongs to the item; the rest belongs to the user."""


def item_std(std: Array) -> Array:
    """Return the part [I] of the items in standard deviations [U, I] of expected ratings."""
    return mean_std(std) * np.float32(np.sqrt(_ITEM_SHARE))


def user_std(std: Array) -> Array:
    """Return the part [U] of the users in standard deviations [U, I] of expected ratings."""
    square = np.einsum("ui,ui->u", std, std, dtype=np.float64)
    return np.sqrt((1 - _ITEM_SHARE) * square / std.shape[1]).astype(np.float32)


def mean_std(std: Array) -> Array:
    """Return the root of the mean variance over users [I] of standard deviations [U, I]."""
    square = np.einsum("ui,ui->i", std, std, dtype=np.float64)
    return np.sqrt(square / len(std)).astype(np.float32)


_CELL_BYTES, _PAIR_BYTES = 32, 24
"""Bytes of `embed` at its peak for each user and item, and for each pair on the smaller side."""


def embed(model: RatingModel, rank: int = 20) -> Embeddings:
    """Return embeddings of at most min(U, I) directions; raises ConfigError for a rank out of range.

    Directions in which the ratings do not vary at all (a rank above that of the matrix) are zero.
    """
    if not 1 <= rank <= min(model.shape):
        users, items = model.shape
        raise ConfigError(
            f"embedding rank is {rank}; for {users} users and {items} items it must be 1..{min(users, items)}"
        )
    cells, side = model.linear.size, min(model.shape)
    check_memory(
        cells * _CELL_BYTES + side * side * _PAIR_BYTES,
        f"embeddings of {model.shape[0]:,} users x {model.shape[1]:,} items",
        FEWER_CELLS,
    )
    expected = model.linear.astype(np.float64)
    offset = expected.mean(axis=0)  # [I]
    left, singular, right = _leading(expected - offset, rank)
    total = float(np.sum(np.square(expected - offset)))
    sign = np.sign(right[np.argmax(np.abs(right), axis=0), np.arange(rank)])  # [D]
    sign[sign == 0] = 1
    user, item = left * (sign * singular), right * sign
    norm = np.sqrt(np.mean(np.sum(np.square(user), axis=1))) or 1.0
    return Embeddings(
        user=(user / norm).astype(np.float32),
        item=(item * norm).astype(np.float32),
        offset=offset.astype(np.float32),
        scale=model.scale,
        noise_std=model.noise_std,
        explained=float(np.sum(np.square(singular)) / total) if total > 0 else 1.0,
        item_std=item_std(model.std),
    )


def _leading(
    matrix: NDArray[np.float64], rank: int
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return the leading singular triplets [U, D], [D], [I, D] from the eigenvectors of the smaller Gram matrix.

    That is exact to about sqrt(float64 epsilon) of the largest singular value; smaller ones become zero.
    """
    if matrix.shape[0] < matrix.shape[1]:
        right, singular, left = _leading(matrix.T, rank)
        return left, singular, right
    _, vectors = np.linalg.eigh(matrix.T @ matrix)  # ascending
    right = vectors[:, ::-1][:, :rank]
    image = matrix @ right  # [U, D], columns of length singular
    singular = np.linalg.norm(image, axis=0)
    dead = singular <= 1e-7 * max(float(singular[0]), np.finfo(float).tiny)
    left = np.where(dead, 0.0, image / np.where(dead, 1.0, singular))
    return left, np.where(dead, 0.0, singular), np.where(dead, 0.0, right)
