"""One step of a simulated session, as pure functions over a batch.

B sessions, A candidate items, W users, D interest, G genres. All randomness comes in as uniform numbers [B,
NOISE_DIMS], so a step is a pure function. The compiled loop draws them for many steps at once, TF-Agents' `step` for
one. See models/session_world.py for formulas and sources.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.models.session_world import LIKE_LEVEL, MISSES, SessionWorld

NOISE_DIMS = 4
"""Number of uniform numbers per session and step: next user, like, level, continuation."""


class SessionState(NamedTuple):
    """The state of each session; `shift` is interest_t - interest_0."""

    user: tf.Tensor  # [B] int32, 0..W-1
    shift: tf.Tensor  # [B, D]
    genres: tf.Tensor  # [B, G] decaying sum of the shown items' genre rows, at most 1 / (1 - genre_decay)
    misses: tf.Tensor  # [B] float, consecutive, capped at MISSES and divided by it
    step: tf.Tensor  # [B] int32, items shown so far
    shown: tf.Tensor  # [B, A] bool


class Response(NamedTuple):
    """The response of a user."""

    like: tf.Tensor  # [B] bool
    level: tf.Tensor  # [B] int32, 0..4: the watch fraction in quarters
    stays: tf.Tensor  # [B] bool, True if the session continues


class SessionTables(tf.Module):
    """The tables of a world for the candidate items (rows [A]), as tensors."""

    def __init__(self, world: SessionWorld, candidates: NDArray[np.int32]):
        super().__init__(name="session_tables")
        self.users, self.actions, self.steps = len(world.users), len(candidates), world.steps
        self.like = tf.constant(world.like[:, candidates])  # [W, A]
        self.known = None if world.known is None else tf.constant(world.known[:, candidates].astype(np.int32))
        self.interest = tf.constant(world.interest)  # [W, D]
        self.direction = tf.constant(world.direction[candidates])  # [A, D]
        self.genres = tf.constant(world.genres[candidates])  # [A, G]
        self.stay = tf.constant(world.stay)  # [W, S]
        self.slope, self.interest_decay, self.genre_decay = world.slope, world.interest_decay, world.genre_decay
        self.like_history, self.stay_history = world.like_history.tolist(), world.stay_history.tolist()
        self.levels = world.levels.tolist()


def begin(tables: SessionTables, point: tf.Tensor) -> SessionState:
    """Start sessions of the users at `point` [B], uniform in [0, 1)."""
    user = tf.minimum(tf.cast(point * tables.users, tf.int32), tables.users - 1)
    zero = tf.zeros_like(point)
    return SessionState(
        user=user, shift=zero[:, tf.newaxis] + tf.zeros([1, tables.interest.shape[1]]),
        genres=zero[:, tf.newaxis] + tf.zeros([1, tables.genres.shape[1]]), misses=zero,
        step=tf.zeros_like(user), shown=tf.zeros([tf.shape(point)[0], tables.actions], tf.bool),
    )  # fmt: skip


def transition(
    tables: SessionTables, state: SessionState, action: tf.Tensor, noise: tf.Tensor
) -> tuple[SessionState, Response]:
    """Show items `action` [B] int32 with `noise` [B, NOISE_DIMS]; returns the state after the responses."""
    direction, genres = tf.gather(tables.direction, action), tf.gather(tables.genres, action)  # [B, D], [B, G]
    cell = tf.stack([state.user, action], axis=1)
    repeat = (1.0 - tables.genre_decay) * tf.reduce_sum(state.genres * genres, axis=1)
    odds = (
        tf.gather_nd(tables.like, cell)
        + tables.slope * tf.reduce_sum(state.shift * direction, axis=1)
        + tables.like_history[0] * repeat
        + tables.like_history[1] * state.misses
    )
    level = _level(tables, odds, noise[:, 1], noise[:, 2])
    if tables.known is not None:
        known = tf.gather_nd(tables.known, cell)
        level = tf.where(known >= 0, known, level)
    like = level >= LIKE_LEVEL
    misses = tf.where(like, 0.0, tf.minimum(state.misses + 1.0 / MISSES, 1.0))
    stay = stay_base(tables, state) + tables.stay_history[0] * repeat + tables.stay_history[1] * misses
    liked = tf.cast(like, tf.float32)[:, tf.newaxis]
    turn = tf.math.l2_normalize(direction, axis=1) - tf.gather(tables.interest, state.user) - state.shift
    after = SessionState(
        user=state.user,
        shift=state.shift + liked * (1.0 - tables.interest_decay) * turn,
        genres=tables.genre_decay * state.genres + genres,
        misses=misses,
        step=state.step + 1,
        shown=state.shown | (action[:, tf.newaxis] == tf.range(tables.actions)),
    )
    return after, Response(like, level, noise[:, 3] < tf.sigmoid(stay))


def like_odds(tables: SessionTables, state: SessionState) -> tf.Tensor:
    """Return the log-odds [B, A] of a like for every item, including shown ones."""
    odds = (
        tf.gather(tables.like, state.user)
        + tables.slope * tf.matmul(state.shift, tables.direction, transpose_b=True)
        + tables.like_history[0] * genre_repeat(tables, state)
        + tables.like_history[1] * state.misses[:, tf.newaxis]
    )
    if tables.known is None:
        return odds
    known = tf.gather(tables.known, state.user)
    certain = tf.where(known >= LIKE_LEVEL, 30.0, -30.0)
    return tf.where(known >= 0, certain, odds)


def stay_odds(tables: SessionTables, state: SessionState) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the log-odds [B, A] of continuing after each item: if it is liked, and if it is not."""
    liked = stay_base(tables, state)[:, tf.newaxis] + tables.stay_history[0] * genre_repeat(tables, state)
    missed = tf.minimum(state.misses + 1.0 / MISSES, 1.0)[:, tf.newaxis]
    return liked, liked + tables.stay_history[1] * missed


def stay_base(tables: SessionTables, state: SessionState) -> tf.Tensor:
    """Return the log-odds [B] of continuing at this step, without history."""
    now = tf.minimum(state.step, tables.steps - 1)
    return tf.gather_nd(tables.stay, tf.stack([state.user, now], axis=1))


def genre_repeat(tables: SessionTables, state: SessionState) -> tf.Tensor:
    """Return the share of recently shown genres that each item repeats, [B, A] in 0..1."""
    return (1.0 - tables.genre_decay) * tf.matmul(state.genres, tables.genres, transpose_b=True)


def _level(tables: SessionTables, odds: tf.Tensor, like_point: tf.Tensor, level_point: tf.Tensor) -> tf.Tensor:
    """Return levels [B] of 0..4 by continuation ratios: 4 or 3 if liked, else 2, else 1 or 0."""
    like = like_point < tf.sigmoid(odds)
    top, middle, low = (tf.sigmoid(a + b * odds) for a, b in tables.levels)
    # The second number is used twice: its part above `middle` is again uniform.
    rest = (level_point - middle) / tf.maximum(1.0 - middle, 1e-6)
    missed = tf.where(level_point < middle, 2, tf.where(rest < low, 1, 0))
    return tf.where(like, tf.where(level_point < top, 4, 3), missed)
