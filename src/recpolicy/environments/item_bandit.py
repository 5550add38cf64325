"""ItemBandit: a user arrives, the agent shows one item of a fixed catalog, the world pays a noisy rating.

The context is the user's embedding (learned from training ratings only), optionally with demographics. Arm a is the
a-th item of the catalog. With `drift_period`, user u drifts to the preferences of another user and back, expected_t[u]
= (1 - w) E[u] + w E[other(u)], w = (1 - cos(2 pi t / period)) / 2.
"""

import math

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tf_agents.specs import tensor_spec

from recpolicy.core.config import CountOrZero, Size, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.core.seeds import generator
from recpolicy.environments.base import RecommendationEnvironment, Round, cell, sample_users
from recpolicy.environments.rating_noise import sample_ratings
from recpolicy.models.world import World


@config_dataclass
class ItemBanditConfig:
    """Settings of ItemBandit."""

    batch_size: Size = 64
    """Number of users per round; the agent learns after each round."""
    drift_period: CountOrZero = 0
    """Rounds in which preferences drift to another user's and back; 0 disables drift."""


class ItemBandit(RecommendationEnvironment):
    """A bandit over a fixed catalog of items; observation [B, D], reward on the rating scale."""

    def __init__(
        self,
        world: World,
        context: NDArray[np.float32],  # [U, D]
        action_items: NDArray[np.int32],  # [A], item rows
        config: ItemBanditConfig | None = None,
        seed: int = 0,
    ):
        config = config or ItemBanditConfig()
        check_action_items(action_items, world.expected.shape[1])
        if len(context) != len(world.expected):
            raise ConfigError(f"context has {len(context)} users, the world {len(world.expected)}")
        observation_spec = tensor_spec.TensorSpec((context.shape[1],), tf.float32, "context")
        super().__init__(
            observation_spec=observation_spec, actions=len(action_items), batch_size=config.batch_size, seed=seed,
            name="movie_bandit",  # prefix of the random streams; published figures depend on it
        )  # fmt: skip
        self._scale, self._period, self._users = world.scale, config.drift_period, len(context)
        self._context = tf.constant(context)  # [U, D]
        self._expected = tf.constant(world.expected[:, action_items])  # [U, A]
        self._known = tf.constant(world.known[:, action_items])  # [U, A]
        self._arms = tf.range(len(action_items))
        self._other = tf.constant(generator(seed, "movie_bandit/drift").permutation(self._users), tf.int32)

    def sample_round(self, round_number: tf.Tensor) -> Round:
        """Draw users uniformly; all arms are allowed."""
        return Round(sample_users(self._users, self.batch_size, self.draw_seed(round_number)), self._arms, None)

    def observation(self, draw: Round) -> tf.Tensor:
        """Return the users' contexts [B, D]."""
        return tf.gather(self._context, draw.user)

    def expected_rewards(self, draw: Round, round_number: tf.Tensor) -> tf.Tensor:
        """Return the expected ratings [B, A] with the drift of this round."""
        now = tf.gather(self._expected, draw.user)
        if not self._period:
            return now
        share = self._drift(round_number)
        return (1.0 - share) * now + share * tf.gather(self._expected, tf.gather(self._other, draw.user))

    def reward(self, draw: Round, action: tf.Tensor, round_number: tf.Tensor) -> tf.Tensor:
        """Return ratings [B]: without drift, real ratings that the world knows; else draws around the expectation."""
        expected = cell(self._expected, draw, action)
        if self._period:
            share = self._drift(round_number)
            other = cell(self._expected, draw._replace(user=tf.gather(self._other, draw.user)), action)
            expected = (1.0 - share) * expected + share * other
        noisy = sample_ratings(expected, self._scale, self.noise_seed(round_number))
        return noisy if self._period else tf.where(cell(self._known, draw, action), expected, noisy)

    def _drift(self, round_number: tf.Tensor) -> tf.Tensor:
        # Integer remainder: float32 is not exact for round numbers beyond 2^24.
        phase = tf.cast(round_number % self._period, tf.float32) / self._period
        return 0.5 * (1.0 - tf.cos(2.0 * math.pi * phase))


def check_action_items(action_items: NDArray[np.int32], items: int) -> None:
    """Raise ConfigError unless the catalog has at least two items, no repeats, and rows below `items`."""
    if len(action_items) < 2 or len(np.unique(action_items)) != len(action_items):
        raise ConfigError(f"catalog of {len(action_items)} items: expected at least 2 and no repeats")
    outside = action_items[(action_items < 0) | (action_items >= items)]
    if len(outside):
        raise ConfigError(f"catalog names item row {outside[0]}; expected 0..{items - 1}")
