"""A like model of your own, in place of the fitted one: P(like | user, item, history).

U users, I items, N pairs, T items shown before. A function gets arrays of ids and returns N probabilities; a table has
a row for each pair, and no history. Simulated worlds are compiled tables, so a function is evaluated once for all pairs
with an empty history. Its dependence on the history is approximated by the world's own features of a history,

    logit P(like | u, i, h) - logit P(like | u, i, empty)  ~  weights . (drift, genre repeat, misses)

by least squares over the real sessions. The approximation's error is part of the result: a function that depends on its
history in another way is not simulated well.
"""

import importlib
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.files import content_digest
from recpolicy.core.types import Array
from recpolicy.data.head_tables import read_head_table
from recpolicy.data.rating_sessions import Sessions
from recpolicy.data.ratings import Ratings
from recpolicy.models.logistic import sigmoid
from recpolicy.models.session_history import History

_PAIRS_AT_ONCE = 1 << 18
_MARGIN = 1e-6  # probabilities 0 and 1 have no log-odds
_NO_DEPENDENCE = 1e-9


class ShownItems(NamedTuple):
    """The sessions so far of N pairs, the oldest item first."""

    item: NDArray[Any]  # [N, T] ids; after `length` without meaning
    liked: NDArray[np.bool_]  # [N, T]
    length: NDArray[np.intp]  # [N] items shown, 0 to T


LikeFunction = Callable[[NDArray[Any], NDArray[Any], ShownItems], NDArray[Any]]
"""(user ids [N], item ids [N], history) -> probabilities [N]."""


