"""30-day activity of MovieLens users: the forecast of a user and of an item against two plain regressions.

A trace starts on the day of a rating; the user is active on a later day if he or she rates anything on it. The first
half of the users, by the time of their first rating, teaches; the others are forecast.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recpolicy.coldstart.filter import Array, ItemStatistics
from recpolicy.coldstart.prior import ItemMoments, ItemPrior, fit_prior
from recpolicy.core.seeds import generator
from recpolicy.data.loaders import load_ratings
from recpolicy.data.ratings import genre_matrix

DAYS = 30
SEEN = (0, 1, 2, 3, 5, 8, 10, 15, 20, 25)
_SECONDS = 86_400
_MIN_TRACES = 20


def read_activity(path: Path) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Array, Array]:
    """Return user [N], item [N], start [N] and outcomes [N, 30] of all pairs with 30 later days, and genres [I, G]."""
    ratings = load_ratings(path)
    assert ratings.timestamp is not None
    day = ratings.timestamp // _SECONDS
    day -= day.min()
    active = np.zeros((ratings.user.max() + 1, int(day.max()) + 1), bool)
    active[ratings.user, day] = True
    whole = day + DAYS < day.max()  # the last day of the data is not over
    user, item, start = ratings.user[whole], ratings.item[whole], day[whole]
    outcomes = active[user[:, np.newaxis], start[:, np.newaxis] + np.arange(1, DAYS + 1)]
    return user, item, start, outcomes.astype(np.float64), genre_matrix(ratings.items)[1]


def user_panel(data: tuple) -> dict[str, dict[int, float]]:
    """Return the mean absolute error of forecasts of one user's active days, by method and days seen."""
    user, item, start, outcomes, genres = data
    order = np.lexsort((np.arange(len(user)), start, user))
    _, first = np.unique(user[order], return_index=True)
    rows = order[first]  # the first rating of each user
    begin = dict(zip(user[rows], start[rows], strict=True))
    own = np.zeros((user.max() + 1, genres.shape[1]))
    on_first_day = np.array([start[n] == begin[user[n]] for n in range(len(user))])
    np.add.at(own, user[on_first_day], genres[item[on_first_day]])
    taste = own[user[rows]].argmax(axis=1)
    teach = start[rows] <= np.median(start[rows])
    y, total = outcomes[rows], outcomes[rows].sum(axis=1)
    cluster = np.unique(taste[teach], return_inverse=True)
    known = np.isin(taste, cluster[0])
    test = ~teach & known
    prior = fit_prior(ItemMoments.from_traces(cluster[1], y[teach], len(cluster[0]))).prior
    whitening = prior.filter().whitening
    past = ItemStatistics.from_traces(cluster[1], y[teach], np.full(teach.sum(), DAYS), len(cluster[0]), whitening)
    means = prior.filter().posterior(prior.coefficients[0], past).mean
    mean = means[np.searchsorted(cluster[0], taste[test])]

    def forecast(seen: int) -> Array:
        return _forecast_users(prior, mean, y[test], seen)

    return _errors(forecast, y[teach], total[teach], y[test], total[test])


def _forecast_users(prior: ItemPrior, mean: Array, y: Array, seen: int) -> Array:
    """Return E[sum of days | the first `seen` days] of users around the means of their clusters."""
    v = prior.trace_covariance
    if not seen:
        return mean.sum(axis=1)
    gain = np.linalg.solve(v[:seen, :seen], v[:seen]).sum(axis=1)  # [seen]
    return mean.sum(axis=1) + (y[:, :seen] - mean[:, :seen]) @ gain


def item_panel(data: tuple, seed: int) -> dict[str, dict[int, float]]:
    """Return the errors of forecasts of an item's mean active days from half of its new users, by the other half."""
    user, item, start, outcomes, _ = data
    first = np.full(user.max() + 1, np.inf)
    np.minimum.at(first, user, start)
    teach_user = first <= np.median(first[np.isfinite(first)])
    rng = generator(seed, "impatient movielens")
    teach_item = rng.random(item.max() + 1) < 0.5
    half = rng.random(user.max() + 1) < 0.5
    prior_rows = teach_user[user] & teach_item[item]
    new_rows = ~teach_user[user] & ~teach_item[item]

    def grouped(rows: NDArray[np.bool_], side: bool) -> tuple[Array, Array]:
        chosen = rows & (half[user] == side)
        count = np.bincount(item[chosen], minlength=item.max() + 1)
        total = np.zeros((item.max() + 1, DAYS))
        np.add.at(total, item[chosen], outcomes[chosen])
        return count, total / np.maximum(count, 1)[:, np.newaxis]

    parts = {}
    for name, rows in (("teach", prior_rows), ("test", new_rows)):
        (n, a), (m, b) = grouped(rows, True), grouped(rows, False)
        enough = (n >= _MIN_TRACES) & (m >= _MIN_TRACES)
        parts[name] = n[enough], a[enough], b[enough].sum(axis=1), np.flatnonzero(enough)
    chosen = np.unique(item[prior_rows], return_inverse=True)
    prior = fit_prior(ItemMoments.from_traces(chosen[1], outcomes[prior_rows], len(chosen[0]))).prior
    count, mean, truth, _ = parts["test"]
    whitened = mean @ prior.filter().whitening.inverse.T * count[:, np.newaxis]

    def forecast(seen: int) -> Array:
        over = np.arange(DAYS) < seen
        statistics = ItemStatistics(np.where(over, count[:, np.newaxis], 0.0), np.where(over, whitened, 0.0))
        return prior.filter().belief(prior.coefficients[0], statistics).mean

    errors = _errors(forecast, parts["teach"][1], parts["teach"][2], mean, truth)
    errors["count"] = {0: float(len(truth))}
    return errors


def _errors(forecast, teach: Array, teach_total: Array, test: Array, total: Array) -> dict[str, dict[int, float]]:
    """Return mean absolute errors of the forecast, of the mean, and of regressions on the sum and on all days seen."""
    errors: dict[str, dict[int, float]] = {name: {} for name in ("forecast", "mean", "sum", "days")}
    for seen in SEEN:
        errors["forecast"][seen] = _mae(forecast(seen), total)
        errors["mean"][seen] = _mae(np.full(len(total), teach_total.mean()), total)
        days = teach[:, :seen], test[:, :seen]
        sums = tuple(part.sum(axis=1, keepdims=True) for part in days)
        for name, parts in (("sum", sums), ("days", days)):
            x, new = (np.column_stack([np.ones(len(part)), part]) for part in parts)
            errors[name][seen] = _mae(new @ np.linalg.lstsq(x, teach_total, rcond=None)[0], total)
    return errors


def _mae(forecast: Array, truth: Array) -> float:
    return float(np.abs(forecast - truth).mean())
