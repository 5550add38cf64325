"""A loaded policy: rating estimates, recommendations and true propensities, from arrays alone (no TensorFlow).

The estimate of a movie in the policy's catalogue is the policy's own; outside it, and for policies that estimate
nothing, it is the rating model's. A user the policy does not know is folded in from a few ratings (models/fold_in.py).
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
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
from recpolicy.serving.answers import as_list, best_arms, drawn_arms, estimates_frame
from recpolicy.serving.artifact import Artifact, read_artifact
from recpolicy.serving.estimators import ESTIMATORS, Estimate, Situation
from recpolicy.serving.heads import HEADS, masked, with_floor
from recpolicy.serving.session_memory import MEMORIES, Past, Shape

FoldIn = Mapping[Hashable, Mapping[Hashable, float]]
"""New users' ratings: {user id: {movie id: rating}}."""
History = Mapping[Hashable, Sequence[tuple[Hashable, bool]]]
"""Sessions so far: {user id: [(movie id, whether it was liked), ...]}, in the order shown."""
Array = NDArray[np.floating]
_USERS_AT_ONCE = 32
"""Bounds the memory of [n, A, K] intermediates."""
_SCORES_ARE_VALUES = ("session_values", "session_table")
"""Estimators under which a session is worth the best score among the movies that may still be shown."""


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
    def sequential(self) -> bool:
        """Whether it recommends in sessions, seeing what was shown so far."""
        return "view" in self.artifact.policy

    @property
    def about(self) -> Mapping[str, Any]:
        """Where the policy comes from: agent, data, split and digests, config, seed, versions."""
        return {"agent": self.artifact.agent, **self.artifact.about}

    def predict(
        self,
        users: Hashable | Sequence[Hashable],
        movies: Sequence[Hashable] | None = None,
        fold_in: FoldIn | None = None,
        history: History | None = None,
    ) -> pd.DataFrame:
        """Rating estimates of `movies` (all by default, catalogue order) for each user, users one after the other.

        Columns: user_id, movie_id, title; rating, on the rating scale, never rounded; std, of the expected rating
        (without the noise of one rating); propensity, the probability with which the exploring policy would show this
        movie out of its whole catalogue (0 outside it); of a session policy also value, the discounted reward that it
        expects of the rest of the session. `history` tells a session policy what was shown so far; movies shown have
        propensity 0. Raises UnknownIdError that names unknown ids; users in `fold_in` ({user: {movie: rating}}) need
        not be known.
        """
        ids = as_list(users)
        blocks = self.tables(ids, movies, fold_in, history)
        rating, std, propensity, value = (np.concatenate(columns) for columns in zip(*blocks, strict=True))
        pick = self._pick(movies)
        frame = estimates_frame(ids, self._movie_ids[pick], self._titles[pick], rating, std, propensity)
        return frame.assign(value=value.repeat(rating.shape[1])) if self.sequential else frame

    def tables(
        self,
        users: Hashable | Sequence[Hashable],
        movies: Sequence[Hashable] | None = None,
        fold_in: FoldIn | None = None,
        history: History | None = None,
        at_once: int = _USERS_AT_ONCE,
    ) -> Iterator[tuple[Array, Array, Array, Array]]:
        """What `predict` makes a table of, `at_once` users at a time, so that memory does not grow with the users.

        Yields rating, std and propensity [n, M], and value [n], NaN where the policy has none. Ids are checked before
        the first block. Raises what `predict` raises.
        """
        ids = as_list(users)
        pick, past = self._pick(movies), self._pasts(ids, history)
        situations = self._situations(ids, fold_in or {}, at_once)
        return self._blocks(
            situations, [past[start : start + at_once] for start in range(0, len(ids), at_once)], pick, bool(history)
        )

    def _blocks(
        self, situations: Iterator[tuple[Array, Array]], pasts: "list[list[tuple[NDArray[np.int32], list[bool]]]]",
        pick: "slice | NDArray[np.int32]", seen: bool,
    ) -> Iterator[tuple[Array, Array, Array, Array]]:  # fmt: skip
        for (context, std), past in zip(situations, pasts, strict=True):
            allowed = np.stack([self._not_shown(shown) for shown, _ in past]) if seen else None
            if allowed is not None and not allowed.any(axis=1).all():
                raise DataError("the history shows every movie of the catalogue: there is nothing left to choose from")
            rating, spread, propensity, value = self._tables(context, std, allowed, past)
            yield rating[:, pick], spread[:, pick], propensity[:, pick], value

    def recommend(
        self,
        users: Hashable | Sequence[Hashable],
        k: int = 10,
        exclude_rated: bool = True,
        fold_in: FoldIn | None = None,
        seed: int = 0,
        history: History | None = None,
        sample: bool = False,
    ) -> pd.DataFrame:
        """The k movies that the policy values most, best first, with the columns of `predict` after a `rank`.

        With `exclude_rated`, movies that the user rated in the fit part (or in `fold_in`) are left out, and the
        propensity is that of a policy that may not show them. Ties are broken by `seed`. With `sample`, a slate drawn
        from the propensities, one movie after the other without putting back, in place of the best k. `history` tells a
        session policy what was shown so far, which is then left out. Fewer than k rows where fewer movies are left.
        """
        if k < 1:
            raise ConfigError(f"k is {k}; expected at least 1")
        ids, folded = as_list(users), fold_in or {}
        catalogue = self.artifact.catalogue
        frames = []
        situations = zip(ids, self._situations(ids, folded, at_once=1), self._pasts(ids, history), strict=True)
        for user, (context, std), past in situations:
            allowed = self._not_shown(past[0])
            if exclude_rated:
                allowed &= ~np.isin(catalogue, self._rated(user, folded))
            if not allowed.any():
                continue
            rating, spread, propensity, value = self._tables(context, std, allowed, [past])
            lot = generator(seed, f"recommend/{user}")
            if sample:
                rows = catalogue[drawn_arms(propensity[0, catalogue], k, lot)]
            else:
                score = self._estimate(context, [past])[0].score[0].astype(np.float64)
                rows = catalogue[best_arms(score, allowed, k, lot)]
            table = estimates_frame(
                [user], self._movie_ids[rows], self._titles[rows], *(x[:, rows] for x in (rating, spread, propensity))
            )
            table.insert(1, "rank", np.arange(1, len(rows) + 1))
            frames.append(table.assign(value=value[0]) if self.sequential else table)
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

    def session_scores(self, context: Array, memory: Array) -> Array:
        """Scores [n, A] of a session policy for contexts [n, D] and memories [n, M] of running sessions."""
        return ESTIMATORS[self.artifact.estimator](self.artifact.policy, self._situation(context, memory)[0]).score

    def _pasts(self, ids: list[Hashable], history: History | None) -> "list[tuple[NDArray[np.int32], list[bool]]]":
        """Per user the movie rows shown so far in the session and whether each was liked."""
        if history and not self.sequential:
            raise ConfigError(
                f"{self.artifact.agent} does not look at the session so far; leave out `history`, or train a session"
                " policy such as ppo"
            )
        pasts = [(history or {}).get(user, ()) for user in ids]
        return [(self._movie_rows([movie for movie, _ in past]), [bool(liked) for _, liked in past]) for past in pasts]

    def _not_shown(self, shown: NDArray[np.int32]) -> NDArray[np.bool_]:
        return ~np.isin(self.artifact.catalogue, shown)

    def _memory(self, context: Array, pasts: "list[tuple[NDArray[np.int32], list[bool]]]") -> Array:
        """What the policy sees of each session [n, M]."""
        arrays, rank = self.artifact.policy, self.artifact.movie.shape[1]
        genres = arrays["genres"]  # [I, G]
        shape = Shape(int(arrays["steps"]), int(arrays["last_n"]), genres.shape[1])
        remember = MEMORIES[str(arrays["view"])]
        memories = [
            remember(user[:rank], Past(self.artifact.movie[rows], genres[rows], liked), shape)
            for user, (rows, liked) in zip(context, pasts, strict=True)
        ]
        return np.stack(memories)

    def _situations(self, ids: list[Hashable], fold_in: FoldIn, at_once: int) -> Iterator[tuple[Array, Array]]:
        """(context [n, D], rating std [n, I]) of the users, `at_once` at a time; ids are checked at once."""
        unknown = [str(user) for user in ids if user not in self._user_row and user not in fold_in]
        if unknown:
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise UnknownIdError(
                f"no user with id {', '.join(unknown[:5])}{more} in this policy; give some of their ratings"
                " (fold_in; --rate on the command line)"
            )
        return (self._stacked(ids[start : start + at_once], fold_in) for start in range(0, len(ids), at_once))

    def _stacked(self, ids: list[Hashable], fold_in: FoldIn) -> tuple[Array, Array]:
        pairs = [self._fold(fold_in[user]) if user in fold_in else self._known(user) for user in ids]
        return np.stack([context for context, _ in pairs]), np.stack([std for _, std in pairs])

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

    def _estimate(
        self, context: Array, pasts: "list[tuple[NDArray[np.int32], list[bool]]] | None" = None
    ) -> tuple[Estimate, Array]:
        """The policy's estimate of its catalogue [n, A] and the rating model's of all movies [n, I]."""
        memory = None
        if self.sequential:
            memory = self._memory(context, pasts or [(np.empty(0, np.int32), [])] * len(context))
        situation, rating = self._situation(context, memory)
        return ESTIMATORS[self.artifact.estimator](self.artifact.policy, situation), rating

    def _situation(self, context: Array, memory: Array | None) -> tuple[Situation, Array]:
        artifact = self.artifact
        rating = context[:, : artifact.movie.shape[1]] @ artifact.movie.T + artifact.offset
        if self._whole:
            return Situation(context, artifact.movie, artifact.offset, rating, memory), rating
        c = artifact.catalogue
        return Situation(context, artifact.movie[c], artifact.offset[c], rating[:, c], memory), rating

    def _ratings(self, rating: Array, estimate: Estimate) -> Array:
        if self._whole:
            rating = estimate.mean
        else:
            rating[:, self.artifact.catalogue] = estimate.mean
        return np.clip(rating, *self.artifact.scale)

    def _tables(
        self, context: Array, std: Array, allowed: NDArray[np.bool_] | None,
        pasts: "list[tuple[NDArray[np.int32], list[bool]]]",
    ) -> tuple[Array, Array, Array, Array]:  # fmt: skip
        """Rating, std and propensity [n, I]; value [n], NaN where the policy has none."""
        artifact = self.artifact
        estimate, rating = self._estimate(context, pasts)
        mask = None if allowed is None else np.broadcast_to(allowed, estimate.mean.shape)
        value = np.full(len(context), np.nan) if estimate.value is None else estimate.value
        if artifact.estimator in _SCORES_ARE_VALUES:
            value = masked(estimate.score, mask).max(axis=1)
        probability = HEADS[artifact.head](estimate, artifact.settings, mask)
        probability = with_floor(probability, artifact.exploration_floor, mask)
        if self._whole:
            return self._ratings(rating, estimate), self._std(std, estimate), probability, value
        propensity = np.zeros_like(rating, dtype=np.float64)
        propensity[:, artifact.catalogue] = probability
        std = std.copy()
        std[:, artifact.catalogue] = self._std(std[:, artifact.catalogue], estimate)
        return self._ratings(rating, estimate), std, propensity, value

    def _std(self, rating_std: Array, estimate: Estimate) -> Array:
        """The rating model's std, shrunk by what was learnt since; the learner's own where it began elsewhere."""
        if estimate.remaining is not None:
            return rating_std * estimate.remaining
        return rating_std if estimate.width is None else self.artifact.noise_std * estimate.width

    def _rated(self, user: Hashable, fold_in: FoldIn) -> NDArray[np.int32]:
        if user in fold_in:
            return self._movie_rows(list(fold_in[user]))
        return self.artifact.rated_movie[self.artifact.rated_user == self._user_row[user]]

    def _pick(self, movies: Sequence[Hashable] | None) -> "slice | NDArray[np.int32]":
        """Which columns of [n, I] are asked for."""
        return slice(None) if movies is None else self._movie_rows(movies)

    def _movie_rows(self, movies: Sequence[Hashable]) -> NDArray[np.int32]:
        unknown = [str(movie) for movie in movies if movie not in self._movie_row]
        if unknown:
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise UnknownIdError(f"no movie with id {', '.join(unknown[:5])}{more} in this policy's catalogue")
        return np.array([self._movie_row[movie] for movie in movies], np.int32)


def load_policy(path: str | Path) -> Policy:
    """Load a policy artifact; raises ArtifactError for a damaged or foreign folder. Does not import TensorFlow."""
    return Policy(read_artifact(Path(path)))
