"""Models of user responses, fitted on the sessions of real ratings: likes, levels, continuation.

N ratings of U users, I items, S steps. Formulas: models/session_world.py. The parts, fitted on users in `learn` only:

- like: log-odds = a + b (expected rating + drift x turn of interest) + weights of HISTORY, on *cross-fitted* expected
ratings: a model fitted on two thirds of the ratings predicts the other third. Predictions on training ratings are
overconfident (on MovieLens 100K they give b = 3.3 instead of 2.2). This is Platt's calibration;
  isotonic regression was not better calibrated on u1 (ECE .012 each), and its plateaus would cause ties.
- levels: continuation ratios P(5 | like), P(3 | miss), P(2 | below 3), logistic in the log-odds of a like.
- continuation: a hazard, logistic in a smooth curve over steps, HISTORY, the user's number of sessions (frequent
  users have shorter sessions) and a random effect of the user. Sessions longer than S are right-censored at step S.
  Users outside `learn` get an effect drawn from the fitted distribution.

Two mechanisms are ASSUMED, because the ratings do not show them: `fatigue` and `drift`. Fatigue lowers the log-odds of
continuing; the curve is then refitted, so that real exposure still gives real session lengths. Sources: Platt 1999;
continuation ratios: Tutz 1990; shrinkage of user effects: Breslow & Clayton 1993.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.seeds import generator
from recpolicy.core.types import Array
from recpolicy.data.rating_sessions import Sessions
from recpolicy.data.ratings import Ratings
from recpolicy.models.logistic import fit_logistic
from recpolicy.models.random_effects import RandomEffects, fit_random_effects
from recpolicy.models.rating_models import fit_rating_model
from recpolicy.models.session_history import History
from recpolicy.models.session_world import LIKE_LEVEL, QUARTERS

_CONTEXT_RIDGE = 1.0  # a normal prior of standard deviation 1 on the log-odds of a context
_CURVE_STEP = 0.3  # expected change of the log-odds of continuing from one step to the next


@dataclass(frozen=True)
class LikeModel:
    """The model log-odds(like) = intercept + slope (expected rating + drift) + history . h."""

    intercept: float
    slope: float
    history: Array  # [2]
    context: Mapping[str, float] = field(default_factory=dict)
    """Log-odds of each context of a click and watch log; their mean over the rows is 0."""

    def context_odds(self, context: NDArray[Any] | None) -> Array | float:
        """Return the log-odds [N] of contexts [N]; 0 for unknown ones, or without any."""
        return 0.0 if context is None else np.array([self.context.get(name, 0.0) for name in context.tolist()])

    def odds(self, expected: Array, history: History, drift: float) -> Array:
        """Return the log-odds of a like for expected ratings and their histories, [N], or [I] and [T, I]."""
        turned = expected + drift * history.drift
        past = self.history[0] * history.repeat + self.history[1] * history.misses
        return self.intercept + self.slope * turned + past


@dataclass(frozen=True)
class ContinuationModel:
    """The model log-odds(continue after step s) = curve[s] + habit[u] + user[u] + history . h'."""

    curve: Array  # [S]
    habit: Array  # [U] effect of the number of sessions
    user: Array  # [U] effects, 0 for users outside `learn`
    spread: float
    """Standard deviation of the user effects."""
    history: Array  # [2] fatigue included

    def table(self, users: NDArray[np.integer], learnt: NDArray[np.bool_], rng: np.random.Generator) -> Array:
        """Return the log-odds [W, S] without history; users outside `learnt` [W] get a drawn effect."""
        effect = np.where(learnt, self.user[users], self.spread * rng.standard_normal(len(users)))
        return (self.habit[users] + effect)[:, None] + self.curve


def watch_levels(rating: NDArray[np.floating], scale: tuple[float, float]) -> NDArray[np.int8]:
    """Return the watch fraction of each rating in quarters, 0..4."""
    low, high = scale
    return np.rint(4 * (rating.astype(np.float64) - low) / (high - low)).astype(np.int8)


