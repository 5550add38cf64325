"""The base class of the bandit environments.

A pure function of (seed, round number) draws each round. Observations alone may depend on earlier rewards
(`user_state`). Subclasses define the draw, the observation, the expected rewards and the reward. B batch, A actions, D
context. TF-Agents calls `reset` and `step`; the compiled loop (training/compiled_loop.py) calls the same functions.
"""

import abc
from typing import Any, NamedTuple

import tensorflow as tf
from tf_agents.bandits.environments import bandit_tf_environment
from tf_agents.specs import tensor_spec
from tf_agents.trajectories import time_step as ts

from recpolicy.core.errors import ConfigError
from recpolicy.core.seeds import stateless_seed
from recpolicy.core.tensorflow_random import fold_in, integers


class Round(NamedTuple):
    """The users and items of one round, before any action."""

    user: tf.Tensor  # [B] int32, rows of the user table
    candidates: tf.Tensor  # [B, A] int32 rows of the item table, or [A] if all rounds have the same items
    mask: tf.Tensor | None  # [B, A] bool, True where an action is allowed; None if all are


class RecommendationEnvironment(bandit_tf_environment.BanditTFEnvironment):
    """A batched bandit whose rounds are a pure function of (seed, round)."""

    def __init__(self, *, observation_spec: Any, actions: int, batch_size: int, seed: int, name: str):
        if batch_size < 1:
            raise ConfigError(f"batch_size {batch_size}: expected at least 1")
        action_spec = tensor_spec.BoundedTensorSpec((), tf.int32, 0, actions - 1, name="action")
        super().__init__(ts.time_step_spec(observation_spec), action_spec, batch_size, name)
        self.actions = actions
        self._draw_seed = tf.constant(stateless_seed(seed, f"{name}/draw"), tf.int32)
        self._noise_seed = tf.constant(stateless_seed(seed, f"{name}/noise"), tf.int32)
        self.round = tf.Variable(0, dtype=tf.int64, trainable=False, name="round")

    @abc.abstractmethod
    def sample_round(self, round_number: tf.Tensor) -> Round:
        """Return the users and allowed items of a round; equal round numbers give equal results."""

    @abc.abstractmethod
    def observation(self, draw: Round) -> Any:
        """Return the policy's observation of the round."""

    @abc.abstractmethod
    def expected_rewards(self, draw: Round, round_number: tf.Tensor) -> tf.Tensor:
        """Return the expected reward [B, A] of every action, masked ones included."""

    @abc.abstractmethod
    def reward(self, draw: Round, action: tf.Tensor, round_number: tf.Tensor) -> tf.Tensor:
        """Return the rewards [B] of `action` [B]."""

    @property
    def user_state(self) -> dict[str, tf.Variable]:
        """Return variables that change with the rewards, by name; a checkpoint of a training has them."""
        return {}

    def record(self, draw: Round, action: tf.Tensor, reward: tf.Tensor) -> None:
        """Take note of the rewards [B] of a round, if later observations depend on them."""

    def regret(self, draw: Round, action: tf.Tensor, round_number: tf.Tensor) -> tf.Tensor:
        """Return the regret [B]: expected reward of the best allowed action minus that of `action`, >= 0."""
        expected = self.expected_rewards(draw, round_number)  # [B, A]
        allowed = expected if draw.mask is None else tf.where(draw.mask, expected, -float("inf"))
        return tf.reduce_max(allowed, axis=-1) - tf.gather(expected, action, batch_dims=1)

    def draw_seed(self, round_number: tf.Tensor) -> tf.Tensor:
        """Return the seed int32 [2] of this round's draw."""
        return fold_in(self._draw_seed, round_number)

    def noise_seed(self, round_number: tf.Tensor) -> tf.Tensor:
        """Return the seed int32 [2] of this round's reward noise."""
        return fold_in(self._noise_seed, round_number)

    def _observe(self) -> Any:
        return self.observation(self.sample_round(self.round))

    def _apply_action(self, action: tf.Tensor) -> tf.Tensor:
        now = tf.identity(self.round)
        draw = self.sample_round(now)
        reward = self.reward(draw, action, now)
        self.record(draw, action, reward)
        with tf.control_dependencies([reward]):
            self.round.assign_add(1)
        return reward


def sample_users(users: int, batch_size: int, seed: tf.Tensor) -> tf.Tensor:
    """Draw user rows [B] uniformly, with replacement."""
    return integers([batch_size], seed, 0, users)


def cell(table: tf.Tensor, draw: Round, action: tf.Tensor) -> tf.Tensor:
    """Return the entries [B] of `table` [U, I] at each user and the item of its action."""
    if draw.candidates.shape.rank == 1:
        item = tf.gather(draw.candidates, action)
    else:
        item = tf.gather(draw.candidates, action, batch_dims=1)
    return tf.gather_nd(table, tf.stack([draw.user, item], axis=-1))
