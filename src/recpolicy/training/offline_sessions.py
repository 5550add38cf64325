"""Learning from logged sessions: top-K REINFORCE from whole sessions, DQN from single steps; nothing is played.

M sessions of at most S steps, N steps in all; A movies of the agent's catalogue, O observation. What the agent would
have seen at each step (its view of the session, the movies already shown) is rebuilt from the logged movies and likes.
An epoch, every session or step once in a seeded order, is one XLA program; the incomplete last batch is a second one.

- topk_reinforce: blocks of sessions, `passes` gradient steps each, with the logged probability as beta (capped weight,
  lambda_K, rewards to the end of the session), or the behaviour head's estimate where nobody noted propensities.
- dqn: batches of steps, one double-DQN step each; a session that was cut goes on in the target, one that ended does
  not. Q(s, a) is a mean over what follows a in s, so it asks for no propensities.

Sources: Chen et al. 2019 (1812.02353); van Hasselt et al. 2015 (1509.06461).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step as ts

from recpolicy.agents.dqn import DQN
from recpolicy.agents.experience import Experience
from recpolicy.agents.replay import Batch
from recpolicy.agents.sequence import Figures, SequenceAgent, SequenceLearner
from recpolicy.agents.topk_reinforce import TopKReinforce
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.seeds import generator
from recpolicy.core.tensorflow_random import fold_in
from recpolicy.data.logged_sessions import LoggedSessions
from recpolicy.environments.session_views import Shown, View

LEARN_FROM_LOGS = ("topk_reinforce", "dqn")
"""Agents of sessions that can learn from other policies' sessions."""


@dataclass(frozen=True)
class Sight:
    """What the agent knows of users and movies, and how it sees a session."""

    context: NDArray[np.float32]  # [U, >= D], the embedding first
    embedding: NDArray[np.float32]  # [A, D]
    genres: NDArray[np.float32]  # [A, G]
    catalogue: NDArray[np.int32]  # [A], movie rows, ascending
    view: View
    steps: int
    """S, the most movies of a session."""

    def specs(self) -> tuple[Any, Any]:
        """The time steps and actions of an agent that sees so."""
        observation = {
            "global": tensor_spec.TensorSpec((self.context.shape[1] + self.view.width,), tf.float32, "global"),
            "mask": tensor_spec.TensorSpec((len(self.catalogue),), tf.int32, "mask"),
        }
        action = tensor_spec.BoundedTensorSpec((), tf.int32, 0, len(self.catalogue) - 1, name="action")
        return ts.time_step_spec(observation), action


class Replayed(NamedTuple):
    """M sessions as the agent would have seen them; steps after the end are padding."""

    user: tf.Tensor  # [M, C] contexts
    memory: tf.Tensor  # [M, S + 1, W] before each step, and after the last
    arm: tf.Tensor  # [M, S] int32, -1 after the end
    log_probability: tf.Tensor  # [M, S]
    reward: tf.Tensor  # [M, S]
    length: tf.Tensor  # [M] int32
    ended: tf.Tensor  # [M] bool, the user left; else the session was cut
    session: tf.Tensor  # [N] int32, of each logged step
    step: tf.Tensor  # [N] int32


def learn_from_sessions(
    agent: SequenceAgent, log: LoggedSessions, sight: Sight, *, epochs: int = 1, batch: int = 64, seed: int = 0
) -> dict[str, Any]:
    """Let the agent learn from logged sessions; returns the figures of the training, those of updates of the last pass.

    `batch` is the sessions of a block; agents that learn from single steps take their own batch of steps. Raises what
    `check_log` raises.
    """
    check_log(agent.learner, log, sight)
    replayed = replay(log, sight)
    units, size = (len(log.length), batch) if agent.learner.whole_sessions else (len(log), agent.learner.config.batch)
    batches, left = divmod(units, min(size, units))
    whole = units - left
    order_rng = generator(seed, "offline/sessions")
    epoch = tf.function(_epoch(agent, batches, len(sight.catalogue)), jit_compile=True, autograph=False)
    remainder = tf.function(_epoch(agent, 1, len(sight.catalogue)), jit_compile=True, autograph=False)
    told = np.zeros(0)
    for _ in range(epochs):
        order = order_rng.permutation(units).astype(np.int32)
        told = epoch(replayed, tf.constant(order[:whole])).numpy()
        if left:
            rest = remainder(replayed, tf.constant(order[whole:])).numpy()
            told = (told * whole + rest * left) / units
    figures = dict(zip(_figures(agent.learner), told.tolist(), strict=True))
    return {"mode": "log", "rows": len(log), "sessions": len(log.length), "epochs": epochs, **figures}


