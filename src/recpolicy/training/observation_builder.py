"""Observations and masks of logged sessions, in the form that an agent would have seen.

M sessions of at most S steps, N steps in all; An items of the agent's catalog, O observation, W history state of a
session, K sets of candidates. All are computed from the logged items, likes and candidates; steps after the end of a
session are padding.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step as ts

from recpolicy.agents.experience import Experience
from recpolicy.agents.replay import Batch
from recpolicy.data.candidates import CandidateSets
from recpolicy.data.session_log import SessionLog
from recpolicy.environments.observation_encoders import ObservationEncoder, ShownItem


@dataclass(frozen=True)
class ObservationBuilder:
    """The tables of users and items of an agent, and its encoder of sessions."""

    context: NDArray[np.float32]  # [U, >= D], the embedding first
    embedding: NDArray[np.float32]  # [A, D]
    genres: NDArray[np.float32]  # [A, G]
    action_items: NDArray[np.int32]  # [A], item rows, ascending
    view: ObservationEncoder
    steps: int
    """Largest number S of items in a session."""

    def specs(self) -> tuple[Any, Any]:
        """Return the specs of time steps and actions of an agent with these observations."""
        observation = {
            "global": tensor_spec.TensorSpec((self.context.shape[1] + self.view.width,), tf.float32, "global"),
            "mask": tensor_spec.TensorSpec((len(self.action_items),), tf.int32, "mask"),
        }
        action = tensor_spec.BoundedTensorSpec((), tf.int32, 0, len(self.action_items) - 1, name="action")
        return ts.time_step_spec(observation), action


class ReplayedSessions(NamedTuple):
    """The observations of M sessions; steps after the end are padding."""

    user: tf.Tensor  # [M, C] contexts
    history_state: tf.Tensor  # [M, S + 1, W] before each step, and after the last
    arm: tf.Tensor  # [M, S] int32, -1 after the end
    log_probability: tf.Tensor  # [M, S]
    reward: tf.Tensor  # [M, S]
    length: tf.Tensor  # [M] int32
    ended: tf.Tensor  # [M] bool, True if the user left, False if the session was cut
    session: tf.Tensor  # [N] int32, of each logged step
    step: tf.Tensor  # [N] int32
    sets: tf.Tensor | None = None  # [K, ceil(An / 8)] uint8, packed candidates; None: the catalog at every step
    set_index: tf.Tensor | None = None  # [M, S + 1] int32, the set of each step; after the last one that of the last


def replay(log: SessionLog, sight: ObservationBuilder) -> ReplayedSessions:
    """Compute the agent's observation and mask at every step."""
    count, length = len(log.length), log.length
    session = np.repeat(np.arange(count), length)

    def padded(values: NDArray[Any], fill: float) -> NDArray[Any]:
        table = np.full((count, sight.steps), fill, values.dtype)
        table[session, log.step] = values
        return table

    arm = padded(np.searchsorted(sight.action_items, log.item).astype(np.int32), -1)
    liked = padded(log.liked.astype(np.float32), 0)
    propensity = np.zeros(len(log)) if log.log_propensity is None else log.log_propensity
    context = sight.context[log.user[log.start[:-1]]]
    history_state = [sight.view.start(tf.constant(context[:, : sight.embedding.shape[1]]))]
    for step in range(sight.steps):
        place = arm[:, step]
        shown = ShownItem(
            tf.constant(sight.embedding[place]), tf.constant(sight.genres[place]), tf.constant(liked[:, step])
        )
        history_state.append(sight.view.update(history_state[-1], shown))
    return ReplayedSessions(
        user=tf.constant(context), history_state=tf.stack(history_state, axis=1), arm=tf.constant(arm),
        log_probability=tf.constant(padded(propensity.astype(np.float32), 0)),
        reward=tf.constant(padded(log.reward.astype(np.float32), 0)), length=tf.constant(length.astype(np.int32)),
        ended=tf.constant(log.ended[log.start[1:] - 1]), session=tf.constant(session.astype(np.int32)),
        step=tf.constant(log.step), **({} if log.candidates is None else _candidates(log, log.candidates, sight)),
    )  # fmt: skip


def _candidates(log: SessionLog, candidates: CandidateSets, sight: ObservationBuilder) -> dict[str, tf.Tensor]:
    """Return `sets` and `set_index` over the catalog of the agent; items that the log does not have are in no set."""
    place = np.searchsorted(log.action_items, sight.action_items).clip(max=len(log.action_items) - 1)
    found = log.action_items[place] == sight.action_items
    moved = candidates.over(np.where(found, place, -1)).compact()
    step = np.minimum(np.arange(sight.steps + 1), log.length[:, np.newaxis] - 1)  # [M, S + 1]
    index = moved.index[log.start[:-1, np.newaxis] + step]
    return {"sets": tf.constant(moved.sets), "set_index": tf.constant(index)}


