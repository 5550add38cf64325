"""Fit a SessionWorld on real ratings: a rating model for the preferences and models of the users' responses.

U users, I items, W simulated users. user_model_fits.py fits the parts and documents their data.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from recpolicy.core.config import Folds, NonNegativeNumber, PositiveFraction, PositiveNumber, Size, config_dataclass
from recpolicy.core.errors import DataError
from recpolicy.core.seeds import generator, integer_seed
from recpolicy.core.types import Array
from recpolicy.data.rating_sessions import GAP_MINUTES, split_into_sessions
from recpolicy.data.ratings import Ratings, genre_matrix
from recpolicy.models.embeddings import embed
from recpolicy.models.own_like_model import HistoryFit, OwnLikeModel, fit_history
from recpolicy.models.rating_model import RatingModel
from recpolicy.models.rating_models import fit_rating_model
from recpolicy.models.session_history import History, Preferences, compute_history
from recpolicy.models.session_world import LIKE_LEVEL, SessionWorld
from recpolicy.models.user_model_fits import (
    ContinuationModel,
    LikeModel,
    cross_fitted,
    fit_levels,
    fit_like,
    fit_stay,
    level_watch,
    watch_levels,
)

logger = logging.getLogger(__name__)

_FEW_ITEMS = 1.5
"""Ratings in a session, on average, below which there are hardly any sessions."""


@config_dataclass
class SessionWorldConfig:
    """Settings of a simulated world of sessions."""

    gap_minutes: PositiveNumber = GAP_MINUTES
    """A longer pause between two ratings of a user ends the session."""
    max_steps: Annotated[int, Field(ge=2, le=10**6)] = 20
    """Largest number S of items in a session; longer real sessions are right-censored there."""
    rating_model: str = "svd"
    """Rating model of the preferences, a name in RATING_MODELS."""
    rating_model_config: Mapping[str, Any] | None = None
    """Settings of the rating model; None uses its defaults."""
    folds: Folds = 3
    """Number of cross-fitting folds for the calibration of likes."""
    rank: Size = 20
    """Length D of the interests; at most the number of users with ratings and of items."""
    drift: NonNegativeNumber = 0.25
    """ASSUMED: weight of a point of expected rating from changed interest, relative to one of the rating model; 0
    disables drift. Real rating sessions show no drift: a freely fitted weight is negative (-0.8 on u1)."""
    fatigue_genre: NonNegativeNumber = 4.0
    """ASSUMED: decrease of the log-odds of continuing per unit of genre repeat; 0 disables it."""
    fatigue_misses: NonNegativeNumber = 2.0
    """ASSUMED: decrease of the log-odds of continuing at five consecutive misses, a fifth for each; 0 disables it."""
    interest_decay: PositiveFraction = 0.9
    """Share of the old interest that remains after a like."""
    genre_decay: Annotated[float, Field(ge=0, lt=1)] = 0.7
    """Share of the remembered genres that remains after each shown item."""

    @property
    def fatigue(self) -> tuple[float, float]:
        """The two assumed weights in the order of HISTORY."""
        return self.fatigue_genre, self.fatigue_misses


@dataclass(frozen=True)
class UserModel:
    """The fitted response models, from which world_from_user_model computes the tables of given users."""

    model: RatingModel
    expected: NDArray[np.float64]
    """[N] cross-fitted expected rating of each rating of the train part; of an own like model, its preference."""
    tastes: Preferences
    like: LikeModel
    levels: NDArray[np.float64]  # [3, 2]
    stay: ContinuationModel
    learn: NDArray[np.bool_]  # [U] users on whom all parts but the rating model were fitted
    name: str
    """Rating model and its ratings, for reports."""
    drift: float
    """Weight of changed interest in points of expected rating."""
    fatigue: tuple[float, float]
    preference: NDArray[np.floating]
    """[U, I] of the rating model, its expected ratings; of an own like model, its log-odds with an empty history."""
    usual_context: Array
    """[U] mean log-odds of the contexts in which each user is; 0 for ratings."""
    watch: tuple[float, ...]
    """Watch fraction of each level."""
    history_fit: HistoryFit | None = None
    """The approximation of an own like model's dependence on the history."""

    def like_odds(
        self, user: NDArray[np.integer], item: NDArray[np.integer], history: History, context: NDArray[Any] | None
    ) -> Array:
        """Return the log-odds [N] of a like of these pairs of rows, in their contexts if there are any."""
        odds = self.like.odds(self.preference[user, item].astype(np.float64), history, self.drift)
        return odds + self.like.context_odds(context)


