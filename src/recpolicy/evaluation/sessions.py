"""Rewards of policies in simulated sessions, with the same users and the same random numbers for all.

N sessions, B of them side by side, each from its beginning to its end; An items. Users are spread evenly over the
sessions, and the random numbers behind their responses depend on the seed, the block of B and the step only, not on
what is shown, so differences between policies are paired. A policy is a function from what it sees to actions;
`informed` ones also see the hidden state, for baselines that know the world.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.core.seeds import stateless_seed
from recpolicy.core.statistics import Interval, mean_interval
from recpolicy.core.tensorflow_random import fold_in
from recpolicy.environments.session import Session, SessionEnvironment
from recpolicy.environments.session_base import SessionEnvironmentBase
from recpolicy.environments.session_dynamics import like_odds, stay_odds
from recpolicy.evaluation.diversity import ActionDiversity, action_diversity

Choose = Callable[[Session, NDArray[np.float32], NDArray[np.bool_], np.random.Generator], NDArray[np.integer]]
"""(session, observation [N, O], mask [N, A], rng) -> actions [N], or slates [N, K] in an environment of slates. Only
informed baselines may look at the session."""


@dataclass(frozen=True)
class SessionResults:
    """N sessions of one policy."""

    reward: NDArray[np.float64]  # [N] sum of rewards
    length: NDArray[np.int64]  # [N] items shown
    likes: NDArray[np.int64]  # [N]
    watched: NDArray[np.float64]  # [N] sum of watch fractions
    user: NDArray[np.int32]  # [N] rows of the world's users
    shown: NDArray[np.int64]  # [S, An] times that each item was shown at each step

    def diversity(self) -> ActionDiversity:
        """Return the diversity of the items shown at a step, as a mean over the items shown.

        Steps are described apart: a session never repeats an item, so even one list for all users shows many items.
        """
        steps = self.shown[self.shown.sum(axis=1) > 0]
        share = steps.sum(axis=1) / steps.sum()
        spread = [action_diversity(step) for step in steps]
        return ActionDiversity(
            float(share @ [step.diversity for step in spread]), int((steps.sum(axis=0) > 0).sum()),
            float(share @ [step.modal_share for step in spread]), steps.shape[1],
        )  # fmt: skip

    def by_user(self, values: NDArray[np.floating]) -> NDArray[np.float64]:
        """Return means of `values` [N] per user, of the users with sessions."""
        count = np.bincount(self.user)
        return (np.bincount(self.user, values) / np.maximum(count, 1))[count > 0]

    def interval(self, rng: np.random.Generator) -> Interval:
        """Return the mean reward of a session with its user-bootstrap interval."""
        return mean_interval(self.by_user(self.reward), rng)


_FIRST_LARGE_SEED = (1 << 31) // 1000
"""Larger seeds have a family of random numbers each; numbers of the environment's own family would wrap."""


def numbers_of_seed(family: tf.Tensor, seed: int) -> tuple[tf.Tensor, int]:
    """Return a family of random numbers, int32 [2], and the number of the first step in it; no two seeds share any."""
    if seed < _FIRST_LARGE_SEED:
        return family, seed * 1000
    first, second = stateless_seed(seed, "sessions")
    return fold_in(fold_in(family, first), second), 0


SESSIONS_AT_ONCE = 1 << 13
"""Most sessions side by side; bounds the memory of tables [B, An]."""


