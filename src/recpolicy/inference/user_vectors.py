"""Vectors of users that a policy was not trained with, or that it was and who have rated since.

An unknown user starts at the population's prior. A known one starts at the trained embedding, with the covariance that
the ratings of the training leave. Each rating then moves the posterior of this user only (models/user_posterior.py).

I items, D directions, C context columns of which the first D are the embedding.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from recpolicy.inference.artifact import PolicyParts
from recpolicy.models.embeddings import Embeddings
from recpolicy.models.fold_in import expected_variance, user_covariances, user_prior
from recpolicy.models.user_posterior import RatedItems, UserPosterior, prior_posterior

Floats = NDArray[np.float32]
Rows = NDArray[np.int32]
_NO_ROWS = np.empty(0, np.int32)


@dataclass(frozen=True, eq=False)
class LearnedUser:
    """The input of a prediction for a user who is described by a posterior."""

    context: Floats  # [C]
    std: Floats  # [I] of the expected rating
    rating: Floats  # [I] expected rating
    rated: Rows  # item rows that the user has rated
    liked: Rows  # item rows that explain others: rated above the middle of the scale, or rated in the training


class PolicyTables(Protocol):
    """The tables of a policy that posteriors of users need; a Scorer has them."""

    scale: tuple[float, float]

    @property
    def artifact(self) -> PolicyParts:
        """The arrays of the policy."""

    @property
    def embeddings(self) -> Embeddings:
        """The embeddings of the rating model."""

    def user_row(self, user: Hashable) -> int | None:
        """Return the row of a user; None for an unknown one."""

    def find_item(self, item: Hashable) -> int | None:
        """Return the row of an item; None for an unknown one."""

    def rated(self, user: Hashable) -> Rows:
        """Return the item rows that the user rated in the training."""

    def context_of(self, posterior: UserPosterior, row: int | None) -> Floats:
        """Return the context [C] of a user with a posterior."""


class UserVectors:
    """The posteriors of users under one policy; several threads may share it."""

    def __init__(self, scorer: PolicyTables):
        self._scorer = scorer
        self.token = object()
        """Stands for this policy as part of a key, without keeping its arrays."""
        self.items = RatedItems.from_embeddings(scorer.embeddings)
        self._prior = user_prior(scorer.embeddings)
        self._unknown = prior_posterior(scorer.embeddings, self._prior)

    @property
    def rank(self) -> int:
        """D, the directions of the embeddings."""
        return self.items.x.shape[1]

    def start(self, user: Hashable) -> UserPosterior:
        """Return the posterior of a user before the first rating that the training lacks."""
        row = self._scorer.user_row(user)
        if row is None:
            return self._unknown
        rated = self._scorer.rated(user)
        embeddings = self._scorer.embeddings
        covariance = user_covariances(embeddings, np.zeros(len(rated), np.int32), rated, 1, self._prior)[0]
        mean = embeddings.user[row].astype(np.float64)
        return UserPosterior(mean, (covariance + covariance.T) / 2)

    def trained_rows(self, user: Hashable) -> frozenset[int]:
        """Return the rows of the items of which the training has the user's rating."""
        return frozenset(self._scorer.rated(user).tolist())

    def item_row(self, item: Hashable, rating: float) -> int | None:
        """Return the row of a rated item; None if the policy lacks the item, or the rating is off its scale."""
        low, high = self.items.scale
        return self._scorer.find_item(item) if low <= rating <= high else None

    @cached_property
    def unknown_user(self) -> LearnedUser:
        """The input for a user without any rating."""
        return self.describe(None, self._unknown, _NO_ROWS, np.empty(0))

    def describe(
        self, user: Hashable, posterior: UserPosterior, rows: Rows, ratings: NDArray[np.float64]
    ) -> LearnedUser:
        """Return the input for a user with a posterior.

        A known user keeps the rating model's ratings and std where the posterior has not moved: what the training knows
        beyond the vector stays, and the change of the vector is added.

        Args:
            user: Id of the user; None for an unknown one.
            posterior: The posterior after the ratings.
            rows: [n], item rows of the ratings that moved it.
            ratings: [n], on the scale.
        """
        scorer, embeddings = self._scorer, self._scorer.embeddings
        row = None if user is None else scorer.user_row(user)
        vector = posterior.mean.astype(np.float32)
        context = scorer.context_of(posterior, row)
        variance = expected_variance(embeddings, posterior.covariance.astype(np.float32))
        rating = vector @ embeddings.item.T + embeddings.offset
        liked = rows[ratings > sum(scorer.scale) / 2]
        if row is None:
            return LearnedUser(context, np.sqrt(variance), rating, rows, liked)
        trained = expected_variance(embeddings, self.start(user).covariance.astype(np.float32))
        ratio = np.sqrt(variance / np.where(trained > 0, trained, 1))
        mean = scorer.artifact.rating_mean
        if mean is not None:
            rating = mean[row] + (vector - embeddings.user[row]) @ embeddings.item.T
        known = scorer.rated(user)
        return LearnedUser(
            context, scorer.artifact.rating_std[row] * np.minimum(ratio, 1), rating,
            np.concatenate([known, rows]), np.concatenate([known, liked]),
        )  # fmt: skip
