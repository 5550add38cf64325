"""Logs of sessions for tests: of the planted sessions, of a bandit with nothing to see, of any simulated game."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf
from session_blocks import environment, world

from recpolicy.data.session_log import SessionLog
from recpolicy.environments.observation_encoders import OBSERVATION_ENCODERS
from recpolicy.environments.session import SessionEnvironment
from recpolicy.training.observation_builder import ObservationBuilder
from recpolicy.training.rollout_sessions import Probabilities, SessionRollout, rollout_sessions, softmax_policy


@contextmanager
def eagerly() -> Iterator[None]:
    """Without compiling, which takes longer than small logs do."""
    before = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tf.config.run_functions_eagerly(before)


def log_of(rollout: SessionRollout, items: int, **changes: Any) -> SessionLog:
    """What was played, as a log."""
    count = len(rollout.user)
    columns: dict[str, Any] = {
        "event_id": np.arange(count).astype(str).astype(object), "time": np.arange(count), "user": rollout.user,
        "session": rollout.session.astype(str).astype(object), "step": rollout.step, "item": rollout.arm,
        "log_propensity": rollout.log_propensity, "reward": rollout.reward.astype(np.float64), "liked": rollout.liked,
        "ended": rollout.ended, "policy": np.full(count, "x", object), "version": np.full(count, "1", object),
        "action_items": np.arange(items, dtype=np.int32), "scale": (0.0, 1.0), "name": "planted sessions",
    }  # fmt: skip
    return SessionLog(**(columns | changes))


def uniform(game: SessionEnvironment) -> Probabilities:
    return softmax_policy(np.zeros(game.actions))


def random_log(sessions: int = 40, view: str = "interest", seed: int = 0) -> SessionLog:
    """The planted sessions, played by the uniform choice."""
    game = environment(seed, sessions, view=view)
    with eagerly():
        return log_of(rollout_sessions(game, uniform(game), sessions, seed), game.actions)


def sight_of(
    game: SessionEnvironment, context: np.ndarray, embedding: np.ndarray, **changes: Any
) -> ObservationBuilder:
    """What an agent of this game sees."""
    genres, config = game.world.genres, game.config
    view = OBSERVATION_ENCODERS[config.view](
        embedding.shape[1], genres.shape[1], config.max_episode_steps, config.last_n
    )
    plain = {
        "context": context, "embedding": embedding, "genres": genres, "view": view, "steps": config.max_episode_steps,
        "action_items": np.arange(len(embedding), dtype=np.int32),
    }  # fmt: skip
    return ObservationBuilder(**(plain | changes))


def planted_sight(view: str = "interest", **changes: Any) -> ObservationBuilder:
    return sight_of(environment(view=view), world().context, world().embedding, **changes)


def bandit_log(counts: np.ndarray, reward: np.ndarray, **changes: Any) -> SessionLog:
    """Sessions of one item: every item as often as its count says, logged with that share."""
    arm = np.repeat(np.arange(len(counts)), counts).astype(np.int32)
    rows, zeros = np.arange(len(arm)), np.zeros(len(arm), np.int32)
    rollout = SessionRollout(
        zeros, rows, zeros, arm, np.log(counts / counts.sum())[arm], reward[arm].astype(np.float32),
        np.ones(len(arm), bool), np.ones(len(arm), bool),
    )  # fmt: skip
    return log_of(rollout, len(counts), **({"scale": (0.0, float(reward.max()))} | changes))


def bandit_sight(actions: int) -> ObservationBuilder:
    """Everybody and everything looks like 0."""
    view = OBSERVATION_ENCODERS["last_item"](1, 1, 1, 1)
    items = np.zeros((actions, 1), np.float32)
    return ObservationBuilder(np.zeros((1, 1), np.float32), items, items, np.arange(actions, dtype=np.int32), view, 1)
