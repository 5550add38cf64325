"""COMPATIBILITY ONLY: TF-Agents' own MovieLens environment, in-graph, for speed comparisons on equal terms.

It repeats what `tf_agents.bandits.environments.movielens_py_environment` does: unrated cells count as rating 0, only
the first `num_items` columns are kept, users without a rating there are dropped, and the rank-k SVD reconstruction of
that matrix is paid as reward while its singular vectors are shown as context. The reward is thus exactly linear in
what the policy sees, and computed from every rating: results here say how fast a loop is, nothing about recommending.
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from tf_agents.specs import tensor_spec

from recpolicy.core.errors import ConfigError
from recpolicy.core.tensorflow_random import uniform
from recpolicy.data.ratings import Ratings
from recpolicy.environments.base import RecommendationEnvironment, Round, cell


def stock_tables(ratings: Ratings, rank: int, num_items: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Contexts [U', rank] and rewards [U', num_items] as the stock environment computes them."""
    items = np.argsort(ratings.items["item_id"].to_numpy())[:num_items]
    users = np.argsort(ratings.users["user_id"].to_numpy())
    zero_filled = np.nan_to_num(ratings.matrix()).astype(np.float64)[np.ix_(users, items)]
    kept = zero_filled[zero_filled.sum(axis=1) > 0]
    left, singular, right = np.linalg.svd(kept, full_matrices=False)
    root = np.sqrt(singular[:rank])
    user = left[:, :rank] * root  # [U', rank]
    item = root[:, np.newaxis] * right[:rank]  # [rank, num_items]
    return user.astype(np.float32), (user @ item).astype(np.float32)


class StockMovieLens(RecommendationEnvironment):
    """TF-Agents' MovieLens environment as one of ours; observation [B, rank]."""

    def __init__(self, ratings: Ratings, rank: int = 20, num_items: int = 20, batch_size: int = 8, seed: int = 0):
        context, rewards = stock_tables(ratings, rank, num_items)
        if context.shape[1] != rank or rewards.shape[1] != num_items or batch_size > len(context):
            raise ConfigError(
                f"{ratings.name}: rank {rank}, num_items {num_items}, batch_size {batch_size}: the table allows at"
                f" most {context.shape[1]}, {rewards.shape[1]} and {len(context)}"
            )
        super().__init__(
            observation_spec=tensor_spec.TensorSpec((rank,), tf.float32, "observation"),
            actions=num_items, batch_size=batch_size, seed=seed, name="stock_movielens",
        )  # fmt: skip
        self._context, self._rewards = tf.constant(context), tf.constant(rewards)
        self._arms = tf.range(num_items)

    def sample_round(self, round_number: tf.Tensor) -> Round:
        """Users without repeats within a batch, as `random.sample` draws them (Floyd's algorithm, unrolled)."""
        users, batch = len(self._context), self.batch_size
        last = tf.range(users - batch, users)  # [B]
        share = uniform([batch], self.draw_seed(round_number))
        tried = tf.minimum(tf.cast(share * tf.cast(last + 1, tf.float32), tf.int32), last)  # [B], tried[j] <= last[j]
        chosen: list[tf.Tensor] = []
        for j in range(batch):
            taken = tf.reduce_any([tf.equal(tried[j], one) for one in chosen]) if chosen else False
            chosen.append(tf.where(taken, last[j], tried[j]))
        return Round(tf.stack(chosen), self._arms, None)

    def observation(self, draw: Round) -> tf.Tensor:
        """Singular vectors [B, rank]."""
        return tf.gather(self._context, draw.user)

    def expected_rewards(self, draw: Round, round_number: tf.Tensor) -> tf.Tensor:  # noqa: ARG002 - deterministic
        """Reconstructed ratings [B, A]."""
        return tf.gather(self._rewards, draw.user)

    def reward(self, draw: Round, action: tf.Tensor, round_number: tf.Tensor) -> tf.Tensor:  # noqa: ARG002
        """Reconstructed ratings [B]."""
        return cell(self._rewards, draw, action)