def fit_user_model(
    train: Ratings,
    learn: NDArray[np.integer],
    config: SessionWorldConfig | None = None,
    seed: int = 0,
    like_model: OwnLikeModel | None = None,
) -> UserModel:
    """Fit the rating model on all of `train`, everything else on the sessions of the users (rows) in `learn`.

    A like model of your own replaces the fitted one; the rating model then only moves the interest.

    Raises DataError without timestamps or without ratings of those users.
    """
    config = config or SessionWorldConfig()
    chosen = np.zeros(train.shape[0], bool)
    chosen[learn] = True
    rows = np.flatnonzero(chosen[train.user])
    if not len(rows):
        raise DataError(f"{train.name}: none of the {len(learn)} users to learn from has a rating")
    part = train.take(rows)
    visits = np.bincount(split_into_sessions(train, config.gap_minutes).user, minlength=train.shape[0])  # [U]
    sessions = split_into_sessions(part, config.gap_minutes)
    if len(part) < _FEW_ITEMS * len(sessions):
        logger.warning(
            "%s: a session has %.1f ratings on average (gaps of up to %g minutes): the timestamps show hardly any"
            " sessions, so session agents learn little beyond a single choice",
            train.name, len(part) / len(sessions), config.gap_minutes,
        )  # fmt: skip
    model_seed = integer_seed(seed, "session world")
    model = fit_rating_model(train, config.rating_model, config.rating_model_config, model_seed)
    tastes = compute_preferences(model, train, config)
    level = watch_levels(part.rating, train.scale)
    like = level >= LIKE_LEVEL

    blocks = sessions.cut(config.max_steps)  # history is never longer than a simulated session
    history = compute_history(blocks, part.item[blocks.rows], like[blocks.rows], tastes)
    contexts = None if part.context is None else part.context[blocks.rows]
    name, preference, drift, history_fit = f"{config.rating_model} on {train.name}", model.mean, config.drift, None
    if like_model is None:
        crossed = cross_fitted(train, config.rating_model, config.rating_model_config, config.folds, model_seed)
        expected = crossed[rows][blocks.rows]
        liking = fit_like(expected, like[blocks.rows], history, drift, contexts)
    else:
        name, preference = f"{like_model.name} as like model on {train.name}", like_model.start_odds
        crossed = preference[train.user, train.item].astype(np.float64)
        expected = crossed[rows][blocks.rows]
        past = like_model.session_odds(part, blocks, like[blocks.rows], config.max_steps)
        history_fit = fit_history(past, expected, history)
        liking, drift = LikeModel(0.0, 1.0, history_fit.weights), history_fit.drift
    return UserModel(
        model=model,
        expected=crossed,
        tastes=tastes,
        like=liking,
        levels=fit_levels(liking.odds(expected, history, drift) + liking.context_odds(contexts), level[blocks.rows]),
        stay=fit_stay(sessions, history, config.max_steps, visits, config.fatigue),
        learn=chosen,
        name=name,
        drift=drift,
        fatigue=config.fatigue,
        preference=preference,
        usual_context=_usual_context(train, liking),
        watch=level_watch(level, part.watch),
        history_fit=history_fit,
    )


def _usual_context(train: Ratings, like: LikeModel) -> Array:
    """Return the mean log-odds [U] of each user's contexts; 0 without contexts."""
    odds = np.broadcast_to(like.context_odds(train.context), (len(train),))
    users = train.shape[0]
    count = np.bincount(train.user, minlength=users)
    return np.bincount(train.user, odds, users) / np.maximum(count, 1)


def fit_session_world(
    train: Ratings,
    learn: NDArray[np.integer],
    simulate: NDArray[np.integer],
    config: SessionWorldConfig | None = None,
    seed: int = 0,
    like_model: OwnLikeModel | None = None,
) -> SessionWorld:
    """Fit the response models as `fit_user_model` does and return the world of the users (rows) in `simulate`.

    A user who is not in `learn` continues like a random user of `learn`.
    """
    return world_from_user_model(fit_user_model(train, learn, config, seed, like_model), simulate, seed)


def world_from_user_model(responses: UserModel, simulate: NDArray[np.integer], seed: int) -> SessionWorld:
    """Return a world with the tables of the users (rows) in `simulate`, [W]."""
    users = np.unique(simulate)
    like, tastes = responses.like, responses.tastes
    rng = generator(seed, "session world/stay")
    single, usual = np.float32, responses.usual_context[users, np.newaxis]
    return SessionWorld(
        name=responses.name,
        users=users.astype(np.int32),
        like=(like.intercept + like.slope * responses.preference[users] + usual).astype(single),
        slope=like.slope * responses.drift,
        interest=tastes.interest[users],
        direction=tastes.direction,
        like_history=like.history.astype(single),
        stay=responses.stay.table(users, responses.learn[users], rng).astype(single),
        stay_history=responses.stay.history.astype(single),
        fatigue=responses.fatigue,
        levels=responses.levels.astype(single),
        genres=tastes.genres,
        interest_decay=tastes.interest_decay,
        genre_decay=tastes.genre_decay,
        scale=responses.model.scale,
        watch=responses.watch,
    )


def compute_preferences(model: RatingModel, train: Ratings, config: SessionWorldConfig) -> Preferences:
    """Return interests and directions from the embeddings of the users with ratings; other users have interest 0."""
    rated = np.unique(train.user)
    part = replace(model, mean=model.mean[rated], std=model.std[rated])
    embeddings = embed(part, min(config.rank, *part.shape))
    interest = np.zeros((train.shape[0], embeddings.user.shape[1]), np.float32)
    interest[rated] = embeddings.user
    _, genres = genre_matrix(train.items)
    length = np.linalg.norm(genres, axis=1, keepdims=True)
    rows = (genres / np.where(length > 0, length, 1)).astype(np.float32)
    return Preferences(interest, embeddings.item, rows, config.interest_decay, config.genre_decay)
