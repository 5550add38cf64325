"""HeldOutChoice: choose one of the items that a user rated in the test part; the reward is the true rating.

Every counterfactual reward is known, so nothing is simulated. Action a is item row a; `mask` allows the user's test-
rated items. Only users with at least two test ratings appear; one rating leaves no choice.
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tf_agents.specs import tensor_spec

from recpolicy.core.config import Size, config_dataclass
from recpolicy.core.errors import DataError
from recpolicy.data.ratings import Ratings
from recpolicy.environments.base import RecommendationEnvironment, Round, cell, sample_users


@config_dataclass
class HeldOutChoiceConfig:
    """Settings of the environment."""

    batch_size: Size = 64
    """Number of users per round."""


class HeldOutChoice(RecommendationEnvironment):
    """A bandit over real held-out ratings; observation `global` [B, D] and `mask` [B, I]."""

    def __init__(
        self,
        test: Ratings,
        context: NDArray[np.float32],  # [U, D]
        config: HeldOutChoiceConfig | None = None,
        seed: int = 0,
    ):
        config = config or HeldOutChoiceConfig()
        rated = test.matrix()  # [U, I], NaN where unrated
        eligible = np.flatnonzero(np.isfinite(rated).sum(axis=1) >= 2)
        if not len(eligible):
            raise DataError(f"{test.name}: no user has two ratings to choose between")
        items = rated.shape[1]
        specs = {
            "global": tensor_spec.TensorSpec((context.shape[1],), tf.float32, "global"),
            "mask": tensor_spec.TensorSpec((items,), tf.int32, "mask"),
        }
        super().__init__(
            observation_spec=specs, actions=items, batch_size=config.batch_size, seed=seed, name="held_out_choice"
        )
        self._eligible = tf.constant(eligible, tf.int32)
        self._context = tf.constant(context)
        self._rated = tf.constant(np.isfinite(rated))  # [U, I]
        # An unrated item is never allowed; 0 keeps the arithmetic finite if a caller asks for it.
        self._rating = tf.constant(np.nan_to_num(rated))  # [U, I]
        self._arms = tf.range(items)

    def sample_round(self, round_number: tf.Tensor) -> Round:
        """Draw eligible users uniformly; the mask allows their test-rated items."""
        pick = sample_users(len(self._eligible), self.batch_size, self.draw_seed(round_number))
        user = tf.gather(self._eligible, pick)
        return Round(user, self._arms, tf.gather(self._rated, user))

    def observation(self, draw: Round) -> dict[str, tf.Tensor]:
        """Return `global` [B, D] and `mask` [B, I]."""
        return {"global": tf.gather(self._context, draw.user), "mask": tf.cast(draw.mask, tf.int32)}

    def expected_rewards(self, draw: Round, round_number: tf.Tensor) -> tf.Tensor:  # noqa: ARG002 - nothing is random
        """Return the true ratings [B, I]; 0 for unrated items."""
        return tf.gather(self._rating, draw.user)

    def reward(self, draw: Round, action: tf.Tensor, round_number: tf.Tensor) -> tf.Tensor:  # noqa: ARG002
        """Return the true ratings [B]."""
        return cell(self._rating, draw, action)
