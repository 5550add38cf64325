"""Rollouts of rounds: a fixed policy acts in an environment, and we record the interactions.

U users, A arms, N rounds. The policy is a table of probabilities in float64, from which we draw actions and read
propensities. The environment draws the users and pays rewards, inside compiled programs.
"""

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.progress import progress
from recpolicy.core.seeds import generator
from recpolicy.environments.base import RecommendationEnvironment, Round

_ROUNDS_AT_ONCE = 64


class RoundRollout(NamedTuple):
    """The record of N interactions, in order."""

    user: NDArray[np.int32]  # [N], rows of the user table
    arm: NDArray[np.int32]  # [N]
    propensity: NDArray[np.float64]  # [N]
    reward: NDArray[np.float32]  # [N]


def rollout_rounds(
    environment: RecommendationEnvironment,
    probabilities: NDArray[np.float64],  # [U, A], rows sum to 1
    interactions: int,
    seed: int,
    show_progress: bool | None = None,
) -> RoundRollout:
    """Run whole rounds from the environment's current round; return the first `interactions` interactions.

    Raises ConfigError for an environment with changing or masked candidates, which the table does not cover. Raises
    DataError for invalid probabilities.
    """
    _check_environment(environment)
    _check_probabilities(probabilities, environment.actions)
    cumulative = np.cumsum(probabilities, axis=1)
    cumulative /= cumulative[:, -1:]
    draw_users = tf.function(_user_sampler(environment), jit_compile=True, autograph=False)
    pay = tf.function(_reward_sampler(environment), jit_compile=True, autograph=False)
    batch, start = environment.batch_size, int(environment.round.numpy())
    rounds, rng = -(-interactions // batch), generator(seed, f"logging/choice/{start}")
    users, arms, rewards = [], [], []
    with progress("logging", rounds * batch, unit="interactions", show=show_progress) as bar:
        for first in range(0, rounds, _ROUNDS_AT_ONCE):
            # Always the same number of rounds, so that one program is compiled; the surplus is removed at the end.
            numbers = tf.range(start + first, start + first + _ROUNDS_AT_ONCE, dtype=tf.int64)
            user = draw_users(numbers).numpy()  # [R, B]
            arm = _choose(cumulative, user.ravel(), rng).reshape(user.shape)
            rewards.append(pay(numbers, tf.constant(arm)).numpy().ravel())
            users.append(user.ravel())
            arms.append(arm.ravel())
            bar.advance(user.size)
    environment.round.assign_add(rounds)
    user, arm, reward = (np.concatenate(parts)[:interactions] for parts in (users, arms, rewards))
    return RoundRollout(user, arm, probabilities[user, arm], reward)


def _user_sampler(environment: RecommendationEnvironment):  # type: ignore[no-untyped-def]
    def users(numbers: tf.Tensor) -> tf.Tensor:
        return tf.map_fn(lambda now: environment.sample_round(now).user, numbers, fn_output_signature=tf.int32)

    return users


def _reward_sampler(environment: RecommendationEnvironment):  # type: ignore[no-untyped-def]
    def pay(numbers: tf.Tensor, arms: tf.Tensor) -> tf.Tensor:
        def reward_of_round(now: tf.Tensor, arm: tf.Tensor) -> tf.Tensor:
            draw: Round = environment.sample_round(now)
            return environment.reward(draw, arm, now)

        return tf.map_fn(lambda pair: reward_of_round(*pair), (numbers, arms), fn_output_signature=tf.float32)

    return pay


def _choose(cumulative: NDArray[np.float64], user: NDArray[np.int32], rng: np.random.Generator) -> NDArray[np.int32]:
    """Draw an arm [n] for each user by inversion: the first whose cumulative probability [U, A] exceeds the draw."""
    draw = rng.random(len(user))
    low, high = np.zeros(len(user), np.int32), np.full(len(user), cumulative.shape[1] - 1, np.int32)
    while (low < high).any():  # bisection: log2(A) steps for all at once
        middle = (low + high) // 2
        above = cumulative[user, middle] <= draw
        low, high = np.where(above, middle + 1, low), np.where(above, high, middle)
    return low


def _check_environment(environment: RecommendationEnvironment) -> None:
    draw = environment.sample_round(environment.round)
    if draw.mask is not None or draw.candidates.shape.rank != 1:
        raise ConfigError(
            f"{type(environment).__name__}: its candidates change; rounds are logged from a fixed catalog only"
        )


def _check_probabilities(probabilities: NDArray[np.float64], actions: int) -> None:
    if probabilities.ndim != 2 or probabilities.shape[1] != actions or not (probabilities >= 0).all():
        raise DataError(
            f"logging policy: probabilities {probabilities.shape}; expected >= 0 for each of {actions} arms"
        )
    if np.abs(probabilities.sum(axis=1) - 1).max() > 1e-9:
        raise DataError("logging policy: the probabilities of a user do not sum to 1")
