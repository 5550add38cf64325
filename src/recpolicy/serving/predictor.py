"""A loaded policy: rating estimates, recommendations and true propensities, from arrays alone (no TensorFlow).

The estimate of a movie in the policy's catalogue is the policy's own; outside it, and for policies that estimate
nothing, it is the rating model's. A user the policy does not know is folded in from a few ratings (models/fold_in.py).
"""

from collections.abc import Hashable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError, UnknownIdError
from recpolicy.core.seeds import generator
from recpolicy.models.embeddings import Embeddings
from recpolicy.models.fold_in import fold_in_user
from recpolicy.serving.artifact import Artifact, read_artifact
from recpolicy.serving.estimators import ESTIMATORS, Estimate, Situation
from recpolicy.serving.heads import HEADS, with_floor

FoldIn = Mapping[Hashable, Mapping[Hashable, float]]
"""New users' ratings: {user id: {movie id: rating}}."""
Array = NDArray[np.floating]
_USERS_AT_ONCE = 32
"""Bounds the memory of [n, A, K] intermediates."""


class Policy:
    """A trained policy that predicts and recommends; made by `load_policy`."""

    def __init__(self, artifact: Artifact):
        self.artifact = artifact
        rank = artifact.movie.shape[1]
        self._user_row = {user: row for row, user in enumerate(artifact.users["user_id"].tolist())}
        self._movie_row = {movie: row for row, movie in enumerate(artifact.movies["movie_id"].tolist())}
        self._movie_ids = artifact.movies["movie_id"].array
        self._titles = artifact.movies["title"].array
        self._whole = len(artifact.catalogue) == len(artifact.movies) and bool(
            (artifact.catalogue == np.arange(len(artifact.movies))).all()
        )
        embedding = Embeddings(
            artifact.context[:, :rank],
            artifact.movie,
            artifact.offset,
            artifact.scale,
            artifact.noise_std,
            float("nan"),
        )
        self._embeddings = embedding

    @property
    def about(self) -> Mapping[str, Any]:
        """Where the policy comes from: agent, data, split and digests, config, seed, versions."""
        return {"agent": self.artifact.agent, **self.artifact.about}

    def predict(
        self,
        users: Hashable | Sequence[Hashable],
        movies: Sequence[Hashable] | None = None,
        fold_in: FoldIn | None = None,
    ) -> pd.DataFrame:
        """Rating estimates of `movies` (all by default, catalogue order) for each user, users one after the other.

        Columns: user_id, movie_id, title; rating, on the rating scale, never rounded; std, of the expected rating
        (without the noise of one rating); propensity, the probability with which the exploring policy would show this
        movie out of its whole catalogue (0 outside it). Raises UnknownIdError that names unknown ids; users in
        `fold_in` ({user: {movie: rating}}) need not be known.
        """
        ids = _as_list(users)
        rows = None if movies is None else self._movie_rows(movies)
        parts = [self._tables(context, std, None) for context, std in self._situations(ids, fold_in or {})]
        rating, std, propensity = (np.concatenate(columns) for columns in zip(*parts, strict=True))
        pick = slice(None) if rows is None else rows
        shown = self._movie_ids[pick], self._titles[pick]
        return _frame(ids, *shown, rating[:, pick], std[:, pick], propensity[:, pick])

    def recommend(
        self,
        users: Hashable | Sequence[Hashable],
        k: int = 10,
        exclude_rated: bool = True,
        fold_in: FoldIn | None = None,
        seed: int = 0,
    ) -> pd.DataFrame:
        """The k movies that the policy values most, best first, with the columns of `predict` after a `rank`.

        With `exclude_rated`, movies that the user rated in the fit part (or in `fold_in`) are left out, and the
        propensity is that of a policy that may not show them. Ties are broken by `seed`. Fewer than k rows where
        fewer movies are left.
        """
        if k < 1:
            raise ConfigError(f"k is {k}; expected at least 1")
        ids, folded = _as_list(users), fold_in or {}
        catalogue = self.artifact.catalogue
        frames = []
        for user, (context, std) in zip(ids, self._situations(ids, folded, at_once=1), strict=True):
            allowed = np.ones(len(catalogue), bool)
            if exclude_rated:
                allowed = ~np.isin(catalogue, self._rated(user, folded))
            if not allowed.any():
                continue
            rating, spread, propensity = self._tables(context, std, allowed)
            score = self._estimate(context)[0].score[0].astype(np.float64)
            tie = generator(seed, f"recommend/{user}").random(len(score))
            order = np.lexsort((tie, -np.where(allowed, score, -np.inf)))[: min(k, int(allowed.sum()))]
            rows = catalogue[order]
            table = _frame(
                [user], self._movie_ids[rows], self._titles[rows], *(x[:, rows] for x in (rating, spread, propensity))
            )
            table.insert(1, "rank", np.arange(1, len(rows) + 1))
            frames.append(table)
        if not frames:
            raise DataError("nothing to recommend: the users have rated every movie; use exclude_rated=False")
        return pd.concat(frames, ignore_index=True)

    def scores(self) -> tuple[Array, Array]:
        """Exploit scores [U, I] and rating estimates [U, I] of all users: what evaluation reads.

        Outside the catalogue the score is the lowest in the catalogue: the policy would not choose the movie.
        """
        movies = len(self.artifact.movies)
        scores, ratings = [], []
        for start in range(0, len(self.artifact.context), _USERS_AT_ONCE):
            context = self.artifact.context[start : start + _USERS_AT_ONCE]
            estimate, rating = self._estimate(context)
            score = np.repeat(estimate.score.min(axis=1, keepdims=True), movies, axis=1)
            score[:, self.artifact.catalogue] = estimate.score
            scores.append(score)
            ratings.append(self._ratings(rating, estimate))
        return np.concatenate(scores), np.concatenate(ratings)

    def _situations(
        self, ids: list[Hashable], fold_in: FoldIn, at_once: int = _USERS_AT_ONCE
    ) -> "list[tuple[Array, Array]]":
        """(context [n, D], rating std [n, I]) of the users, `at_once` at a time."""
        unknown = [str(user) for user in ids if user not in self._user_row and user not in fold_in]
        if unknown:
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise UnknownIdError(
                f"no user with id {', '.join(unknown[:5])}{more} in this policy; give some of their ratings"
                " (fold_in; --rate on the command line)"
            )
        parts = []
        for start in range(0, len(ids), at_once):
            pairs = [
                self._fold(fold_in[user]) if user in fold_in else self._known(user)
                for user in ids[start : start + at_once]
            ]
            parts.append((np.stack([context for context, _ in pairs]), np.stack([std for _, std in pairs])))
        return parts

    def _known(self, user: Hashable) -> tuple[Array, Array]:
        row = self._user_row[user]
        return self.artifact.context[row], self.artifact.rating_std[row]

    def _fold(self, ratings: Mapping[Hashable, float]) -> tuple[Array, Array]:
        rows = self._movie_rows(list(ratings))
        embedding, covariance = fold_in_user(self._embeddings, rows, np.array(list(ratings.values()), np.float64))
        # Demographics are unknown: those of the average user stand in.
        rest = self._mean_context[len(embedding) :]
        movie = self.artifact.movie
        std = np.sqrt(np.maximum(((movie @ covariance) * movie).sum(axis=1), 0.0))
        return np.concatenate([embedding, rest]), std

    @cached_property
    def _mean_context(self) -> Array:
        return np.asarray(self.artifact.context.mean(axis=0))

    def _estimate(self, context: Array) -> tuple[Estimate, Array]:
        """The policy's estimate of its catalogue [n, A] and the rating model's of all movies [n, I]."""
        artifact = self.artifact
        rating = context[:, : artifact.movie.shape[1]] @ artifact.movie.T + artifact.offset
        if self._whole:
            situation = Situation(context, artifact.movie, artifact.offset, rating)
        else:
            c = artifact.catalogue
            situation = Situation(context, artifact.movie[c], artifact.offset[c], rating[:, c])
        return ESTIMATORS[artifact.estimator](artifact.policy, situation), rating

    def _ratings(self, rating: Array, estimate: Estimate) -> Array:
        if self._whole:
            rating = estimate.mean
        else:
            rating[:, self.artifact.catalogue] = estimate.mean
        return np.clip(rating, *self.artifact.scale)

    def _tables(self, context: Array, std: Array, allowed: NDArray[np.bool_] | None) -> tuple[Array, Array, Array]:
        """Rating, std and propensity [n, I]."""
        artifact = self.artifact
        estimate, rating = self._estimate(context)
        mask = None if allowed is None else np.broadcast_to(allowed, estimate.mean.shape)
        probability = HEADS[artifact.head](estimate, artifact.settings, mask)
        probability = with_floor(probability, artifact.exploration_floor, mask)
        if self._whole:
            return self._ratings(rating, estimate), self._std(std, estimate), probability
        propensity = np.zeros_like(rating, dtype=np.float64)
        propensity[:, artifact.catalogue] = probability
        std = std.copy()
        std[:, artifact.catalogue] = self._std(std[:, artifact.catalogue], estimate)
        return self._ratings(rating, estimate), std, propensity

    def _std(self, rating_std: Array, estimate: Estimate) -> Array:
        """The rating model's std, shrunk by what was learnt since; the learner's own where it began elsewhere."""
        if estimate.remaining is not None:
            return rating_std * estimate.remaining
        return rating_std if estimate.width is None else self.artifact.noise_std * estimate.width

    def _rated(self, user: Hashable, fold_in: FoldIn) -> NDArray[np.int32]:
        if user in fold_in:
            return self._movie_rows(list(fold_in[user]))
        return self.artifact.rated_movie[self.artifact.rated_user == self._user_row[user]]

    def _movie_rows(self, movies: Sequence[Hashable]) -> NDArray[np.int32]:
        unknown = [str(movie) for movie in movies if movie not in self._movie_row]
        if unknown:
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise UnknownIdError(f"no movie with id {', '.join(unknown[:5])}{more} in this policy's catalogue")
        return np.array([self._movie_row[movie] for movie in movies], np.int32)


def load_policy(path: str | Path) -> Policy:
    """Load a policy artifact; raises ArtifactError for a damaged or foreign folder. Does not import TensorFlow."""
    return Policy(read_artifact(Path(path)))


def _as_list(users: Any) -> list[Hashable]:
    """One id or a sequence of them; NumPy scalars become plain, for they are looked up in a dict."""
    if isinstance(users, str) or not hasattr(users, "__iter__"):
        users = [users]
    ids = [user.item() if isinstance(user, np.generic) else user for user in users]
    if not ids:
        raise DataError("no users given; expected at least one user id")
    return ids


def _frame(
    ids: list[Hashable], movie_ids: Any, titles: Any, rating: Array, std: Array, propensity: Array
) -> pd.DataFrame:
    users, movies = rating.shape
    one = users == 1
    return pd.DataFrame(
        {
            "user_id": pd.Index(ids).repeat(movies),  # ids of several types stay what they are
            "movie_id": movie_ids if one else np.tile(np.asarray(movie_ids), users),
            "title": titles if one else np.tile(np.asarray(titles, dtype=object), users),
            "rating": rating.ravel(),
            "std": std.ravel(),
            "propensity": propensity.ravel(),
        },
        copy=False,
    )
