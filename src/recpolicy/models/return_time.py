"""Days until a user's next session: gaps in real logs, a truncated geometric model, its fit and its calibration.

U users, N gaps. A user with the return probability p who comes back within 10 days does so after D = 1..10 days:

    P(D = d) = p (1 - p)^(d-1) / (1 - (1 - p)^10)

logit p is normal over users; mean and standard deviation are fitted by marginal likelihood, on a grid of p. The model
is conditional on a return within 10 days, so a longer gap enters neither fit nor calibration; it is counted. A
user's last session is censored: it says that the gap is longer than the days until the data end, and gives no return
day. Below 10 days it enters the likelihood; with 10 days or more it is counted as left. Source of the days and of the
truncation: KuaiSim, Zhao et al. 2023 (2309.12645).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.types import Array, Floats, Ints
from recpolicy.data.rating_sessions import GAP_MINUTES, split_into_sessions
from recpolicy.data.ratings import Ratings
from recpolicy.data.session_log import SessionLog
from recpolicy.data.session_returns import SessionReturns

RETURN_DAYS = 10
"""Longest return time in days."""
DAY_SECONDS = 86_400
_ROUNDING = 1e-9  # days; times of 20,000 days and more leave 4e-12
_ODDS = np.linspace(-6.0, 6.0, 121)  # grid of logit p
_MEANS, _SPREADS, _FINER = (-4.0, 4.0), (0.2, 3.0), 4


@dataclass(frozen=True)
class ReturnTimes:
    """The gaps after N sessions."""

    user: NDArray[np.int32]  # [N] rows of the users table
    day: NDArray[np.int64]  # [N] return day 1..10, or 11 for later; if censored, full days without a return, 0..10
    observed: NDArray[np.bool_]  # [N] False for the last session of a user
    followed: NDArray[np.int64]  # [N] full days from the end of the session to the end of the data

    @property
    def returning_users(self) -> int:
        """Number of users with at least one return."""
        return len(np.unique(self.user[self.observed]))

    @property
    def within(self) -> NDArray[np.bool_]:
        """True [N] for returns within ten days."""
        return np.asarray(self.observed & (self.day <= RETURN_DAYS), np.bool_)

    @property
    def wholly_followed(self) -> "ReturnTimes":
        """The sessions followed for ten days: among others, only the short gaps would be known."""
        whole = self.followed >= RETURN_DAYS
        return ReturnTimes(self.user[whole], self.day[whole], self.observed[whole], self.followed[whole])

    def of_users(self, users: Ints) -> "ReturnTimes":
        """Return the gaps of these users (rows)."""
        mine = np.isin(self.user, users)
        return ReturnTimes(self.user[mine], self.day[mine], self.observed[mine], self.followed[mine])


@dataclass(frozen=True)
class ReturnModel:
    """Return probabilities of users, with the number of users and gaps behind them."""

    mean: float
    """Mean of logit p over users."""
    std: float
    """Standard deviation of logit p over users."""
    posterior: Array
    """[U, Q] probability of each value of the grid of logit p, given the user's gaps."""
    users: int
    """Users with a return within ten days, on whom the model was fitted."""
    gaps: int
    """Returns within ten days."""
    late: int
    """Returns after more than ten days; they do not enter the fit."""
    censored: int
    """Sessions without a return in the data; they give no return day."""
    left: int
    """Censored sessions with ten or more days until the data end; they do not enter the fit."""

    def draw(self, users: Ints, rng: np.random.Generator) -> Array:
        """Return a draw of logit p for each of the users (rows) from its posterior."""
        cumulated = np.cumsum(self.posterior[users], axis=1)
        place = (rng.random((len(users), 1)) * cumulated[:, -1:] > cumulated).sum(axis=1)
        return np.asarray(_ODDS[np.minimum(place, len(_ODDS) - 1)], np.float64)

    def day_probabilities(self, users: Ints) -> Array:
        """Return P(D = 1..10) of the next gap of each of the users (rows), [n, 10]."""
        return np.asarray(self.posterior[users] @ day_probabilities(_probability(_ODDS)), np.float64)


@dataclass(frozen=True)
class Calibration:
    """Predicted against real return days of users whom the fit did not see."""

    users: int
    """Held-out users with a return within ten days."""
    gaps: int
    """Their returns within ten days; the first one of each user is compared."""
    late: int
    """Their returns after more than ten days, which the model does not describe."""
    predicted_days: float
    observed_days: float
    predicted_day_1: float
    observed_day_1: float
    ks: float
    """Largest difference of the two distribution functions."""


def day_probabilities(probability: Floats) -> Array:
    """Return P(D = 1..10), [..., 10], of return probabilities [...] in (0, 1)."""
    p = np.asarray(probability, np.float64)[..., np.newaxis]
    mass = p * (1 - p) ** np.arange(RETURN_DAYS)
    return np.asarray(mass / mass.sum(axis=-1, keepdims=True), np.float64)