def check_log(learner: SequenceLearner, log: LoggedSessions, sight: Sight) -> None:
    """Raise ConfigError for an agent that cannot learn from sessions of others, DataError for a log it cannot use."""
    if type(learner) not in _UPDATES:
        raise ConfigError(
            f"{learner.name} learns from sessions that it plays itself, not from logged ones; of the agents of sessions"
            f" {' and '.join(LEARN_FROM_LOGS)} learn from logs"
        )
    if not len(log):
        raise DataError(f"{log.name}: no sessions to learn from")
    if log.log_propensity is None and isinstance(learner, TopKReinforce) and learner.config.behaviour == "logged":
        raise DataError(
            f"{log.name}: no propensities, by which topk_reinforce weighs every step; log them, or estimate them from"
            " the log itself with the agent's setting behaviour = 'head'"
        )
    strange = ~np.isin(log.movie, sight.catalogue)
    if strange.any():
        raise DataError(
            f"{log.name}: {int(strange.sum())} of {len(log)} steps show movies that are not among the"
            f" {len(sight.catalogue)} of the policy; learn from a log with the policy's catalogue, or train a policy"
            " with the log's"
        )
    longest = int(log.length.max())
    if longest > sight.steps:
        raise DataError(
            f"{log.name}: a session of {longest} steps, but the policy's sessions have at most {sight.steps}; set"
            " max_episode_steps to as many"
        )


def replay(log: LoggedSessions, sight: Sight) -> Replayed:
    """Rebuild what the agent would have seen at every step."""
    count, length = len(log.length), log.length
    session = np.repeat(np.arange(count), length)

    def padded(values: NDArray[Any], fill: float) -> NDArray[Any]:
        table = np.full((count, sight.steps), fill, values.dtype)
        table[session, log.step] = values
        return table

    arm = padded(np.searchsorted(sight.catalogue, log.movie).astype(np.int32), -1)
    liked = padded(log.liked.astype(np.float32), 0)
    propensity = np.zeros(len(log)) if log.log_propensity is None else log.log_propensity
    context = sight.context[log.user[log.start[:-1]]]
    memory = [sight.view.start(tf.constant(context[:, : sight.embedding.shape[1]]))]
    for step in range(sight.steps):
        place = arm[:, step]
        shown = Shown(
            tf.constant(sight.embedding[place]), tf.constant(sight.genres[place]), tf.constant(liked[:, step])
        )
        memory.append(sight.view.update(memory[-1], shown))
    return Replayed(
        user=tf.constant(context), memory=tf.stack(memory, axis=1), arm=tf.constant(arm),
        log_probability=tf.constant(padded(propensity.astype(np.float32), 0)),
        reward=tf.constant(padded(log.reward.astype(np.float32), 0)), length=tf.constant(length.astype(np.int32)),
        ended=tf.constant(log.ended[log.start[1:] - 1]), session=tf.constant(session.astype(np.int32)),
        step=tf.constant(log.step),
    )  # fmt: skip


