"""Return times of a simulated session log: the sessions of a user become a chain, in which each return has its day.

M sessions, N steps. After a session the user comes back on day D = 1..10 (models/return_time.py), with

    logit p = personal[u] + influence (like_weight (likes - like_center) + novelty_weight (novelty - novelty_center))

`likes` is the share of the session's items that were liked, `novelty` their mean of (1 - genre repeat + scaled
self-information) / 2. `personal` is fitted on real gaps of the world's users, or of other sessions (return_fit.py);
the influence is ASSUMED. A return on day D comes up to a day earlier, at a random time. The log ends after its days:
what ends later is left out, and a session whose return would come later is censored. A user whose simulated sessions
are used up has no more of them.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from recpolicy.core.errors import DataError
from recpolicy.core.seeds import generator
from recpolicy.core.types import Array, Ints
from recpolicy.data.session_log import COLUMNS, SessionLog
from recpolicy.data.session_returns import DAY_MS, SessionReturns
from recpolicy.data.splits import Split
from recpolicy.evaluation.ranking import self_information
from recpolicy.models.logistic import sigmoid
from recpolicy.models.return_time import RETURN_DAYS, day_probabilities, fit_return_model, return_times_of_ratings
from recpolicy.models.session_world import SessionWorld

if TYPE_CHECKING:
    from recpolicy.environments.session_retention import RetentionConfig

_LEAST_DAYS = 1 / 24
"""Shortest time until a return, longer than the gap that ends a session."""


def with_return_times(
    log: SessionLog, world: SessionWorld, split: Split, effects: "RetentionConfig", begin: int, days: float, seed: int,
    population: tuple[float, float] | None = None,
) -> SessionLog:  # fmt: skip
    """Return the log with new times and with return times, in order of time.

    Args:
        log: Simulated sessions of the world's users.
        world: The world.
        split: The ratings; gaps and popularity come from the train part.
        effects: Influence of likes and novelty on the return.
        begin: Milliseconds since 1970 at which the log begins. days: Days that it lasts.
        seed: Seed of the returns.
        population: Mean and standard deviation of `personal`, as fitted elsewhere; None fits them on the ratings.

    Raises:
        DataError: The ratings have no times, no user of the world comes back, or no session ends within the days.
    """
    rng, users = generator(seed, "session log/returns"), split.train.shape[0]
    if population is not None:
        personal = rng.normal(*population, size=users)
    else:
        times = return_times_of_ratings(split.train).of_users(world.users)
        personal = fit_return_model(times, users).draw(np.arange(users), rng)
    information = self_information(split.train)
    likes, novelty = session_figures(log, world, information / max(information.max(), 1e-9))
    effect = effects.like_weight * (likes - effects.like_center)
    effect += effects.novelty_weight * (novelty - effects.novelty_center)
    probability = sigmoid(personal[log.session_user] + effects.influence * effect)
    return chained(log, np.clip(probability, 0.001, 0.999), begin, days, rng)


def session_figures(log: SessionLog, world: SessionWorld, item_novelty: Array) -> tuple[Array, Array]:
    """Return the share of likes [M] and the mean novelty [M] of sessions; `item_novelty` [I] is in 0..1."""
    first, length = log.start[:-1], log.length
    recent, total = np.zeros((len(length), world.genres.shape[1])), np.zeros(len(length))
    for step in range(int(length.max())):
        going = np.flatnonzero(step < length)
        item = log.item[first[going] + step]
        genres = world.genres[item]
        repeat = (1 - world.genre_decay) * (recent[going] * genres).sum(axis=1)
        total[going] += 0.5 * (1 - repeat + item_novelty[item])
        recent[going] = world.genre_decay * recent[going] + genres
    likes = np.add.reduceat(log.liked.astype(np.float64), first)
    return likes / length, total / length


def chained(log: SessionLog, probability: Array, begin: int, days: float, rng: np.random.Generator) -> SessionLog:
    """Return the sessions of each user one after the other, each with its return time.

    Args:
        log: M sessions.
        probability: [M] return probability of a day, after each session.
        begin: Milliseconds since 1970. days: Days of the log.
        rng: Draws days, times of the day and the first sessions, which are in the first ten days.
    """
    until = begin + round(days * DAY_MS)
    gap = _draw_gaps(probability, rng)
    user, time = log.session_user, log.time
    duration = time[log.start[1:] - 1] - time[log.start[:-1]]
    order = np.argsort(user, kind="stable")
    group = np.diff(user[order], prepend=-1) != 0
    before = np.cumsum((duration + gap)[order]) - (duration + gap)[order]  # of all sessions before, of all users
    number = np.cumsum(group) - 1
    arrival = rng.random(number[-1] + 1) * min(days, RETURN_DAYS) * DAY_MS
    start = np.empty(len(user), np.int64)
    start[order] = begin + np.round(arrival[number]).astype(np.int64) + before - before[group][number]
    end = start + duration
    kept = np.flatnonzero(end <= until)
    if not len(kept):
        raise DataError(f"no simulated session ends within {days:g} days; log more days")
    kept = kept[np.argsort(start[kept], kind="stable")]
    returned = end + gap <= until
    noted = np.where(returned, gap, until - end) / DAY_MS
    shifted = time + np.repeat(start - time[log.start[:-1]], log.length)
    rows = _rows(log, kept)
    columns: dict[str, Any] = {name: getattr(log, name)[rows] for name in COLUMNS} | {"time": shifted[rows]}
    propensity = None if log.log_propensity is None else log.log_propensity[rows]
    returns = SessionReturns(noted[kept], returned[kept])
    return replace(log, log_propensity=propensity, candidates=None, returns=returns, **columns)


def _draw_gaps(probability: Array, rng: np.random.Generator) -> Ints:
    """Return the milliseconds until each return [M]."""
    cumulated = np.cumsum(day_probabilities(probability), axis=1)
    day = 1 + (rng.random((len(probability), 1)) * cumulated[:, -1:] > cumulated).sum(axis=1)
    gap = np.maximum(day - rng.random(len(day)), _LEAST_DAYS)
    return np.asarray(np.round(gap * DAY_MS), np.int64)


def _rows(log: SessionLog, sessions: Ints) -> Ints:
    """Return the rows of steps of these sessions, one session after the other."""
    length = log.length[sessions]
    offset = np.arange(length.sum()) - np.repeat(np.cumsum(length) - length, length)
    return np.asarray(np.repeat(log.start[:-1][sessions], length) + offset)