def expected_days(probability: Floats) -> Array:
    """Return E[D], [...], of return probabilities [...] in (0, 1)."""
    return np.asarray(day_probabilities(probability) @ np.arange(1, RETURN_DAYS + 1), np.float64)


def return_times(user: Ints, start: Ints, end: Ints, until: int) -> ReturnTimes:
    """Return the gap after each session, in order of user and time.

    Args:
        user: [N] rows of the users table.
        start: [N] seconds at the first request of each session. end: [N], at its last request.
        until: Second at which the data end.

    Raises:
        DataError: A session ends before it starts, starts before an earlier one of the user ended, or ends after the
            data.
    """
    user, start, end = (np.asarray(part, np.int64) for part in (user, start, end))
    order = np.lexsort((start, user))
    user, start, end = user[order], start[order], end[order]
    again = user[1:] == user[:-1]
    _check_times(user, start, end, until, again)
    observed = np.append(again, False)[: len(user)]
    seconds = np.where(observed, np.append(start[1:], until)[: len(user)], until) - end
    returned = np.clip(-(-seconds // DAY_SECONDS), 1, RETURN_DAYS + 1)
    waited = np.clip(seconds // DAY_SECONDS, 0, RETURN_DAYS)
    followed = ((until - end) // DAY_SECONDS).astype(np.int64)
    return ReturnTimes(user.astype(np.int32), np.where(observed, returned, waited), observed, followed)


def return_times_of_ratings(ratings: Ratings, gap_minutes: float = GAP_MINUTES) -> ReturnTimes:
    """Return the gaps between the sessions of a ratings table; raises DataError without timestamps."""
    sessions = split_into_sessions(ratings, gap_minutes)
    assert ratings.timestamp is not None  # split_into_sessions has checked it
    time = ratings.timestamp[sessions.rows]
    last = sessions.start + sessions.length - 1
    return return_times(sessions.user, time[sessions.start], time[last], int(time.max(initial=0)))


def return_times_of_log(log: SessionLog, until: int | None = None) -> ReturnTimes:
    """Return the gap after each session of a log: its return times if it has them, else joined by user.

    Args:
        log: The log.
        until: Second at which a log without return times ends; None: the second of its last step. Where a log has
            return times, all its users were followed until one time, the latest that they speak of.

    Raises:
        DataError: Two sessions of a user overlap, or one ends after `until`; or a log with return times, and `until`.
    """
    if log.returns is not None:
        if until is not None:
            raise DataError(f"{log.name}: has return times of its own; leave out `until`")
        return noted_times(log.session_user, log.time[log.start[1:] - 1], log.returns)
    second = log.time // 1000
    end = int(second.max(initial=0)) if until is None else until
    first, last = log.start[:-1], log.start[1:] - 1
    return return_times(log.user[first], second[first], second[last], end)


def noted_times(user: Ints, end: Ints, returns: SessionReturns) -> ReturnTimes:
    """Return the gaps after M sessions whose return times are known, in order of user and time.

    Args:
        user: [M] rows of the users table.
        end: [M] milliseconds at the last step. returns: Their return times, all censored at one time.
    """
    order = np.lexsort((end, user))
    rows, end = np.asarray(user[order], np.int32), end[order]
    returns = SessionReturns(returns.days[order], returns.returned[order])
    day = np.where(
        returns.returned, np.clip(np.ceil(returns.days), 1, RETURN_DAYS + 1), np.minimum(returns.days, RETURN_DAYS)
    )
    known = end / (1000 * DAY_SECONDS) + returns.days  # the latest is that of a censored session: the end of the data
    followed = np.floor(known.max(initial=0) - end / (1000 * DAY_SECONDS) + _ROUNDING)
    return ReturnTimes(rows, day.astype(np.int64), returns.returned, followed.astype(np.int64))


def return_rate(times: ReturnTimes, days: int) -> tuple[Array, NDArray[np.int32]]:
    """Return 1 for each session with a return within `days` days and 0 for others, with the users, both [n].

    Sessions that ended fewer days before the end of the data are left out, returned or not: to keep those with a
    return would raise the rate. Raises DataError for days outside of 1..10.
    """
    if not 1 <= days <= RETURN_DAYS:
        raise DataError(f"return rate within {days} days; expected 1 to {RETURN_DAYS}")
    known = times.followed >= days
    returned = times.observed & (times.day <= days)
    return returned[known].astype(np.float64), times.user[known]


def fit_return_model(times: ReturnTimes, users: int) -> ReturnModel:
    """Fit the return probabilities of U users; a user without gaps has those of the population.

    Raises:
        DataError: No user has a return within ten days.
    """
    seen = times.within
    censored = int((~times.observed).sum())
    if not seen.any():
        raise DataError(
            f"return times: no return within {RETURN_DAYS} days in {len(seen)} sessions, {censored} of them censored;"
            " expected users with two or more sessions"
        )
    likelihood = _log_likelihood(times, users)  # [U, Q]
    returning = np.unique(times.user[seen])
    mean, std = _best_prior(likelihood[returning])
    weight = likelihood + _log_prior(mean, std)
    posterior = np.exp(weight - np.logaddexp.reduce(weight, axis=1)[:, np.newaxis])
    late = int((times.observed & ~seen).sum())
    left = int((~times.observed & (times.day >= RETURN_DAYS)).sum())
    return ReturnModel(mean, std, posterior, len(returning), int(seen.sum()), late, censored, left)


def population_days(mean: float, std: float) -> Array:
    """Return P(D = 1..10), [10], of a user about whom nothing is known: logit p is normal."""
    return np.asarray(np.exp(_log_prior(mean, std)) @ day_probabilities(_probability(_ODDS)), np.float64)


def calibration(model: ReturnModel, held_out: ReturnTimes) -> Calibration:
    """Compare the model's days with the gaps of users who were not in its fit; raises DataError without a gap.

    Each user counts once, with the first gap within ten days: those who come back soon have more gaps, and a mean over
    a user's gaps depends on their number.
    """
    seen = held_out.within
    day, user = held_out.day[seen], held_out.user[seen]
    if not len(day):
        raise DataError(
            f"return times: no held-out user comes back within {RETURN_DAYS} days; expected users with two or more"
            " sessions"
        )
    found, first = np.unique(user, return_index=True)  # gaps are in order of user and time
    predicted = model.day_probabilities(found).mean(axis=0)  # [10]
    observed = np.bincount(day[first], minlength=RETURN_DAYS + 1)[1:] / len(found)
    days = np.arange(1, RETURN_DAYS + 1)
    return Calibration(
        len(found), len(day), int((held_out.observed & ~seen).sum()), float(predicted @ days),
        float(observed @ days), float(predicted[0]), float(observed[0]),
        float(np.abs(np.cumsum(predicted - observed)).max()),
    )  # fmt: skip


def _log_likelihood(times: ReturnTimes, users: int) -> Array:
    """Return the log-likelihood [U, Q] of each user's gaps at the values of the grid."""
    mass = day_probabilities(_probability(_ODDS))  # [Q, 10]
    log_day = np.log(mass).T  # [10, Q]
    beyond = np.log(np.cumsum(mass[:, ::-1], axis=1)[:, ::-1]).T  # [10, Q], P(D > f) for f = 0..9
    total = np.zeros((users, len(_ODDS)))
    seen = times.within
    np.add.at(total, times.user[seen], log_day[times.day[seen] - 1])
    waiting = ~times.observed & (times.day < RETURN_DAYS)
    np.add.at(total, times.user[waiting], beyond[times.day[waiting]])
    return total


def _best_prior(likelihood: Array) -> tuple[float, float]:
    """Return mean and standard deviation of logit p with the largest marginal likelihood of users [n, Q].

    A grid of 15 x 15, then finer grids around its best point.
    """
    relative = np.exp(likelihood - likelihood.max(axis=1, keepdims=True))  # the maximum is the same for all pairs
    (low, high), (least, most) = _MEANS, _SPREADS
    for _ in range(_FINER):
        means, spreads = np.linspace(low, high, 15), np.linspace(least, most, 15)
        pairs = [(mean, std) for mean in means.tolist() for std in spreads.tolist()]
        prior = np.exp([_log_prior(mean, std) for mean, std in pairs])  # [225, Q]
        mean, std = pairs[int(np.argmax(np.log(relative @ prior.T).sum(axis=0)))]
        step, wide = means[1] - means[0], spreads[1] - spreads[0]
        low, high, least, most = mean - step, mean + step, max(std - wide, 0.1), std + wide
    return mean, std


def _log_prior(mean: float, std: float) -> Array:
    log_weight = -0.5 * ((_ODDS - mean) / std) ** 2
    return np.asarray(log_weight - np.logaddexp.reduce(log_weight), np.float64)


def _probability(odds: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-odds)), np.float64)


def _check_times(user: Ints, start: Ints, end: Ints, until: int, again: NDArray[np.bool_]) -> None:
    """Raise DataError for sessions that overlap, run backward, or end after the data."""
    for fault, found, expected in (
        (end < start, end - start, "its last request at or after its first one"),
        (np.append(again & (start[1:] < end[:-1]), False)[: len(user)], np.append(start[1:], 0)[: len(user)] - end,
         "each return after the session before it"),
        (end > until, until - end, f"sessions that end by second {until}, where the data end"),
    ):  # fmt: skip
        if fault.any():
            row = int(np.argmax(fault))
            raise DataError(
                f"return times: user row {user[row]}: session from {start[row]} to {end[row]}: {found[row]} seconds;"
                f" expected {expected}"
            )
