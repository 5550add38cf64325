"""Features of a (user, item) pair for agents that share one model over all arms.

With user embedding p, item embedding q and item offset o (models/embeddings.py: rating = o + p.q) the features are
(p * q, o, 1), so the weights (1, ..., 1, 1, 0) reproduce the rating model. A shared linear agent starts with them.
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray


class PairFeatures:
    """Pair features from fixed item tables; the first D entries of the context are the user's embedding."""

    def __init__(self, item: NDArray[np.float32], offset: NDArray[np.float32]):
        self._item = tf.constant(item)  # [I, D]
        self._offset = tf.constant(offset)  # [I]
        self.all_items = tf.range(len(item))  # [I]
        self.rank = item.shape[1]
        self.width = self.rank + 2
        """Number K of features."""

    def of(self, context: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """Return the features [B, A, K] of `items` ([B, A], or [A] for all) under `context` [B, >= D]."""
        user = context[:, tf.newaxis, : self.rank]  # [B, 1, D]
        product = user * tf.gather(self._item, items)  # [B, A, D]
        offset = tf.broadcast_to(tf.gather(self._offset, items), tf.shape(product)[:2])[..., tf.newaxis]
        return tf.concat([product, offset, tf.ones_like(offset)], axis=-1)


def prior_weights(rank: int) -> NDArray[np.float32]:
    """Return the weights [K] that reproduce the rating model's expectation."""
    return np.concatenate([np.ones(rank), [1.0, 0.0]]).astype(np.float32)
