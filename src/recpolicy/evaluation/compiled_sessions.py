"""Many simulated sessions of one policy in one compiled program, with the random numbers of SessionRunner.

N sessions at once, S steps, A items. A policy is a TensorFlow function from a session to actions and scores. `steps`
with a seed has the random numbers of `SessionRunner.run` with that seed, so a greedy policy gets the same sessions.
Longer runs are chunks of N sessions with other numbers each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.agents.categorical import MASKED
from recpolicy.core.seeds import stateless_seed
from recpolicy.core.tensorflow_random import fold_in, uniform
from recpolicy.environments.session import Session, SessionEnvironment
from recpolicy.evaluation.sessions import SessionResults, numbers_of_seed

Act = Callable[[Session, tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]
"""(session, observation [N, O], mask [N, A], seed int32 [2]) -> actions [N], scores [N, A] of allowed items."""
Scores = Callable[[Session, tf.Tensor, tf.Tensor], tf.Tensor]
"""(session, observation [N, O], seed int32 [2]) -> scores [N, A], the mask not applied."""
_CHUNKS = 10_000
"""Chunks of a seed that have random numbers of their own."""


@dataclass(frozen=True)
class SessionSteps:
    """All steps of N sessions, [S, N]; steps after a session has ended count for nothing."""

    user: NDArray[np.int32]  # [N]
    action: NDArray[np.int32]
    reward: NDArray[np.float32]
    like: NDArray[np.bool_]
    level: NDArray[np.int32]
    stays: NDArray[np.bool_]  # False where the user leaves after the step
    score: NDArray[np.float32]  # of the shown item
    best_score: NDArray[np.float32]  # of the best allowed item

    @property
    def going(self) -> NDArray[np.bool_]:
        """True [S, N] for steps that were shown."""
        before = np.vstack([np.ones((1, self.stays.shape[1]), bool), self.stays[:-1]])
        return np.logical_and.accumulate(before, axis=0)

    def results(self, actions: int) -> SessionResults:
        """Return the sessions' sums; `actions` is A."""
        going = self.going
        shown = np.stack(
            [np.bincount(row[on], minlength=actions) for row, on in zip(self.action, going, strict=True)]
        )  # [S, A]
        return SessionResults(
            (going * self.reward).sum(axis=0, dtype=np.float64), going.sum(axis=0), (going & self.like).sum(axis=0),
            (going * (self.level / 4.0)).sum(axis=0), self.user, shown,
        )  # fmt: skip


class CompiledSessions:
    """A compiled policy in one environment; variables that the policy reads may change between runs."""

    def __init__(self, environment: SessionEnvironment, act: Act):
        self.environment = environment
        self._act = act
        self._play = tf.function(self._steps, jit_compile=True, autograph=False)

    def steps(self, seed: int) -> SessionSteps:
        """Run one chunk of N sessions; return all steps."""
        family, first = numbers_of_seed(self.environment.noise_seed, seed)
        root, number = numbers_of_seed(tf.constant(stateless_seed(0, "compiled sessions"), tf.int32), seed)
        draws = fold_in(root, number // 1000)
        return SessionSteps(*(part.numpy() for part in self._play(family, tf.constant(first, tf.int64), draws)))

    def run(self, seed: int, episodes: int) -> SessionResults:
        """Run at least `episodes` sessions, in whole chunks; return their sums."""
        chunks = range(-(-episodes // self.environment.batch_size))
        # No chunk of a seed has the numbers of another seed.
        steps = (self.steps(seed * _CHUNKS + chunk) for chunk in chunks)
        return join_results([part.results(self.environment.actions) for part in steps])

    def _steps(self, family: tf.Tensor, first: tf.Tensor, root: tf.Tensor) -> tuple[tf.Tensor, ...]:
        environment, count = self.environment, self.environment.batch_size
        session = environment.restart(None, None, (tf.range(count, dtype=tf.float32)[:, tf.newaxis] + 0.5) / count)
        user = session.user_state.user
        steps = environment.config.max_episode_steps
        kinds = (tf.int32, tf.float32, tf.bool, tf.int32, tf.bool, tf.float32, tf.float32)
        record = tuple(tf.TensorArray(kind, size=steps) for kind in kinds)

        def one_step(step: tf.Tensor, session: Session, record: tuple[tf.TensorArray, ...]) -> tuple[object, ...]:
            observation, mask = environment.observe(session)
            action, scores = self._act(session, observation, mask, fold_in(root, step))
            noise = environment.noise(first + tf.cast(step, tf.int64), seed=family)
            done = environment.transition(session, action, noise)
            seen = (
                action, done.reward, done.response.like, done.response.level, done.response.stays,
                tf.gather(scores, action, batch_dims=1), tf.reduce_max(scores, axis=1),
            )  # fmt: skip
            record = tuple(array.write(step, part) for array, part in zip(record, seen, strict=True))
            return step + 1, done.session, record

        _, _, record = tf.while_loop(lambda step, *_: step < steps, one_step, (tf.constant(0), session, record))
        return user, *(array.stack() for array in record)


def greedy(scores: Scores) -> Act:
    """Return the policy that shows the item with the highest score; of equal ones the first."""

    def act(session: Session, observation: tf.Tensor, mask: tf.Tensor, seed: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        allowed = tf.where(mask, scores(session, observation, seed), MASKED)
        best = allowed >= tf.reduce_max(allowed, axis=1, keepdims=True)
        # XLA compiles an argmax badly after a matmul.
        places = tf.range(allowed.shape[1])
        return tf.reduce_min(tf.where(best, places, allowed.shape[1]), axis=1), allowed

    return act


def table_scores(table: NDArray[np.floating]) -> Scores:
    """Return the scores of a table [W, A], each user's row."""
    rows = tf.constant(table, tf.float32)
    return lambda session, *_: tf.gather(rows, session.user_state.user)


def random_scores(actions: int) -> Scores:
    """Return scores that are drawn anew at each step: their greedy choice is uniform."""
    return lambda _, observation, seed: uniform([observation.shape[0], actions], seed)


def join_results(parts: Sequence[SessionResults]) -> SessionResults:
    """Return the results of several chunks as one."""
    names = ("reward", "length", "likes", "watched", "user")
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
    return SessionResults(**joined, shown=np.sum([part.shown for part in parts], axis=0))
