"""Features of a (user, movie) pair for agents that share one model over all arms.

With user embedding p, movie embedding q and movie offset o (models/embeddings.py: rating = o + p.q) the features are
(p * q, o, 1), so the weights (1, ..., 1, 1, 0) reproduce the rating model: a shared linear agent starts from there.
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray


class PairFeatures:
    """Pair features from fixed movie tables; the user's embedding is the first D entries of the context."""

    def __init__(self, movie: NDArray[np.float32], offset: NDArray[np.float32]):
        self._movie = tf.constant(movie)  # [I, D]
        self._offset = tf.constant(offset)  # [I]
        self.all_movies = tf.range(len(movie))  # [I]
        self.rank = movie.shape[1]
        self.width = self.rank + 2
        """K, the number of features."""

    def of(self, context: tf.Tensor, movies: tf.Tensor) -> tf.Tensor:
        """Features [B, A, K] of `movies` ([B, A], or [A] for all) under `context` [B, >= D]."""
        user = context[:, tf.newaxis, : self.rank]  # [B, 1, D]
        product = user * tf.gather(self._movie, movies)  # [B, A, D]
        offset = tf.broadcast_to(tf.gather(self._offset, movies), tf.shape(product)[:2])[..., tf.newaxis]
        return tf.concat([product, offset, tf.ones_like(offset)], axis=-1)


def prior_weights(rank: int) -> NDArray[np.float32]:
    """The weights [K] under which the features give the rating model's expectation."""
    return np.concatenate([np.ones(rank), [1.0, 0.0]]).astype(np.float32)
