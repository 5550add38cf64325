"""CatalogBandit: every round has a fresh set of candidate items with features.

Action a is the a-th candidate of this round. The observation is a dict: `global` [B, D] the user's context, `per_arm`
[B, A, K] the candidates' features for this user, `mask` [B, A]. The number of candidates may vary; the rest is padding.
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tf_agents.specs import tensor_spec

from recpolicy.core.config import Size, config_dataclass
from recpolicy.core.errors import ConfigError
from recpolicy.core.tensorflow_random import integers, split, uniform
from recpolicy.environments.base import RecommendationEnvironment, Round, cell, sample_users
from recpolicy.environments.rating_noise import sample_ratings
from recpolicy.models.pair_features import PairFeatures
from recpolicy.models.world import World


@config_dataclass
class CatalogBanditConfig:
    """Settings of the candidate sets."""

    batch_size: Size = 64
    """Number of users per round."""
    max_candidates: Size = 50
    """Largest number A of candidates in a round."""
    min_candidates: Size = 50
    """Smallest number of candidates in a round; the number is uniform between this and `max_candidates`."""


class CatalogBandit(RecommendationEnvironment):
    """A bandit whose candidates change every round; observation `global`, `per_arm`, `mask`."""

    def __init__(
        self,
        world: World,
        context: NDArray[np.float32],  # [U, D]
        features: PairFeatures,
        config: CatalogBanditConfig | None = None,
        seed: int = 0,
    ):
        config = config or CatalogBanditConfig()
        users, items = world.expected.shape
        if not config.min_candidates <= config.max_candidates <= items:
            raise ConfigError(
                f"min_candidates is {config.min_candidates} and max_candidates {config.max_candidates}:"
                f" expected min_candidates <= max_candidates <= {items}, the number of items"
            )
        specs = {
            "global": tensor_spec.TensorSpec((context.shape[1],), tf.float32, "global"),
            "per_arm": tensor_spec.TensorSpec((config.max_candidates, features.width), tf.float32, "per_arm"),
            "mask": tensor_spec.TensorSpec((config.max_candidates,), tf.int32, "mask"),
        }
        super().__init__(
            observation_spec=specs, actions=config.max_candidates, batch_size=config.batch_size, seed=seed,
            name="catalogue_bandit",
        )  # fmt: skip
        self._scale, self._users, self._items = world.scale, users, items
        self._min_candidates = config.min_candidates
        self._context, self._features = tf.constant(context), features
        self._expected, self._known = tf.constant(world.expected), tf.constant(world.known)

    def sample_round(self, round_number: tf.Tensor) -> Round:
        """Draw users, candidate sets without repeats and their sizes, all uniformly."""
        who, which, many = split(self.draw_seed(round_number), 3)
        keys = uniform([self.batch_size, self._items], which)
        # The A largest of independent uniform keys are a uniform sample without replacement.
        candidates = tf.math.top_k(keys, self.actions).indices  # [B, A]
        number = integers([self.batch_size, 1], many, self._min_candidates, self.actions + 1)
        mask = tf.range(self.actions)[tf.newaxis, :] < number  # [B, A]
        return Round(sample_users(self._users, self.batch_size, who), candidates, mask)

    def observation(self, draw: Round) -> dict[str, tf.Tensor]:
        """Return `global` [B, D], `per_arm` [B, A, K] and `mask` [B, A]."""
        context = tf.gather(self._context, draw.user)
        return {
            "global": context,
            "per_arm": self._features.of(context, draw.candidates),
            "mask": tf.cast(draw.mask, tf.int32),
        }

    def expected_rewards(self, draw: Round, round_number: tf.Tensor) -> tf.Tensor:  # noqa: ARG002 - a still world
        """Return the expected ratings [B, A]."""
        return tf.gather(tf.gather(self._expected, draw.user), draw.candidates, batch_dims=1)

    def reward(self, draw: Round, action: tf.Tensor, round_number: tf.Tensor) -> tf.Tensor:
        """Return ratings [B]: real ratings that the world knows, else draws around the expectation."""
        expected = cell(self._expected, draw, action)
        noisy = sample_ratings(expected, self._scale, self.noise_seed(round_number))
        return tf.where(cell(self._known, draw, action), expected, noisy)
