"""The base class of the session environments, with their config, their state and the TF-Agents interface.

Subclasses define `transition`, the effect of one action. The base class draws users and noise, encodes observations and
keeps the variables. TF-Agents calls `reset` and `step`, which restarts ended sessions; the compiled loop
(training/session_loop.py) calls the pure functions. B sessions, A candidate items, W users, D embedding,
M history state.
"""

import abc
from typing import Any, Literal, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tf_agents.environments import tf_environment
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step as ts

from recpolicy.core.config import PositiveFraction, Size, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.core.seeds import stateless_seed
from recpolicy.core.tensorflow_random import fold_in, uniform
from recpolicy.environments.item_bandit import check_action_items
from recpolicy.environments.observation_encoders import OBSERVATION_ENCODERS
from recpolicy.environments.session_dynamics import SessionState, SessionTables, begin
from recpolicy.models.session_world import SIMILARITIES, SessionWorld


@config_dataclass
class SessionConfig:
    """Settings of the sessions."""

    batch_size: Size = 64
    """Number of parallel sessions."""
    reward: Literal["like", "watch", "rating", "similarity", "cosine_similarity"] = "like"
    """Reward of a shown item: 1 for a like, the watch fraction, or the rating; or, without any feedback, the dot
    product or cosine of the embeddings of user and item."""
    reward_decay: PositiveFraction = 1.0
    """Factor on the reward for each earlier step, in (0, 1]."""
    view: Literal["interest", "last_item", "last_n", "gru", "transformer"] = "interest"
    """Part of the session that the policy observes; gru and transformer name an encoder that reads the last items."""
    last_n: Size = 5
    """Number of items in the views last_n, gru and transformer."""
    max_episode_steps: Size = 20
    """Number of steps after which a session is cut; at most the steps of the world."""


class Session(NamedTuple):
    """The complete state of a batch of sessions."""

    user_state: SessionState
    history_state: tf.Tensor  # [B, M], written by the encoder


class Step(NamedTuple):
    """The results of one action, before any restart."""

    session: Session
    reward: tf.Tensor  # [B]
    terminated: tf.Tensor  # [B] bool, the user left
    truncated: tf.Tensor  # [B] bool, cut at max_episode_steps although the user would have stayed
    response: Any  # the users' Response, or SlateResponse for slates


