"""One step of a simulated session, as pure functions over a batch.

B sessions, A candidate items, W users, D interest, G genres. All randomness comes in as uniform numbers [B,
NOISE_DIMS], so a step is a pure function. The compiled loop draws them for many steps at once, TF-Agents' `step` for
one. See models/session_world.py for formulas and sources.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError
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
    """The tables of a world for the candidate items (rows [A]), as tensors.

    Constants make the fastest programs. Variables let one compiled program play several worlds of the same shapes, one
    after the other: see `load`.
    """

    def __init__(self, world: SessionWorld, candidates: NDArray[np.int32], *, variables: bool = False):
        super().__init__(name="session_tables")
        self.users, self.actions, self.steps = len(world.users), len(candidates), world.steps
        self._candidates = candidates
        arrays, scalars = self._values(world)
        make: Any = _variable if variables else tf.constant
        self.like, self.interest, self.direction, self.genres, self.stay, self.watch = (
            make(arrays[name]) for name in ("like", "interest", "direction", "genres", "stay", "watch")
        )
        self.known = None if world.known is None else make(arrays["known"])
        if variables:
            scalars = {name: _variable(np.asarray(value, np.float32)) for name, value in scalars.items()}
        self.slope, self.like_history, self.stay_history, self.levels = (
            scalars[name] for name in ("slope", "like_history", "stay_history", "levels")
        )
        self.interest_decay, self.genre_decay = world.interest_decay, world.genre_decay

    def load(self, world: SessionWorld) -> None:
        """Write another world into the variables.

        Raises:
            ConfigError: The world has other numbers of users, items or steps, or other decays.
        """
        arrays, scalars = self._values(world)
        same = (self.interest_decay, self.genre_decay) == (world.interest_decay, world.genre_decay)
        for name, value in (arrays | scalars).items():
            shape = tuple(getattr(self, name).shape)
            if not same or shape != np.shape(value):
                raise ConfigError(
                    f"world {world.name}: {name} {np.shape(value)}; one program plays worlds of one shape, {shape}"
                )
            getattr(self, name).assign(value)

    def _values(self, world: SessionWorld) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Return the arrays and the small weights of a world."""
        arrays: dict[str, NDArray[Any]] = {
            "like": world.like[:, self._candidates],  # [W, A]
            "interest": world.interest,  # [W, D]
            "direction": world.direction[self._candidates],  # [A, D]
            "genres": world.genres[self._candidates],  # [A, G]
            "stay": world.stay,  # [W, S]
            "watch": np.array(world.watch, np.float32),  # [5] by level
        }
        if world.known is not None:
            arrays["known"] = world.known[:, self._candidates].astype(np.int32)
        weights = {
            "slope": world.slope, "like_history": world.like_history.tolist(),
            "stay_history": world.stay_history.tolist(), "levels": world.levels.tolist(),
        }  # fmt: skip
        return arrays, weights


def _variable(value: NDArray[Any]) -> tf.Variable:
    return tf.Variable(value, trainable=False)


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
        tf.gather_nd(tf.convert_to_tensor(tables.like), cell)
        + tables.slope * tf.reduce_sum(state.shift * direction, axis=1)
        + tables.like_history[0] * repeat
        + tables.like_history[1] * state.misses
    )
    level = _level(tables, odds, noise[:, 1], noise[:, 2])
    if tables.known is not None:
        known = tf.gather_nd(tf.convert_to_tensor(tables.known), cell)
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
    return tf.gather_nd(tf.convert_to_tensor(tables.stay), tf.stack([state.user, now], axis=1))


def genre_repeat(tables: SessionTables, state: SessionState) -> tf.Tensor:
    """Return the share of recently shown genres that each item repeats, [B, A] in 0..1."""
    return (1.0 - tables.genre_decay) * tf.matmul(state.genres, tables.genres, transpose_b=True)


def _level(tables: SessionTables, odds: tf.Tensor, like_point: tf.Tensor, level_point: tf.Tensor) -> tf.Tensor:
    """Return levels [B] of 0..4 by continuation ratios: 4 or 3 if liked, else 2, else 1 or 0."""
    like = like_point < tf.sigmoid(odds)
    top, middle, low = (tf.sigmoid(tables.levels[k][0] + tables.levels[k][1] * odds) for k in range(3))
    # The second number is used twice: its part above `middle` is again uniform.
    rest = (level_point - middle) / tf.maximum(1.0 - middle, 1e-6)
    missed = tf.where(level_point < middle, 2, tf.where(rest < low, 1, 0))
    return tf.where(like, tf.where(level_point < top, 4, 3), missed)
