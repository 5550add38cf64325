"""Observation encoders of running sessions: a history state [B, M] of floats and its update after each shown item.

The observation is [context, history state]. An encoder uses only the recommender's data (its embeddings, its record of
likes), never the world's. B sessions, D embedding, G genres, S steps at most.

    last_item   the embedding of the item shown last (zeros before): the 2 D "user and last item" form
    interest    a running interest [D] that starts at the user's embedding and turns toward liked items
                (.9 old + .1 shown), the decaying record of shown genres [G], consecutive misses / 5, steps / S
    last_n      for each of the last n items its embedding and whether it was liked, newest first, and steps / S
    gru, transformer
                for each of the last n items its embedding, genres, whether it was liked and a 1, newest first, and
                steps / S; the agent's networks learn to read them (agents/sequence_encoders.py)

recpolicy/inference/history_state.py has the same encoders in NumPy; a test compares the two.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import tensorflow as tf

from recpolicy.core.errors import ConfigError
from recpolicy.models.sequence_layout import MAX_PLACES, SEQUENCE_VIEWS, SequenceLayout
from recpolicy.models.session_world import GENRE_DECAY, INTEREST_DECAY, MISSES


class ShownItem(NamedTuple):
    """The item just shown and the user's response."""

    embedding: tf.Tensor  # [B, D]
    genres: tf.Tensor  # [B, G]
    liked: tf.Tensor  # [B] float, 1 for a like


@dataclass(frozen=True)
class ObservationEncoder:
    """An encoder of a session's history."""

    width: int
    """Width M of the history state."""
    start: Callable[[tf.Tensor], tf.Tensor]
    """History state [B, M] before the first item, from the users' embeddings [B, D]."""
    update: Callable[[tf.Tensor, ShownItem], tf.Tensor]
    """History state after an item, from that before it."""
    sequence: SequenceLayout | None = None
    """Layout of the last items, for views that a trainable encoder reads."""


def last_item_view(rank: int, genres: int, steps: int, last_n: int) -> ObservationEncoder:  # noqa: ARG001 - one shape for all
    """Return the encoder with the embedding of the last item."""
    return ObservationEncoder(rank, tf.zeros_like, lambda _, shown: shown.embedding)


def interest_view(rank: int, genres: int, steps: int, last_n: int) -> ObservationEncoder:  # noqa: ARG001
    """Return the encoder with running interest, genre record, misses and steps."""

    def start(embedding: tf.Tensor) -> tf.Tensor:
        return tf.concat([embedding, tf.zeros_like(embedding[:, :1]) + tf.zeros([1, genres + 2])], axis=1)

    def update(history_state: tf.Tensor, shown: ShownItem) -> tf.Tensor:
        interest, remembered, misses, done = tf.split(history_state, [rank, genres, 1, 1], axis=1)
        liked = shown.liked[:, tf.newaxis]
        interest += liked * (1.0 - INTEREST_DECAY) * (tf.math.l2_normalize(shown.embedding, axis=1) - interest)
        remembered = GENRE_DECAY * remembered + (1.0 - GENRE_DECAY) * shown.genres
        misses = (1.0 - liked) * tf.minimum(misses + 1.0 / MISSES, 1.0)
        return tf.concat([interest, remembered, misses, done + 1.0 / steps], axis=1)

    return ObservationEncoder(rank + genres + 2, start, update)


def last_n_view(rank: int, genres: int, steps: int, last_n: int) -> ObservationEncoder:  # noqa: ARG001
    """Return the encoder with embedding and like of the last n items, newest first, and steps."""
    width = last_n * (rank + 1) + 1

    def start(embedding: tf.Tensor) -> tf.Tensor:
        return tf.zeros_like(embedding[:, :1]) + tf.zeros([1, width])

    def update(history_state: tf.Tensor, shown: ShownItem) -> tf.Tensor:
        older, done = history_state[:, : (last_n - 1) * (rank + 1)], history_state[:, -1:]
        return tf.concat([shown.embedding, shown.liked[:, tf.newaxis], older, done + 1.0 / steps], axis=1)

    return ObservationEncoder(width, start, update)


def sequence_view(rank: int, genres: int, steps: int, last_n: int, *, kind: str) -> ObservationEncoder:
    """Return the encoder with the last n items for the trainable encoder `kind`."""
    if last_n > MAX_PLACES:
        raise ConfigError(f"last_n is {last_n}: the view {kind} remembers at most {MAX_PLACES} items")
    layout = SequenceLayout(kind, last_n, rank + genres)

    def start(embedding: tf.Tensor) -> tf.Tensor:
        return tf.zeros_like(embedding[:, :1]) + tf.zeros([1, layout.width])

    def update(history_state: tf.Tensor, shown: ShownItem) -> tf.Tensor:
        older, done = history_state[:, : (last_n - 1) * layout.token], history_state[:, -1:]
        liked = shown.liked[:, tf.newaxis]
        newest = [shown.embedding, shown.genres, liked, tf.ones_like(liked)]
        return tf.concat([*newest, older, done + 1.0 / steps], axis=1)

    return ObservationEncoder(layout.width, start, update, layout)


OBSERVATION_ENCODERS: Mapping[str, Callable[[int, int, int, int], ObservationEncoder]] = {
    "interest": interest_view,
    "last_item": last_item_view,
    "last_n": last_n_view,
    **{kind: partial(sequence_view, kind=kind) for kind in SEQUENCE_VIEWS},
}
"""Factories of encoders: (D, G, S, n) -> ObservationEncoder."""