class SessionRunner:
    """A runner of policies in one environment, `sessions` sessions in all; None runs one batch of the environment."""

    def __init__(self, environment: SessionEnvironmentBase, sessions: int | None = None):
        self._environment = environment
        self._sessions = environment.batch_size if sessions is None else sessions
        self._transition = tf.function(environment.transition, jit_compile=True, autograph=False)
        self._observe = tf.function(environment.observe, jit_compile=True, autograph=False)

    def run(self, choose: Choose, seed: int = 0) -> SessionResults:
        """Run all sessions, a batch at a time; those of the last batch beyond the number asked for do not count."""
        rng = np.random.default_rng(seed)
        batch = self._environment.batch_size
        blocks = [self._run_block(choose, seed, block, rng) for block in range(-(-self._sessions // batch))]
        reward, length, likes, watched, user = (
            np.concatenate([getattr(block, name) for block in blocks])[: self._sessions]
            for name in ("reward", "length", "likes", "watched", "user")
        )
        return SessionResults(reward, length, likes, watched, user, np.sum([block.shown for block in blocks], axis=0))

    def _run_block(self, choose: Choose, seed: int, block: int, rng: np.random.Generator) -> SessionResults:
        environment = self._environment
        sessions = environment.batch_size
        number = block * sessions + np.arange(sessions)
        even = (number.astype(np.float32)[:, np.newaxis] + 0.5) / self._sessions
        session = environment.restart(None, None, tf.constant(np.minimum(even, 1.0), tf.float32))
        user = session.user_state.user.numpy()
        going = number < self._sessions
        reward, watched = np.zeros(sessions), np.zeros(sessions)
        length, likes = np.zeros(sessions, np.int64), np.zeros(sessions, np.int64)
        shown = np.zeros((environment.config.max_episode_steps, environment.actions), np.int64)
        watch = np.array(environment.world.watch)
        family, first = numbers_of_seed(environment.noise_seed, seed)
        noise_seed = fold_in(family, block) if block else family
        for step in range(environment.config.max_episode_steps):
            observation, mask = (part.numpy() for part in self._observe(session))
            action = tf.constant(choose(session, observation, mask, rng), tf.int32)
            noise = environment.noise(tf.constant(first + step, tf.int64), seed=noise_seed)
            done = self._transition(session, action, noise)
            session = done.session
            shown[step] = np.bincount(action.numpy()[going].ravel(), minlength=shown.shape[1])
            reward += going * done.reward.numpy()
            length += going
            likes += going & done.response.like.numpy()
            watched += going * watch[done.response.level.numpy()]
            going &= ~(done.terminated.numpy() | done.truncated.numpy())
            if not going.any():
                break
        return SessionResults(reward, length, likes, watched, user, shown)


def by_table(score: NDArray[np.floating], slate_size: int = 1) -> Choose:
    """Show the best item of a table [W, A] that was not shown yet, each user's row in turn; ties at random.

    Above 1, `slate_size` is the number of best items to show at once, in an environment of slates.
    """

    def choose(
        session: Session, _: NDArray[np.float32], mask: NDArray[np.bool_], rng: np.random.Generator
    ) -> NDArray[np.integer]:
        user = session.user_state.user.numpy()
        return best(score[user], mask, rng) if slate_size == 1 else best_slate(score[user], mask, slate_size, rng)

    return choose


def best(score: NDArray[np.floating], mask: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.integer]:
    """Return the highest allowed scores of each row [N, A]; ties at random."""
    allowed = np.where(mask, score, -np.inf)
    chosen: NDArray[np.integer] = allowed.argmax(axis=1)
    tied = allowed == allowed.max(axis=1, keepdims=True)
    several = np.flatnonzero(tied.sum(axis=1) > 1)
    if len(several):
        lot = np.where(tied[several], rng.random((len(several), tied.shape[1]), dtype=np.float32), -1.0)
        chosen[several] = lot.argmax(axis=1)
    return chosen


def best_slate(
    score: NDArray[np.floating], mask: NDArray[np.bool_], size: int, rng: np.random.Generator
) -> NDArray[np.integer]:
    """Return the `size` highest allowed scores of each row, [N, size], best first; ties at random."""
    value, lot = np.where(mask, score, -np.inf), rng.random(score.shape, dtype=np.float32)
    lowest = np.partition(value, -size, axis=1)[:, -size, np.newaxis]  # the lowest score of a slate
    place = np.where(value > lowest, np.inf, np.where(value == lowest, -lot, -np.inf))
    chosen = np.argpartition(place, -size, axis=1)[:, -size:]  # [N, size]
    value, lot = (np.take_along_axis(part, chosen, axis=1) for part in (value, lot))
    slate: NDArray[np.integer] = np.take_along_axis(chosen, np.lexsort((lot, -value), axis=1), axis=1)
    return slate


def fatigue_aware(environment: SessionEnvironment, worth: float) -> Choose:
    """Return the greedy choice by `fatigue_aware_scores`."""
    scores = tf.function(fatigue_aware_scores(environment, worth), jit_compile=True, autograph=False)

    def choose(
        session: Session, _: NDArray[np.float32], mask: NDArray[np.bool_], rng: np.random.Generator
    ) -> NDArray[np.integer]:
        return best(scores(session).numpy(), mask, rng)

    return choose


def fatigue_aware_scores(environment: SessionEnvironment, worth: float) -> Callable[[Session], tf.Tensor]:
    """Return scores [N, A] by the true world: P(like) + P(session continues) worth, `worth` being the future value.

    Their greedy choice does not plan, but it knows what no policy knows: how this user will respond, fatigue included.
    """
    tables = environment.tables

    def scores(session: Session) -> tf.Tensor:
        like = tf.sigmoid(like_odds(tables, session.user_state))
        liked, missed = (tf.sigmoid(odds) for odds in stay_odds(tables, session.user_state))
        return like + worth * (like * liked + (1.0 - like) * missed)

    return scores


def session_baselines(
    environment: SessionEnvironment, tables: Mapping[str, NDArray[np.floating]], worths: tuple[float, ...] = (2.0, 5.0)
) -> dict[str, Choose]:
    """Return choices by the named score tables [U, A] (every user of the ratings), and the one that knows the fatigue.

    Of several values of what is still to come, the best is taken: the baseline is meant to be hard to beat.
    """
    rows = environment.world.users
    policies: dict[str, Any] = {name: by_table(table[rows]) for name, table in tables.items()}
    runner = SessionRunner(environment)
    informed = [fatigue_aware(environment, worth) for worth in worths]
    earned = [runner.run(choose, seed=1).reward.mean() for choose in informed]
    policies["fatigue_aware"] = informed[int(np.argmax(earned))]
    return policies
