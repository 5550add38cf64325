"""UserBandit: an ItemBandit whose contexts are posteriors of the users' vectors, moved by the rewards of each round.

The posterior of user u starts at the context of u: what the training ratings say. Each reward is one more rating of the
simulated user. It moves the posterior of that user only, so the contexts of a round depend on the rounds before it.
They are the state of this environment; all random draws stay functions of (seed, round).

U users, B batch, A arms, D directions, T = D (D + 1) / 2.
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.environments.base import Round
from recpolicy.environments.item_bandit import ItemBandit, ItemBanditConfig
from recpolicy.models.recursive_regression import fold_batch
from recpolicy.models.user_posterior import RatedItems, unpack
from recpolicy.models.world import World


class UserPosteriors(tf.Module):
    """The posteriors of U users as variables."""

    def __init__(self, context: NDArray[np.float32], items: RatedItems, action_items: NDArray[np.int32]):
        super().__init__(name="user_posteriors")
        rank = items.x.shape[1]
        start = unpack(context, rank)
        self._rank = rank
        self._row, self._column = np.triu_indices(rank)
        std = np.sqrt(items.variance[action_items])
        # In units of the rating noise, a rating is an observation with variance 1.
        self._x = tf.constant(items.x[action_items] / std[:, np.newaxis], tf.float32)  # [A, D]
        self._offset = tf.constant(items.offset[action_items], tf.float32)
        self._weight = tf.constant(1 / std, tf.float32)
        self.mean = tf.Variable(start.mean, dtype=tf.float32, trainable=False, name="user/mean")  # [U, D]
        self.covariance = tf.Variable(start.covariance, dtype=tf.float32, trainable=False, name="user/covariance")

    def observation(self, user: tf.Tensor) -> tf.Tensor:
        """Return the packed posteriors [B, D + T] of users [B]."""
        flat = tf.reshape(tf.gather(self.covariance, user), [-1, self._rank**2])
        packed = tf.gather(flat, self._row * self._rank + self._column, axis=1)
        return tf.concat([tf.gather(self.mean, user), packed], axis=1)

    def record(self, user: tf.Tensor, action: tf.Tensor, reward: tf.Tensor) -> None:
        """Move the posteriors of users [B] by rewards [B] of actions [B]; a user who comes twice moves twice."""
        rating = (reward - tf.gather(self._offset, action)) * tf.gather(self._weight, action)
        x = tf.gather(self._x, action)
        mean, covariance = fold_batch(self.mean.read_value(), self.covariance.read_value(), user, x, rating)
        self.mean.assign(mean)
        self.covariance.assign(covariance)


class UserBandit(ItemBandit):
    """A bandit over a fixed catalog of items that shows the posterior [B, D + T] of each user's vector."""

    def __init__(
        self,
        world: World,
        context: NDArray[np.float32],  # [U, D + T], packed posteriors
        items: RatedItems,
        action_items: NDArray[np.int32],  # [A], item rows
        config: ItemBanditConfig | None = None,
        seed: int = 0,
    ):
        super().__init__(world, context, action_items, config, seed)
        self.posteriors = UserPosteriors(context, items, action_items)

    @property
    def user_state(self) -> dict[str, tf.Variable]:
        """Return the posteriors of the users."""
        return {"user_mean": self.posteriors.mean, "user_covariance": self.posteriors.covariance}

    def observation(self, draw: Round) -> tf.Tensor:
        """Return the users' posteriors [B, D + T] before this round."""
        return self.posteriors.observation(draw.user)

    def record(self, draw: Round, action: tf.Tensor, reward: tf.Tensor) -> None:
        """Move the posteriors of the round's users by their rewards."""
        self.posteriors.record(draw.user, action, reward)
