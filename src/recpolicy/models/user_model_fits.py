"""Models of how users respond, fitted on the sessions of real ratings: likes, levels, going on.

N ratings of U users, I items, S steps. Formulas: models/session_world.py. What is fitted, on users in `learn` only:

- like: log-odds = a + b (expected rating + drift x turn of interest) + weights of HISTORY, on *cross-fitted* expected
  ratings: each third of the ratings is predicted by a model fitted on the other two, because predictions of a rating
  that the model has seen are too sure (on MovieLens 100K b is 3.3 with them, 2.2 without). This is Platt's calibration;
  isotonic regression calibrated no better on u1 (ECE .012 each) and its plateaus would make ties.
- levels: continuation ratios P(5 | like), P(3 | miss), P(2 | below 3), logistic in the log-odds of a like.
- going on: a hazard, logistic in a smooth curve over steps, HISTORY, the user's number of sessions (who comes often
  stays shorter) and an effect of the user that is drawn to 0. A session longer than S says nothing about its step S
  (right-censored). Users outside `learn` get an effect drawn from the distribution of the learnt ones.

Two mechanisms are ASSUMED, for the ratings do not show them: `fatigue` (taken off the log-odds of going on, the curve
being fitted again around it so that real exposure still gives real lengths) and `drift`.
Sources: Platt 1999; continuation ratios: Tutz 1990; shrinkage of user effects: Breslow & Clayton 1993.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.seeds import generator
from recpolicy.data.rating_sessions import Sessions
from recpolicy.data.ratings import Ratings
from recpolicy.models.logistic import fit_logistic
from recpolicy.models.random_effects import RandomEffects, fit_random_effects
from recpolicy.models.rating_models import fit_rating_model
from recpolicy.models.session_history import History
from recpolicy.models.session_world import LIKE_LEVEL

Array = NDArray[np.float64]

_CURVE_STEP = 0.3  # how much the log-odds of going on are expected to change from one step to the next


@dataclass(frozen=True)
class LikeModel:
    """log-odds(like) = intercept + slope (expected rating + drift) + history . h."""

    intercept: float
    slope: float
    history: Array  # [2]

    def odds(self, expected: Array, history: History, drift: float) -> Array:
        """Log-odds [N] of ratings with expected ratings [N]."""
        turned = expected + drift * history.drift
        return self.intercept + self.slope * turned + _features(history.repeat, history.misses) @ self.history


@dataclass(frozen=True)
class ContinuationModel:
    """log-odds(go on after step s) = curve[s] + habit[u] + user[u] + history . h'."""

    curve: Array  # [S]
    habit: Array  # [U] what the number of sessions says
    user: Array  # [U] effects, 0 for users that were not learnt from
    spread: float
    """Standard deviation of the user effects."""
    history: Array  # [2] fatigue included

    def table(self, users: NDArray[np.integer], learnt: NDArray[np.bool_], rng: np.random.Generator) -> Array:
        """Log-odds [W, S] before history; users that are not `learnt` [W] get a drawn effect."""
        effect = np.where(learnt, self.user[users], self.spread * rng.standard_normal(len(users)))
        return (self.habit[users] + effect)[:, None] + self.curve


def watch_levels(rating: NDArray[np.floating], scale: tuple[float, float]) -> NDArray[np.int8]:
    """The watch fraction in quarters, 0..4, that a rating stands for."""
    low, high = scale
    return np.rint(4 * (rating.astype(np.float64) - low) / (high - low)).astype(np.int8)


def cross_fitted(fit: Ratings, model: str, model_config: object, folds: int, seed: int) -> Array:
    """Expected rating [N] of each rating by a model that was fitted on the other folds."""
    fold = generator(seed, "response/folds").permutation(len(fit)) % folds
    expected = np.empty(len(fit))
    for number in range(folds):
        held = fold == number
        part = fit.take(~held, name=f"{fit.name}, all but fold {number}")
        fitted = fit_rating_model(part, model, model_config, seed)
        expected[held] = fitted.mean[fit.user[held], fit.item[held]]
    return expected


def fit_like(expected: Array, like: NDArray[np.bool_], history: History, drift: float) -> LikeModel:
    """Fit calibration and history together on likes [N]."""
    columns = np.column_stack(
        [np.ones(len(like)), expected + drift * history.drift, _features(history.repeat, history.misses)]
    )
    weight = fit_logistic(columns, like).weight
    return LikeModel(float(weight[0]), float(weight[1]), weight[2:])


def fit_levels(odds: Array, level: NDArray[np.integer]) -> Array:
    """Intercepts and slopes [3, 2] of P(5 | like), P(3 | miss), P(2 | below 3) in the log-odds of a like [N]."""
    asked = (level >= LIKE_LEVEL, level < LIKE_LEVEL, level < LIKE_LEVEL - 1)
    answer = (level == 4, level == 2, level == 1)
    columns = np.column_stack([np.ones(len(odds)), odds])
    fits = [
        fit_logistic(columns[rows], yes[rows], penalty=np.diag([0.01, 0.01])).weight if rows.any() else np.zeros(2)
        for rows, yes in zip(asked, answer, strict=True)
    ]
    return np.stack(fits)


def fit_stay(
    sessions: Sessions, history: History, steps: int, visits: NDArray[np.integer], fatigue: tuple[float, float]
) -> ContinuationModel:
    """Fit the hazard of ending on the first S steps; history [N] is in the order of the sessions' rows.

    visits [U] is how many sessions each user has. First the weights of history are fitted as they are in the data;
    then the assumed fatigue is taken off them, they are held, and everything else is fitted again.
    """
    seen = sessions.position < steps - 1  # what happens after step S is cut off
    goes_on = (sessions.position + 1 < sessions.length[sessions.session])[seen]
    step, user = sessions.position[seen], sessions.user[sessions.session][seen]
    often = np.log(np.maximum(visits, 1))  # [U]
    often -= often[user].mean()  # so that the curve is that of a usual session
    features = _features(history.repeat, history.misses_after)[seen]
    both = np.column_stack([often[user], features])
    weight, _, _ = _hazard(step, user, both, goes_on, np.zeros(len(step)), steps)
    total = weight[1:] - np.asarray(fatigue)
    weight, curve, fit = _hazard(step, user, both[:, :1], goes_on, features @ total, steps)
    effect = np.zeros(len(visits))
    effect[np.unique(user)] = fit.effect
    return ContinuationModel(np.append(curve, curve[-1]), weight[0] * often, effect, fit.spread, total)


def _hazard(
    step: NDArray[np.intp], user: NDArray[np.int32], features: Array, outcome: NDArray[np.bool_], offset: Array,
    steps: int,
) -> tuple[Array, Array, RandomEffects]:  # fmt: skip
    """Weights of features [F], curve [S - 1], and the whole fit, whose effects are in the order of np.unique(user)."""
    wide, points = features.shape[1], steps - 1
    columns = np.column_stack([features, step[:, None] == np.arange(points)]).astype(np.float64)
    difference = np.diff(np.eye(points), axis=0) / _CURVE_STEP
    penalty = np.zeros((wide + points,) * 2)
    penalty[wide:, wide:] = difference.T @ difference
    fit = fit_random_effects(columns, outcome, user, offset, penalty)
    return fit.weight[:wide], fit.weight[wide:], fit


def _features(repeat: Array, misses: Array) -> Array:
    """HISTORY as columns [N, 2]."""
    return np.column_stack([repeat, misses])
