"""Rollouts of sessions: a fixed session policy acts in whole sessions, and we record the steps.

One XLA program runs B parallel sessions from start to end; An items, O observation, S steps at most. We draw actions
from float64 probabilities and log the exact probability of the draw. With float32, an item of probability 1e-5 would be
shown 1% more or less often than logged.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.agents import action_distributions
from recpolicy.agents.dqn import top_k_logits
from recpolicy.agents.exported_network import exported_scores
from recpolicy.agents.learner import ExportedPolicy
from recpolicy.core.errors import ConfigError
from recpolicy.core.progress import progress
from recpolicy.core.seeds import stateless_seed
from recpolicy.core.tensorflow_random import fold_in, uniform
from recpolicy.environments.session import Session, SessionEnvironment

Probabilities = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]
"""(observation [B, O], mask [B, A]) -> probabilities [B, A] in float64, 0 where not allowed."""


class SessionRollout(NamedTuple):
    """The record of M sessions with N steps in all, session after session."""

    user: NDArray[np.int32]  # [N], rows of the user table
    session: NDArray[np.int64]  # [N], 0..M-1
    step: NDArray[np.int32]  # [N], 0, 1, ...
    arm: NDArray[np.int32]  # [N]
    log_propensity: NDArray[np.float64]  # [N]
    reward: NDArray[np.float32]  # [N]
    liked: NDArray[np.bool_]  # [N]
    ended: NDArray[np.bool_]  # [N], True if the user left after this step


def rollout_sessions(
    environment: SessionEnvironment,
    probabilities: Probabilities,
    sessions: int,
    seed: int,
    show_progress: bool | None = None,
) -> SessionRollout:
    """Run `sessions` whole sessions of users drawn by the environment."""
    batch = environment.batch_size
    program = tf.function(_block(environment, probabilities, seed), jit_compile=True, autograph=False)
    parts = []
    with progress("logging", sessions, unit="sessions", show=show_progress) as bar:
        for number in range(-(-sessions // batch)):
            parts.append([part.numpy() for part in program(tf.constant(number, tf.int64))])
            bar.advance(min(batch, sessions - number * batch))
    user, *records = (np.concatenate(part, axis=-1)[..., :sessions] for part in zip(*parts, strict=True))
    arm, log_propensity, reward, liked, terminated, going = (record.T for record in records)  # [M, S]
    session, step = np.nonzero(going)
    return SessionRollout(
        environment.world.users[user][session], session, step.astype(np.int32), arm[going], log_propensity[going],
        reward[going], liked[going], terminated[going],
    )  # fmt: skip


def _block(
    environment: SessionEnvironment, probabilities: Probabilities, seed: int
) -> Callable[[tf.Tensor], tuple[tf.Tensor, ...]]:
    """Return a program that maps the number of a block to its users [B] and six records [S, B]."""
    steps, batch = environment.config.max_episode_steps, environment.batch_size
    choice_seed = tf.constant(stateless_seed(seed, "logging/sessions"), tf.int32)

    def block(number: tf.Tensor) -> tuple[tf.Tensor, ...]:
        noise = environment.noise(number, steps + 1)  # [S + 1, B, NOISE_DIMS], the last for the users
        points = _points([steps, batch], fold_in(choice_seed, number))
        first = environment.restart(None, None, noise[-1])

        def one_step(
            step: tf.Tensor, session: Session, going: tf.Tensor, record: tuple[tf.TensorArray, ...]
        ) -> tuple[Any, ...]:
            probability = probabilities(*environment.observe(session))
            arm, log_propensity = choose(probability, tf.gather(points, step))
            done = environment.transition(session, arm, tf.gather(noise, step))
            seen = (arm, log_propensity, done.reward, done.response.like, done.terminated, going)
            record = tuple(array.write(step, part) for array, part in zip(record, seen, strict=True))
            return step + 1, done.session, going & ~(done.terminated | done.truncated), record

        kinds = (tf.int32, tf.float64, tf.float32, tf.bool, tf.bool, tf.bool)
        record = tuple(tf.TensorArray(kind, size=steps) for kind in kinds)
        *_, record = tf.while_loop(
            lambda step, *_: step < steps, one_step, (tf.constant(0), first, tf.ones([batch], tf.bool), record)
        )
        return first.user_state.user, *(array.stack() for array in record)

    return block


def _points(shape: list[int], seed: tf.Tensor) -> tf.Tensor:
    """Draw uniform float64 numbers in [0, 1), multiples of 2^-48."""
    high, low = (tf.cast(uniform(shape, fold_in(seed, part)), tf.float64) for part in range(2))
    return high + low * 2.0**-24


def choose(probability: tf.Tensor, point: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Draw actions [B] int32 from probabilities [B, A] at points [B] in [0, 1), with their log-probabilities.

    Inversion in float64 on two levels of about sqrt(A): first a block, then an action in it. Rows are normalized by
    their sum. An action of probability 0 is never drawn.
    """
    actions = probability.shape[1]
    size = int(np.ceil(np.sqrt(actions)))
    blocks = -(-actions // size)
    padded = tf.reshape(tf.pad(probability, [[0, 0], [0, blocks * size - actions]]), [-1, blocks, size])
    mass = tf.reduce_sum(padded, axis=2)  # [B, blocks]
    target = point * tf.reduce_sum(mass, axis=1)
    block, before = _first_beyond(mass, target)
    inside = tf.gather(padded, block, batch_dims=1)  # [B, size]
    within, _ = _first_beyond(inside, target - before)
    chosen = tf.gather(inside, within, batch_dims=1)
    return block * size + within, tf.math.log(chosen / tf.reduce_sum(mass, axis=1))


def _first_beyond(mass: tf.Tensor, target: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the first entry [B] of mass [B, n] whose prefix sum exceeds the target [B], and the mass before it [B].

    If rounding leaves no such entry, return the last one with positive mass.
    """
    count = mass.shape[1]
    prefix = tf.matmul(mass, tf.constant(np.triu(np.ones((count, count)))))
    beyond = (mass > 0.0) & (prefix > target[:, tf.newaxis])
    last = tf.reduce_max(tf.where(mass > 0.0, tf.range(count), 0), axis=1)
    index = tf.minimum(tf.reduce_min(tf.where(beyond, tf.range(count), count), axis=1), last)
    return index, tf.gather(prefix - mass, index, batch_dims=1)


def softmax_policy(score: NDArray[np.floating]) -> Probabilities:
    """Return a policy that is the softmax of fixed item scores [A]."""
    scores = tf.constant(score[np.newaxis], tf.float64)
    return lambda _, mask: _softmax(tf.where(mask, scores, -float("inf")))


def exploring(policy: ExportedPolicy) -> Probabilities:
    """Return the exploring policy of an exported agent; raises ConfigError if it is no network (q_learning).

    inference/reward_estimators.py and inference/action_distributions.py have the same in NumPy; a test compares them.
    """
    if policy.estimator not in ("session", "session_values") or policy.head not in ("softmax", "epsilon_top_k"):
        raise ConfigError(
            f"a policy of the kind {policy.estimator!r} cannot log sessions; use one of ppo, a2c, reinforce,"
            " topk_reinforce, offpolicy_actor_critic, dqn or behavior_cloning, or random or popular"
        )
    settings, network = policy.settings, exported_scores(policy.arrays)

    def probabilities(observation: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        scores = tf.where(mask, network(observation), -float("inf"))
        if policy.head == "softmax":
            return _softmax(tf.cast(scores, tf.float64))
        finite = tf.where(mask, scores, -1e9)
        top = tf.cast(top_k_logits(finite, int(settings["top_k"]), settings["temperature"]), tf.float64)
        best = tf.cast(action_distributions.greedy(scores, mask), tf.float64)
        return settings["epsilon"] * _softmax(top) + (1.0 - settings["epsilon"]) * best

    return probabilities


def with_uniform_mix(probabilities: Probabilities, uniform_mix: float) -> Probabilities:
    """Return the policy mixed with a share of uniform choices among the allowed items."""

    def mixed(observation: tf.Tensor, mask: tf.Tensor) -> tf.Tensor:
        allowed = tf.cast(mask, tf.float64)
        even = allowed / tf.reduce_sum(allowed, axis=1, keepdims=True)
        return (1.0 - uniform_mix) * probabilities(observation, mask) + uniform_mix * even

    return mixed


def _softmax(scores: tf.Tensor) -> tf.Tensor:
    weight = tf.exp(scores - tf.reduce_max(scores, axis=1, keepdims=True))
    return weight / tf.reduce_sum(weight, axis=1, keepdims=True)