def cross_fitted(train: Ratings, model: str, model_config: object, folds: int, seed: int) -> Array:
    """Return the expected rating [N] of each rating from a model fitted on the other folds."""
    fold = generator(seed, "response/folds").permutation(len(train)) % folds
    expected = np.empty(len(train))
    for number in range(folds):
        held = fold == number
        part = train.take(~held, name=f"{train.name}, all but fold {number}")
        fitted = fit_rating_model(part, model, model_config, seed)
        expected[held] = fitted.mean[train.user[held], train.item[held]]
    return expected


def fit_like(
    expected: Array, like: NDArray[np.bool_], history: History, drift: float, context: NDArray[Any] | None = None
) -> LikeModel:
    """Fit calibration, history and context together on likes [N]."""
    columns = np.column_stack(
        [np.ones(len(like)), expected + drift * history.drift, _features(history.repeat, history.misses)]
    )
    if context is None:
        weight = fit_logistic(columns, like).weight
        return LikeModel(float(weight[0]), float(weight[1]), weight[2:])
    names, code = np.unique(context.astype(str), return_inverse=True)
    member = code[:, np.newaxis] == np.arange(len(names))
    width = columns.shape[1]
    penalty = np.diag(np.append(np.zeros(width), np.full(len(names), _CONTEXT_RIDGE)))
    both = np.column_stack([columns, member - member.mean(axis=0)])
    weight = fit_logistic(both, like, penalty=penalty).weight
    effect = weight[width:] - weight[width:][code].mean()
    context_odds = dict(zip(names.tolist(), effect.tolist(), strict=True))
    return LikeModel(float(weight[0]), float(weight[1]), weight[2:width], context_odds)


def level_watch(level: NDArray[np.integer], watch: NDArray[np.floating] | None) -> tuple[float, ...]:
    """Return the mean watch fraction of each level, from rows [N] with watch fractions; quarters without."""
    if watch is None:
        return QUARTERS
    rows = [watch[level == number] for number in range(len(QUARTERS))]
    means = [part.mean() if len(part) else usual for part, usual in zip(rows, QUARTERS, strict=True)]
    return tuple(np.clip(means, 0, 1).tolist())


def fit_levels(odds: Array, level: NDArray[np.integer]) -> Array:
    """Return intercepts and slopes [3, 2] of P(5 | like), P(3 | miss), P(2 | below 3) in the log-odds of a like."""
    condition = (level >= LIKE_LEVEL, level < LIKE_LEVEL, level < LIKE_LEVEL - 1)
    answer = (level == 4, level == 2, level == 1)
    columns = np.column_stack([np.ones(len(odds)), odds])
    fits = [
        fit_logistic(columns[rows], yes[rows], penalty=np.diag([0.01, 0.01])).weight if rows.any() else np.zeros(2)
        for rows, yes in zip(condition, answer, strict=True)
    ]
    return np.stack(fits)


def fit_stay(
    sessions: Sessions, history: History, steps: int, visits: NDArray[np.integer], fatigue: tuple[float, float]
) -> ContinuationModel:
    """Fit the hazard of ending on the first S steps; history [N] is in the order of the sessions' rows.

    visits [U] is the number of sessions of each user. First all weights are fitted to the data. Then the assumed
    fatigue is subtracted from the weights of history; these stay fixed while everything else is fitted again.
    """
    seen = sessions.position < steps - 1  # ignore everything after step S
    goes_on = (sessions.position + 1 < sessions.length[sessions.session])[seen]
    step, user = sessions.position[seen], sessions.user[sessions.session][seen]
    often = np.log(np.maximum(visits, 1))  # [U]
    often -= often[user].mean()  # centered, so that the curve is that of an average session
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
    """Return weights [F], curve [S - 1] and the complete fit, with effects in the order of np.unique(user)."""
    wide, points = features.shape[1], steps - 1
    columns = np.column_stack([features, step[:, None] == np.arange(points)]).astype(np.float64)
    difference = np.diff(np.eye(points), axis=0) / _CURVE_STEP
    penalty = np.zeros((wide + points,) * 2)
    penalty[wide:, wide:] = difference.T @ difference
    fit = fit_random_effects(columns, outcome, user, offset, penalty)
    return fit.weight[:wide], fit.weight[wide:], fit


def _features(repeat: Array, misses: Array) -> Array:
    """Return the HISTORY features as columns [N, 2]."""
    return np.column_stack([repeat, misses])
