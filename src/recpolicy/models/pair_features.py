"""Features of a (user, item) pair for agents that share one model over all arms.

With user embedding p, item embedding q and item offset o (models/embeddings.py: rating = o + p.q) the features are
(p * q, o, 1), so the weights (1, ..., 1, 1, 0) reproduce the rating model. A shared linear agent starts with them.

Items may have attributes a beside the embedding (data/features/attributes.py), and users attributes x after theirs. The
features then are (p * q, o, 1, a), with interactions also the products of each entry of x and each of a; the weights of
the new ones start at 0.
"""

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError

MAX_PAIR_FEATURES = 1024
"""Features of a pair with attributes; each round computes a product with their square for every item."""


class PairFeatures:
    """Pair features from fixed item tables; the first D entries of the context are the user's embedding."""

    def __init__(
        self, item: NDArray[np.float32], offset: NDArray[np.float32], attributes: NDArray[np.float32] | None = None,
        *, user_attributes: int = 0, interactions: bool = False,
    ):  # fmt: skip
        """Prepare the tables.

        Args:
            item: Embeddings [I, D].
            offset: Expected ratings [I] of a mean user.
            attributes: Attributes [I, G] of the items.
            user_attributes: Number X of entries of a context after the embedding.
            interactions: Add the products of attributes of user and item.

        Raises:
            ConfigError: There are more than MAX_PAIR_FEATURES features.
        """
        self._item = tf.constant(item)  # [I, D]
        self._offset = tf.constant(offset)  # [I]
        self.all_items = tf.range(len(item))  # [I]
        self.rank = item.shape[1]
        self.attributes, self.interactions = attributes, interactions and user_attributes > 0
        self._attributes = tf.constant(np.zeros((len(item), 0), np.float32) if attributes is None else attributes)
        more = int(self._attributes.shape[1])
        self.width = self.rank + 2 + more * (1 + (user_attributes if self.interactions else 0))
        """Number K of features."""
        if more and self.width > MAX_PAIR_FEATURES:
            raise ConfigError(
                f"features: {user_attributes} columns of users and {more} of items are {self.width:,} weights, more"
                f" than {MAX_PAIR_FEATURES}; take fewer attributes, or set interactions = false in the schema"
            )

    def of(self, context: tf.Tensor, items: tf.Tensor) -> tf.Tensor:
        """Return the features [B, A, K] of `items` ([B, A], or [A] for all) under `context` [B, >= D]."""
        user = context[:, tf.newaxis, : self.rank]  # [B, 1, D]
        product = user * tf.gather(self._item, items)  # [B, A, D]
        offset = tf.broadcast_to(tf.gather(self._offset, items), tf.shape(product)[:2])[..., tf.newaxis]
        parts = [product, offset, tf.ones_like(offset)]
        if self.attributes is None:
            return tf.concat(parts, axis=-1)
        shape = tf.concat([tf.shape(product)[:2], [self._attributes.shape[1]]], axis=0)
        attributes = tf.broadcast_to(tf.gather(self._attributes, items), shape)  # [B, A, G]
        parts.append(attributes)
        if self.interactions:
            products = context[:, tf.newaxis, self.rank :, tf.newaxis] * attributes[:, :, tf.newaxis, :]
            parts.append(tf.reshape(products, [shape[0], shape[1], self.width - self.rank - 2 - attributes.shape[2]]))
        return tf.concat(parts, axis=-1)

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return the attributes of the items for an artifact; nothing without any."""
        if self.attributes is None:
            return {}
        return {"item_attributes": self.attributes, "attribute_interactions": np.array(self.interactions)}


def prior_weights(rank: int, width: int | None = None) -> NDArray[np.float32]:
    """Return the weights [K] that reproduce the rating model's expectation; `width` is K, by default rank + 2."""
    weights = np.zeros(rank + 2 if width is None else width, np.float32)
    weights[: rank + 1] = 1.0
    return weights