class SessionEnvironmentBase(tf_environment.TFEnvironment, abc.ABC):
    """A batch of sessions in one world; subclasses define the effect of an action."""

    def __init__(
        self, world: SessionWorld, context: NDArray[np.float32], embedding: NDArray[np.float32],
        candidates: NDArray[np.int32], config: SessionConfig, seed: int, *, slate: int, noise_dims: int,
        replaceable: bool = False,
    ):  # fmt: skip
        """Show `slate` items per step (0: one, with a scalar action); draw `noise_dims` random numbers per session.

        A `replaceable` world lies in variables, so that compiled functions can go on in another one (`load_world`).
        """
        check_action_items(candidates, world.like.shape[1])
        _check_tables(world, context, embedding)
        steps, most = config.max_episode_steps, max(slate, 1)
        if steps > min(world.steps, len(candidates) // most - 1):
            raise ConfigError(
                f"max_episode_steps is {steps}; the world knows {world.steps} steps and there are {len(candidates)}"
                f" items to show, {most} a step and {most} left at the end: choose less"
            )
        if slate and config.reward in SIMILARITIES:
            raise ConfigError(f"reward is {config.reward!r}; slates pay like, watch or rating")
        self.config, self.actions, self.world = config, len(candidates), world
        self.tables = SessionTables(world, candidates, variables=replaceable)
        self.view = OBSERVATION_ENCODERS[config.view](
            embedding.shape[1], world.genres.shape[1], steps * most, config.last_n
        )
        self._all_contexts = context
        rows = context[world.users]
        self._context = tf.Variable(rows, trainable=False) if replaceable else tf.constant(rows)  # [W, D or more]
        self._embedding = tf.constant(embedding[candidates])  # [A, D]
        self._low, self._span = world.scale[0], world.scale[1] - world.scale[0]
        self._streams, self.slate_size = noise_dims, slate
        self.largest_feature = float(max(np.abs(context).max(), np.abs(embedding).max()))
        """Bound of the absolute context and embeddings; encodings stay within it or 1."""
        observation = {
            "global": tensor_spec.TensorSpec((context.shape[1] + self.view.width,), tf.float32, "global"),
            "mask": tensor_spec.TensorSpec((self.actions,), tf.int32, "mask"),
        }
        shape = (slate,) if slate else ()
        action = tensor_spec.BoundedTensorSpec(shape, tf.int32, 0, self.actions - 1, name="action")
        super().__init__(ts.time_step_spec(observation), action, config.batch_size)
        self.noise_seed = tf.constant(stateless_seed(seed, "session"), tf.int32)
        # The first round draws the first users.
        first = self.restart(None, None, self.noise(tf.constant(0, tf.int64)))
        self.round = tf.Variable(1, dtype=tf.int64, trainable=False, name="round")
        self._session = tf.nest.map_structure(lambda x: tf.Variable(x, trainable=False), first)
        self._last = tf.nest.map_structure(lambda x: tf.Variable(x, trainable=False), self._first_step(first))

    def load_world(self, world: SessionWorld) -> None:
        """Go on in another world of the same shapes; running sessions are for its caller to restart.

        Raises:
            ConfigError: The shapes differ.
        """
        self.tables.load(world)
        self._context.assign(self._all_contexts[world.users])
        self.world = world

    @abc.abstractmethod
    def transition(self, session: Session, action: tf.Tensor, noise: tf.Tensor) -> Step:
        """Apply `action` with one round's noise, without restarts."""

    @property
    def item_spec(self) -> tensor_spec.BoundedTensorSpec:
        """The spec of one item: of the action, or of a place of a slate."""
        return tensor_spec.BoundedTensorSpec((), tf.int32, 0, self.actions - 1, name="action")

    @property
    def max_return(self) -> float:
        """Upper bound of the absolute sum of rewards of a session."""
        largest = 1.0
        if self.config.reward == "rating":
            largest = max(abs(self._low), abs(self._low + self._span))
        elif self.config.reward == "similarity":  # a product of two vectors is at most that of their lengths
            users, items = self._context[:, : self._embedding.shape[1]], self._embedding
            largest = float(np.prod([tf.reduce_max(tf.norm(part, axis=1)) for part in (users, items)]))
        return largest * max(self.slate_size, 1) * self.config.max_episode_steps

    def noise(self, round_number: tf.Tensor, steps: int | None = None, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Return the uniform numbers [B, streams] of one round, or [steps, B, streams] of a block of rounds.

        `seed`, int32 [2], defaults to the environment's seed.
        """
        shape = [self.batch_size, self._streams]
        seed = self.noise_seed if seed is None else seed
        return uniform(shape if steps is None else [steps, *shape], fold_in(seed, round_number))

    def observe(self, session: Session) -> tuple[tf.Tensor, tf.Tensor]:
        """Return the observation: features [B, context + M] and the mask [B, A] bool."""
        context = tf.gather(self._context, session.user_state.user)
        return tf.concat([context, session.history_state], axis=1), ~session.user_state.shown

    def restart(self, session: Session | None, ended: tf.Tensor | None, noise: tf.Tensor) -> Session:
        """Replace ended sessions [B] (all if None) with fresh ones."""
        user_state = begin(self.tables, noise[:, 0])
        embedding = tf.gather(self._context, user_state.user)[:, : self._embedding.shape[1]]
        fresh = Session(user_state, self.view.start(embedding))
        if session is None or ended is None:
            return fresh
        chosen: Session = choose(ended, fresh, session)
        return chosen

    def reward(self, like: tf.Tensor, level: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Return the rewards [B] of items with responses `like` [B] bool and `level` [B] after `step` [B] steps."""
        decay = self._decay(step)
        if self.config.reward == "like":
            return decay * tf.cast(like, tf.float32)
        if self.config.reward == "watch":
            return decay * tf.gather(self.tables.watch, level)
        return decay * (self._low + self._span * tf.cast(level, tf.float32) / 4.0)

    def similarity(self, user: tf.Tensor, action: tf.Tensor, step: tf.Tensor) -> tf.Tensor:
        """Return the rewards [B] by SIMILARITIES: they depend on embeddings that the policy sees, not on responses."""
        item = tf.gather(self._embedding, action)  # [B, D]
        taste = tf.gather(self._context, user)[:, : item.shape[1]]
        if self.config.reward == "cosine_similarity":
            item, taste = tf.math.l2_normalize(item, axis=1), tf.math.l2_normalize(taste, axis=1)
        return self._decay(step) * tf.reduce_sum(taste * item, axis=1)

    def _decay(self, step: tf.Tensor) -> tf.Tensor | float:
        """Return the factor [B] on the rewards after `step` [B] steps."""
        return tf.pow(self.config.reward_decay, tf.cast(step, tf.float32)) if self.config.reward_decay < 1 else 1.0

    def _first_step(self, session: Session) -> ts.TimeStep:
        return ts.restart(self._observation(session), self.batch_size)

    def _observation(self, session: Session) -> dict[str, tf.Tensor]:
        features, mask = self.observe(session)
        return {"global": features, "mask": tf.cast(mask, tf.int32)}

    def _current_time_step(self) -> ts.TimeStep:
        return tf.nest.map_structure(tf.identity, self._last)

    def _reset(self) -> ts.TimeStep:
        session = self.restart(None, None, self.noise(self.round))
        return self._keep(session, self._first_step(session))

    def _step(self, action: tf.Tensor) -> ts.TimeStep:
        session = tf.nest.map_structure(tf.identity, self._session)
        noise = self.noise(self.round)
        step = self.transition(session, tf.cast(action, tf.int32), noise)
        ended = tf.equal(self._last.step_type, ts.StepType.LAST)  # their action has no effect: they restart
        after = self.restart(step.session, ended, noise)
        over = step.terminated | step.truncated
        step_type = tf.where(ended, ts.StepType.FIRST, tf.where(over, ts.StepType.LAST, ts.StepType.MID))
        time_step = ts.TimeStep(
            step_type=step_type,
            reward=tf.where(ended, 0.0, step.reward),
            discount=tf.where(step.terminated & ~ended, 0.0, 1.0),
            observation=self._observation(after),
        )
        return self._keep(after, time_step)

    def _keep(self, session: Session, time_step: ts.TimeStep) -> ts.TimeStep:
        variables: list[Any] = tf.nest.flatten((self._session, self._last))
        values = tf.nest.flatten((session, time_step))
        # All are computed from the old state before any of it is overwritten.
        with tf.control_dependencies(values):
            assignments = [variable.assign(value) for variable, value in zip(variables, values, strict=True)]
            assignments.append(self.round.assign_add(1))
        with tf.control_dependencies(assignments):
            return tf.nest.map_structure(tf.identity, time_step)


def choose(where: tf.Tensor, new: Any, old: Any) -> Any:
    """Take `new` where `where` [B] is True, else `old`; both are nests of tensors [B, ...]."""

    def pick(chosen: tf.Tensor, other: tf.Tensor) -> tf.Tensor:
        return tf.where(tf.reshape(where, [-1] + [1] * (len(other.shape) - 1)), chosen, other)

    return tf.nest.map_structure(pick, new, old)


def _check_tables(world: SessionWorld, context: NDArray[np.float32], embedding: NDArray[np.float32]) -> None:
    users, items = int(world.users.max()) + 1, world.like.shape[1]
    if len(context) < users:
        raise ConfigError(f"context has {len(context)} users, the world names user row {users - 1}")
    if len(embedding) != items:
        raise ConfigError(f"embedding has {len(embedding)} items, the world {items}")
    if context.shape[1] < embedding.shape[1]:
        raise ConfigError(
            f"context is {context.shape[1]} wide, the items' embedding {embedding.shape[1]}: the context must start"
            " with the user's embedding"
        )