@dataclass(frozen=True)
class OwnLikeModel:
    """A checked function or table."""

    name: str
    digest: str
    """Of the probabilities with an empty history."""
    start_odds: NDArray[np.float32]  # [U, I] log-odds with an empty history
    function: LikeFunction | None
    """None for a table, which has no history."""

    def session_odds(self, ratings: Ratings, sessions: Sessions, like: NDArray[np.bool_], longest: int) -> Array:
        """Return the log-odds [N] of each rating in session order, after what its session has shown before.

        Args:
            ratings: The ratings. sessions: Their sessions, of at most `longest` items. like: [N], in session order.
            longest: Most items of a history.
        """
        user, item = ratings.user[sessions.rows], ratings.item[sessions.rows]
        if self.function is None:
            return self.start_odds[user, item].astype(np.float64)
        ids, odds = ratings.items["item_id"].to_numpy(), np.empty(len(user))
        at_once = max(1, _PAIRS_AT_ONCE // longest)
        for first in range(0, len(user), at_once):
            rows = np.arange(first, min(first + at_once, len(user)))
            length = sessions.position[rows]
            place = np.arange(longest)
            before = np.where(place < length[:, None], rows[:, None] - length[:, None] + place, rows[:, None])
            history = ShownItems(ids[item[before]], like[before] & (place < length[:, None]), length)
            odds[rows] = _call(self.function, self.name, ratings, user[rows], item[rows], history)
        return odds


@dataclass(frozen=True)
class HistoryFit:
    """The dependence of a function on the history, as a world simulates it."""

    drift: float
    """Log-odds per point of expected rating by which the interest has turned."""
    weights: Array  # [2] of HISTORY
    explained: float
    """Share of the mean squared change of the log-odds that the approximation explains; 1 without any change."""
    error: float
    """Root mean square error of the probability."""


def fit_history(with_history: Array, without: Array, history: History) -> HistoryFit:
    """Return the least-squares approximation of the change of log-odds [N] by the features of the history."""
    change = with_history - without
    if np.abs(change).max(initial=0.0) < _NO_DEPENDENCE:
        return HistoryFit(0.0, np.zeros(2), 1.0, 0.0)
    columns = np.column_stack([history.drift, history.repeat, history.misses])
    weight = np.linalg.lstsq(columns, change, rcond=None)[0].astype(np.float64)
    left = change - columns @ weight
    approximated = sigmoid(without + columns @ weight)
    error = float(np.sqrt(np.mean((approximated - sigmoid(with_history)) ** 2)))
    explained = 1 - float(np.mean(left**2) / np.mean(change**2))
    return HistoryFit(float(weight[0]), weight[1:], explained, error)


def read_like_model(source: "str | Path | LikeFunction", ratings: Ratings) -> OwnLikeModel:
    """Return a like model of your own.

    Args:
        source: "module:function", also of the current folder; a CSV or Parquet file with the columns user_id, item_id
            and probability; or a function.
        ratings: The ratings whose users and items it must know.

    Raises:
        ConfigError: There is no such module or function.
        DataError: The table lacks pairs or has wrong values.
    """
    if callable(source):
        name = f"{getattr(source, '__module__', '?')}:{getattr(source, '__qualname__', type(source).__name__)}"
        return _from_function(source, name, ratings)
    text = str(source)
    if Path(text).suffix in (".csv", ".parquet"):
        table = _read_table(Path(text), ratings)
        return OwnLikeModel(text, content_digest(table), table, None)
    return _from_function(_import_function(text), text, ratings)


def _from_function(function: LikeFunction, name: str, ratings: Ratings) -> OwnLikeModel:
    """Return the model of a function, which is called for all users and items, many at once."""
    users, items = ratings.shape
    odds = np.empty((users, items), np.float32)
    at_once, ids = max(1, _PAIRS_AT_ONCE // items), ratings.items["item_id"].to_numpy()
    for first in range(0, users, at_once):
        rows = np.arange(first, min(first + at_once, users))
        user, item = np.repeat(rows, items), np.tile(np.arange(items), len(rows))
        nothing = np.empty((len(user), 0), ids.dtype)
        history = ShownItems(nothing, nothing.astype(bool), np.zeros(len(user), np.intp))
        odds[rows] = _call(function, name, ratings, user, item, history).reshape(len(rows), items)
    return OwnLikeModel(name, content_digest(odds), odds, function)


def _call(
    function: LikeFunction, name: str, ratings: Ratings, user: NDArray[np.integer], item: NDArray[np.integer],
    history: ShownItems,
) -> Array:  # fmt: skip
    """Return the log-odds [N] that a function gives to pairs of rows."""
    user_id, item_id = ratings.users["user_id"].to_numpy()[user], ratings.items["item_id"].to_numpy()[item]
    try:
        probability = function(user_id, item_id, history)
    except Exception as error:  # anything: the code is not ours
        raise DataError(f"like model {name} raised {type(error).__name__}: {error}") from error
    return _log_odds(_checked(probability, len(user), name))


def _import_function(text: str) -> LikeFunction:
    module, _, name = text.partition(":")
    if not module or not name:
        raise ConfigError(f"like model {text!r}: expected module:function, or a .csv or .parquet file")
    sys.path.insert(0, str(Path.cwd()))
    try:
        function = getattr(importlib.import_module(module), name)
    except Exception as error:  # of the module's code, too
        raise ConfigError(f"like model {text!r} cannot be imported: {type(error).__name__}: {error}") from None
    finally:
        sys.path.pop(0)
    if not callable(function):
        raise ConfigError(f"like model {text!r} is no function but a {type(function).__name__}")
    return function


def _read_table(path: Path, ratings: Ratings) -> NDArray[np.float32]:
    """Return the log-odds [U, I] of a table with a row for each pair."""
    frame = read_head_table(path, ("user_id", "item_id"), ("probability",))
    table = np.full(ratings.shape, np.nan)
    rows, columns = (
        pd.Index(ids.astype(str)).get_indexer(pd.Index(frame[name].astype(str)))
        for ids, name in ((ratings.users["user_id"], "user_id"), (ratings.items["item_id"], "item_id"))
    )
    known = (rows >= 0) & (columns >= 0)  # others are of no use here, and no fault
    values = frame["probability"].to_numpy(np.float64)[known]
    table[rows[known], columns[known]] = _checked(values, int(known.sum()), str(path))
    gaps = np.argwhere(np.isnan(table))
    if len(gaps):
        user, item = (ids.iloc[row] for ids, row in zip(
            (ratings.users["user_id"], ratings.items["item_id"]), gaps[0], strict=True
        ))  # fmt: skip
        raise DataError(
            f"{path}: {len(gaps):,} of {table.size:,} pairs are missing, such as user {user} and item {item}; expected"
            " a row for every pair"
        )
    return _log_odds(table).astype(np.float32)


def _checked(probability: Any, count: int, name: str) -> Array:
    """Return probabilities [N]; raise DataError for another shape, NaN or values outside 0 to 1."""
    try:
        values = np.asarray(probability, np.float64)
    except (TypeError, ValueError):
        raise DataError(f"like model {name}: returned {type(probability).__name__}; expected an array") from None
    if values.shape != (count,):
        raise DataError(f"like model {name}: returned shape {values.shape}; expected ({count},), one for each pair")
    wrong = ~((values >= 0) & (values <= 1))  # NaN, too
    if wrong.any():
        raise DataError(
            f"like model {name}: probability {values[wrong][0]:g} at {int(wrong.argmax())}; expected 0 to 1"
            f" ({int(wrong.sum()):,} of {count:,} are wrong)"
        )
    return values


def _log_odds(probability: Array) -> Array:
    inside = np.clip(probability, _MARGIN, 1 - _MARGIN)
    return np.log(inside) - np.log1p(-inside)