def _open(sets: tf.Tensor, index: tf.Tensor, actions: int) -> tf.Tensor:
    """Return the candidates [..., An] of steps with these sets [...]."""
    packed = tf.gather(sets, index)[..., tf.newaxis]  # [..., W, 1]
    shift, lowest = tf.constant([7, 6, 5, 4, 3, 2, 1, 0], tf.uint8), tf.constant(1, tf.uint8)
    bits = tf.bitwise.bitwise_and(tf.bitwise.right_shift(packed, shift), lowest)  # [..., W, 8]
    flat = tf.reshape(bits, tf.concat([tf.shape(index), [8 * sets.shape[1]]], axis=0))
    return tf.cast(flat[..., :actions], tf.bool)


def make_block(replayed: ReplayedSessions, rows: tf.Tensor, actions: int) -> Experience:
    """Return the sessions in `rows` [B] as a block of whole sessions [S, B]; steps after the end have no effect.

    `next_mask` is omitted: agents that learn from whole sessions do not need it.
    """
    user, history_state, arm, log_probability, reward, length, ended = (tf.gather(part, rows) for part in replayed[:7])
    steps = arm.shape[1]
    seen = tf.concat([tf.repeat(user[:, tf.newaxis], steps + 1, axis=1), history_state], axis=2)  # [B, S + 1, O]
    seen = tf.transpose(seen, [1, 0, 2])
    last = tf.range(steps)[:, tf.newaxis] == length - 1  # [S, B]
    sets = None if replayed.sets is None else _open(replayed.sets, tf.gather(replayed.set_index, rows), actions)
    masks, allowed = [], tf.ones([arm.shape[0], actions], tf.bool)
    for step in range(steps):
        masks.append(allowed if sets is None else allowed & sets[:, step])
        allowed &= arm[:, step, tf.newaxis] != tf.range(actions)
    return Experience(
        observation=seen[:-1], mask=tf.stack(masks), action=tf.maximum(tf.transpose(arm), 0),
        log_probability=tf.transpose(log_probability), reward=tf.transpose(reward), terminated=last & ended,
        truncated=last & ~ended, next_observation=seen[1:], next_mask=None,
    )  # fmt: skip


def make_step_block(replayed: ReplayedSessions, rows: tf.Tensor, actions: int) -> Experience:
    """Return the logged steps in `rows` [n] as a block [1, n], with both masks and the logged probabilities."""
    session, step = tf.gather(replayed.session, rows), tf.gather(replayed.step, rows)
    batch = make_steps(replayed, rows, actions)
    mask = _not_shown(replayed, session, step, actions) | (batch.action[:, tf.newaxis] == tf.range(actions))
    if replayed.sets is not None:
        mask &= _open_at(replayed, session, step, actions)
    last = tf.equal(step, tf.gather(replayed.length, session) - 1)
    logged = tf.gather(tf.gather(replayed.log_probability, session), step, batch_dims=1)
    block = Experience(
        observation=batch.observation, mask=mask, action=batch.action, log_probability=logged,
        reward=batch.reward, terminated=batch.terminated, truncated=last & ~batch.terminated,
        next_observation=batch.next_observation, next_mask=batch.next_mask,
    )  # fmt: skip
    return Experience(*(tf.expand_dims(part, 0) for part in block))


def make_steps(replayed: ReplayedSessions, rows: tf.Tensor, actions: int) -> Batch:
    """Return the logged steps in `rows` [n]; the next mask excludes all items shown up to that step.

    Of a session that was cut, the candidates of the last step stand for those of the next one.
    """
    session, step = tf.gather(replayed.session, rows), tf.gather(replayed.step, rows)
    user, arm = tf.gather(replayed.user, session), tf.gather(replayed.arm, session)
    width = replayed.history_state.shape[2]
    flat, place = tf.reshape(replayed.history_state, [-1, width]), session * replayed.history_state.shape[1] + step
    allowed = _not_shown(replayed, session, step, actions)
    if replayed.sets is not None:
        allowed &= _open_at(replayed, session, step + 1, actions)
    last = tf.equal(step, tf.gather(replayed.length, session) - 1)
    return Batch(
        observation=tf.concat([user, tf.gather(flat, place)], axis=1),
        action=tf.gather(arm, step, batch_dims=1),
        reward=tf.gather(tf.gather(replayed.reward, session), step, batch_dims=1),
        terminated=last & tf.gather(replayed.ended, session),
        next_observation=tf.concat([user, tf.gather(flat, place + 1)], axis=1), next_mask=allowed,
    )  # fmt: skip


def _not_shown(replayed: ReplayedSessions, session: tf.Tensor, step: tf.Tensor, actions: int) -> tf.Tensor:
    """Return the items [n, An] that sessions [n] have not shown up to these steps [n]."""
    arm, fresh = tf.gather(replayed.arm, session), tf.ones([step.shape[0], actions], tf.bool)
    for earlier in range(arm.shape[1]):
        shown = tf.where(earlier <= step, arm[:, earlier], -1)
        fresh &= shown[:, tf.newaxis] != tf.range(actions)
    return fresh


def _open_at(replayed: ReplayedSessions, session: tf.Tensor, step: tf.Tensor, actions: int) -> tf.Tensor:
    """Return the candidates [n, An] of steps."""
    index = tf.gather(tf.gather(replayed.set_index, session), step, batch_dims=1)
    return _open(replayed.sets, index, actions)