def block_of(replayed: Replayed, rows: tf.Tensor, actions: int) -> Experience:
    """The sessions in `rows` [B] as a block of whole sessions [S, B]; what follows a session's end counts for nothing.

    `next_mask` is left out: no agent that learns from whole sessions asks for it.
    """
    user, memory, arm, log_probability, reward, length, ended = (tf.gather(part, rows) for part in replayed[:7])
    steps = arm.shape[1]
    seen = tf.concat([tf.repeat(user[:, tf.newaxis], steps + 1, axis=1), memory], axis=2)  # [B, S + 1, O]
    seen = tf.transpose(seen, [1, 0, 2])
    last = tf.range(steps)[:, tf.newaxis] == length - 1  # [S, B]
    masks, allowed = [], tf.ones([arm.shape[0], actions], tf.bool)
    for step in range(steps):
        masks.append(allowed)
        allowed &= arm[:, step, tf.newaxis] != tf.range(actions)
    return Experience(
        observation=seen[:-1], mask=tf.stack(masks), action=tf.maximum(tf.transpose(arm), 0),
        log_probability=tf.transpose(log_probability), reward=tf.transpose(reward), terminated=last & ended,
        truncated=last & ~ended, next_observation=seen[1:], next_mask=None,
    )  # fmt: skip


def steps_of(replayed: Replayed, rows: tf.Tensor, actions: int) -> Batch:
    """The logged steps in `rows` [n]; the next mask is that of all movies which the session has not shown by then."""
    session, step = tf.gather(replayed.session, rows), tf.gather(replayed.step, rows)
    user, arm = tf.gather(replayed.user, session), tf.gather(replayed.arm, session)
    width = replayed.memory.shape[2]
    flat, place = tf.reshape(replayed.memory, [-1, width]), session * replayed.memory.shape[1] + step
    allowed = tf.ones([rows.shape[0], actions], tf.bool)
    for earlier in range(arm.shape[1]):
        shown = tf.where(earlier <= step, arm[:, earlier], -1)
        allowed &= shown[:, tf.newaxis] != tf.range(actions)
    last = tf.equal(step, tf.gather(replayed.length, session) - 1)
    return Batch(
        observation=tf.concat([user, tf.gather(flat, place)], axis=1),
        action=tf.gather(arm, step, batch_dims=1),
        reward=tf.gather(tf.gather(replayed.reward, session), step, batch_dims=1),
        terminated=last & tf.gather(replayed.ended, session),
        next_observation=tf.concat([user, tf.gather(flat, place + 1)], axis=1), next_mask=allowed,
    )  # fmt: skip


def _by_sessions(learner: TopKReinforce, replayed: Replayed, rows: tf.Tensor, actions: int, seed: tf.Tensor) -> Figures:
    return learner.learn(block_of(replayed, rows, actions), seed)


def _by_steps(learner: DQN, replayed: Replayed, rows: tf.Tensor, actions: int, seed: tf.Tensor) -> Figures:  # noqa: ARG001
    return learner.learn_batch(steps_of(replayed, rows, actions))


_UPDATES: Mapping[type[SequenceLearner], Callable[..., Figures]] = {TopKReinforce: _by_sessions, DQN: _by_steps}


def _figures(learner: SequenceLearner) -> tuple[str, ...]:
    """Names of what is told of an update; the explained variance would count the padding."""
    return tuple(name for name in learner.figures if name != "explained_variance")


def _epoch(agent: SequenceAgent, batches: int, actions: int) -> Callable[[Replayed, tf.Tensor], tf.Tensor]:
    """A program that learns from the rows in an order [batches * size]; returns the means of the figures."""
    learner = agent.learner
    update, names = _UPDATES[type(learner)], _figures(learner)

    def epoch(replayed: Replayed, order: tf.Tensor) -> tf.Tensor:
        size = order.shape[0] // batches

        def one_batch(index: tf.Tensor, sums: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            rows = tf.gather(order, index * size + tf.range(size))
            told = update(learner, replayed, rows, actions, fold_in(agent.learn_seed, index))
            return index + 1, sums + tf.stack([told[name] for name in names])

        start = (tf.constant(0), tf.zeros([len(names)]))
        _, sums = tf.while_loop(lambda index, _: index < batches, one_batch, start)
        agent.train_step_counter.assign_add(batches)
        return sums / batches

    return epoch
