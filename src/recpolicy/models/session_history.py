"""The history of each real session, by the formulas of a SessionWorld.

N ratings in M sessions, I items, D interest, G genres. The history before each item has the share of recently shown
genres that it repeats, the consecutive misses, and the change of interest from earlier likes. The code is vectorized
over sessions and loops over positions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Array
from recpolicy.data.rating_sessions import Sessions
from recpolicy.models.session_world import MISSES


@dataclass(frozen=True)
class History:
    """The history at each rating, in the order of `Sessions.rows`."""

    repeat: Array  # [N] genre repeat when the item is shown, 0..1
    misses: Array  # [N] consecutive misses before the response, capped at MISSES and divided by it
    misses_after: Array  # [N] the same after the response
    drift: Array  # [N] (interest_t - interest_0) . direction of the item, in points of expected rating


@dataclass(frozen=True)
class Preferences:
    """The inputs of a history: the tables of a SessionWorld with all users as rows."""

    interest: NDArray[np.float32]  # [U, D]
    direction: NDArray[np.float32]  # [I, D]
    genres: NDArray[np.float32]  # [I, G], rows of length 1 or 0
    interest_decay: float
    genre_decay: float


def compute_history(
    sessions: Sessions, item: NDArray[np.int32], like: NDArray[np.bool_], tastes: Preferences
) -> History:
    """Compute the history of all sessions; item and like [N] are in the order of `sessions.rows`."""
    repeat, misses, after, drift = np.zeros((4, len(item)))
    by_length = np.argsort(-sessions.length, kind="stable")  # sessions still running are always the first ones
    start, user = sessions.start[by_length], sessions.user[by_length]
    running = np.searchsorted(-sessions.length[by_length], -np.arange(sessions.length.max(initial=0)), "left")
    unit = _unit(tastes.direction.astype(np.float64))  # [I, D]
    shift = np.zeros((len(sessions), tastes.direction.shape[1]))  # [M, D]
    genres = np.zeros((len(sessions), tastes.genres.shape[1]))  # [M, G]
    in_a_row = np.zeros(len(sessions))
    for position, many in enumerate(running):
        row = start[:many] + position
        shown, liked = item[row], like[row]
        repeat[row] = (1 - tastes.genre_decay) * np.sum(genres[:many] * tastes.genres[shown], axis=1)
        misses[row] = in_a_row[:many]
        drift[row] = np.sum(shift[:many] * tastes.direction[shown], axis=1)
        in_a_row[:many] = np.where(liked, 0, np.minimum(in_a_row[:many] + 1 / MISSES, 1))
        after[row] = in_a_row[:many]
        turn = unit[shown] - tastes.interest[user[:many]] - shift[:many]
        shift[:many] += (1 - tastes.interest_decay) * liked[:, None] * turn
        genres[:many] = tastes.genre_decay * genres[:many] + tastes.genres[shown]
    return History(repeat, misses, after, drift)


def history_of_all_items(item: NDArray[np.integer], like: NDArray[np.bool_], user: int, tastes: Preferences) -> History:
    """Return the history [T, I] at each step of one session, for every item that could be shown there.

    Args:
        item: [T], rows of the items shown. like: [T], the responses. user: Row of the user. tastes: The tables.
    """
    unit, interest = _unit(tastes.direction.astype(np.float64)), tastes.interest[user].astype(np.float64)
    steps, rank = len(item), tastes.direction.shape[1]
    shift, genres, misses = np.zeros((steps + 1, rank)), np.zeros((steps + 1, tastes.genres.shape[1])), [0.0]
    for step, (shown, liked) in enumerate(zip(item, like, strict=True)):
        misses.append(0.0 if liked else min(misses[-1] + 1 / MISSES, 1.0))
        turn = unit[shown] - interest - shift[step]
        shift[step + 1] = shift[step] + (1 - tastes.interest_decay) * bool(liked) * turn
        genres[step + 1] = tastes.genre_decay * genres[step] + tastes.genres[shown]
    wide = np.ones(len(tastes.direction))
    repeat = (1 - tastes.genre_decay) * genres[:-1] @ tastes.genres.T
    before, after = (np.array(part)[:, np.newaxis] * wide for part in (misses[:-1], misses[1:]))
    return History(repeat, before, after, shift[:-1] @ tastes.direction.T)


def _unit(rows: Array) -> Array:
    norm = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows / np.where(norm > 0, norm, 1)
