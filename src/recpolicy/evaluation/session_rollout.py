"""Simulated sessions with a given exposure, run by the environment's own step.

B sessions, S steps. Whoever knows beforehand which items a session would show (real exposure; a policy that ranks by a
table, with shown items masked) needs no policy in the loop: the items are columns, the step is that which agents
train in (environments/session_dynamics.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.core.seeds import stateless_seed
from recpolicy.core.tensorflow_random import fold_in, uniform
from recpolicy.environments.session_dynamics import NOISE_DIMS, SessionTables, begin, transition
from recpolicy.models.session_world import LIKE_LEVEL, QUARTERS, SessionWorld

_BLOCK = 1 << 14  # sessions at once


@dataclass(frozen=True)
class SessionResponses:
    """The results of B sessions."""

    length: NDArray[np.int64]  # [B] items shown, 1..S
    level: NDArray[np.int8]  # [B, S] levels 0..4 of the responses; those past the length did not happen
    watch: tuple[float, ...] = QUARTERS
    """Watch fraction of each level."""

    @property
    def shown(self) -> NDArray[np.bool_]:
        """[B, S] whether the item was shown at all."""
        return np.arange(self.level.shape[1]) < self.length[:, None]

    @property
    def likes(self) -> NDArray[np.int64]:
        """[B] likes in the session."""
        return np.sum(self.shown & (self.level >= LIKE_LEVEL), axis=1)

    @property
    def engagement(self) -> NDArray[np.float64]:
        """[B] sum of the watch fractions in the session."""
        return np.sum(np.where(self.shown, np.array(self.watch)[self.level], 0), axis=1)


class SessionSimulator:
    """A simulator of sessions in one world; the graph is built once for all of them."""

    def __init__(self, world: SessionWorld):
        self.world = world
        self._tables = SessionTables(world, np.arange(world.like.shape[1], dtype=np.int32))
        self._block = tf.function(self._simulate, reduce_retracing=True)

    def simulate(self, who: NDArray[np.integer], item: NDArray[np.integer], seed: int) -> SessionResponses:
        """Show the items (rows) [B, S] to the world's users number `who` [B], until they leave or S is reached."""
        root = tf.constant(stateless_seed(seed, "session play"), tf.int32)
        levels, lengths = [], []
        for number, rows in enumerate(_blocks(len(who))):
            user, shown = tf.constant(who[rows], tf.int32), tf.constant(item[rows], tf.int32)
            level, stays = self._block(user, shown, fold_in(root, number))
            left = np.column_stack([~stays.numpy()[:, :-1], np.ones(len(level), bool)])  # nobody goes past step S
            levels.append(level.numpy().astype(np.int8))
            lengths.append(1 + np.argmax(left, axis=1))
        return SessionResponses(np.concatenate(lengths), np.concatenate(levels), self.world.watch)

    def _simulate(self, user: tf.Tensor, shown: tf.Tensor, noise_seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return levels and continuations [B, S], as if nobody ever left."""
        steps = self.world.steps
        noise = uniform([tf.shape(user)[0], steps, NOISE_DIMS], noise_seed)
        state = begin(self._tables, tf.zeros([tf.shape(user)[0]]))._replace(user=user)
        levels, stays = [], []
        for step in range(steps):  # unrolled, so that the mask of shown items, which nobody reads, is pruned
            state, response = transition(self._tables, state, shown[:, step], noise[:, step])
            levels.append(response.level)
            stays.append(response.stays)
        return tf.stack(levels, axis=1), tf.stack(stays, axis=1)


def _blocks(sessions: int) -> Iterator[slice]:
    return (slice(first, first + _BLOCK) for first in range(0, sessions, _BLOCK))
