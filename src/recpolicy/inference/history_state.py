"""Compute the history state of a session policy in NumPy; like environments/observation_encoders.py.

D embedding, G genres, S steps, L items shown. A history state [M] is built from the items shown, in order, and whether
each was liked. Counters are added up in single precision, as the environment does: ten times 1/20 is a little above 0.5
then, and a policy that cuts at 0.5 must find itself on the same side here.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.models.sequence_layout import SEQUENCE_VIEWS
from recpolicy.models.session_world import GENRE_DECAY, INTEREST_DECAY, MISSES

Array = NDArray[Any]


@dataclass(frozen=True)
class Past:
    """The items shown so far."""

    embedding: Array  # [L, D]
    genres: Array  # [L, G]
    liked: Sequence[bool]


@dataclass(frozen=True)
class Shape:
    """The numbers that a view was made with."""

    steps: int
    last_n: int
    genres: int


def _last_item(user: Array, past: Past, _: Shape) -> Array:
    return past.embedding[-1] if len(past.liked) else np.zeros_like(user)


def _interest(user: Array, past: Past, shape: Shape) -> Array:
    interest, remembered = user.astype(np.float32), np.zeros(shape.genres, np.float32)
    misses = np.float32(0.0)
    for embedding, genres, liked in zip(past.embedding, past.genres, past.liked, strict=True):
        if liked:
            length = np.sqrt(max(float(embedding @ embedding), 1e-12))
            interest = interest + np.float32(1.0 - INTEREST_DECAY) * (embedding / np.float32(length) - interest)
        remembered = np.float32(GENRE_DECAY) * remembered + np.float32(1.0 - GENRE_DECAY) * genres
        misses = np.float32(0.0) if liked else min(misses + np.float32(1.0 / MISSES), np.float32(1.0))
    tail = np.array([misses, _done(past, shape)], np.float32)
    return np.concatenate([interest, remembered, tail])


def _last_n(user: Array, past: Past, shape: Shape) -> Array:
    rank = len(user)
    history_state = np.zeros(shape.last_n * (rank + 1) + 1, np.float32)
    newest = list(zip(past.embedding, past.liked, strict=True))[::-1][: shape.last_n]
    for place, (embedding, liked) in enumerate(newest):
        at = place * (rank + 1)
        history_state[at : at + rank], history_state[at + rank] = embedding, float(liked)
    history_state[-1] = _done(past, shape)
    return history_state


def _sequence(user: Array, past: Past, shape: Shape) -> Array:
    features = len(user) + shape.genres
    history_state = np.zeros(shape.last_n * (features + 2) + 1, np.float32)
    tokens = history_state[:-1].reshape(shape.last_n, features + 2)
    newest = range(len(past.liked))[::-1][: shape.last_n]
    for token, at in zip(tokens, newest, strict=False):
        token[:] = [*past.embedding[at], *past.genres[at], float(past.liked[at]), 1.0]
    history_state[-1] = _done(past, shape)
    return history_state


def _done(past: Past, shape: Shape) -> np.float32:
    """Return the share of the steps that are over: a sum of as many 1 / S."""
    steps = np.full(len(past.liked) + 1, 1.0 / shape.steps, np.float32)
    steps[0] = 0.0
    total: np.float32 = np.cumsum(steps)[-1]
    return total


HISTORY_ENCODERS: Mapping[str, Callable[[Array, Past, Shape], Array]] = {
    "interest": _interest,
    "last_item": _last_item,
    "last_n": _last_n,
    **dict.fromkeys(SEQUENCE_VIEWS, _sequence),
}
"""(user's embedding [D], past, shape) -> history state [M], by the name of the view."""
