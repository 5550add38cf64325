"""What the views remember, by numbers worked out by hand: D = 2, G = 2, S = 4."""

import numpy as np
import pytest
import tensorflow as tf

from recpolicy.core.errors import ConfigError
from recpolicy.environments.observation_encoders import OBSERVATION_ENCODERS, ObservationEncoder, ShownItem

USER = tf.constant([[0.5, -0.5]])
ITEM = tf.constant([[3.0, 4.0]])  # its direction is (.6, .8)
GENRES = tf.constant([[0.6, 0.8]])


def make(name: str, last_n: int = 2) -> ObservationEncoder:
    return OBSERVATION_ENCODERS[name](2, 2, 4, last_n)


def shown(liked: float, embedding: tf.Tensor = ITEM) -> ShownItem:
    return ShownItem(embedding, GENRES, tf.constant([liked]))


@pytest.mark.parametrize("name", sorted(OBSERVATION_ENCODERS))
def test_the_width_is_that_of_the_memory_before_and_after(name):
    view = make(name)
    start = view.start(USER)
    assert start.shape == (1, view.width)
    assert view.update(start, shown(1.0)).shape == (1, view.width)


def test_interest_starts_at_the_embedding_of_the_user():
    np.testing.assert_array_equal(make("interest").start(USER), [[0.5, -0.5, 0, 0, 0, 0]])


def test_interest_turns_on_a_like_and_misses_start_anew():
    """.9 (.5, -.5) + .1 (.6, .8) = (.51, -.37); genres .3 (.6, .8); no misses; 1 of 4 steps."""
    view = make("interest")
    after = view.update(tf.constant([[0.5, -0.5, 0.0, 0.0, 0.4, 0.0]]), shown(1.0))
    np.testing.assert_allclose(after, [[0.51, -0.37, 0.18, 0.24, 0, 0.25]], rtol=1e-6)


def test_interest_stays_without_a_like_and_misses_count_up_to_five():
    """Genres .7 (1, 0) + .3 (.6, .8) = (.88, .24)."""
    view = make("interest")
    history_state = tf.constant([[0.5, -0.5, 1.0, 0.0, 0.4, 0.5]])
    np.testing.assert_allclose(view.update(history_state, shown(0.0)), [[0.5, -0.5, 0.88, 0.24, 0.6, 0.75]], rtol=1e-6)
    for _ in range(5):
        history_state = view.update(history_state, shown(0.0))
    assert history_state.numpy()[0, 4] == pytest.approx(1.0)


def test_last_item_is_the_embedding_of_the_last_item_and_zero_before():
    view = make("last_item")
    np.testing.assert_array_equal(view.start(USER), [[0, 0]])
    for liked in (1.0, 0.0):
        np.testing.assert_array_equal(view.update(tf.constant([[7.0, 7.0]]), shown(liked)), ITEM)


def test_last_n_holds_the_newest_first_and_forgets_the_oldest():
    """Items (1, 1), (2, 2) and (3, 3), the second not liked, of which n = 2 are kept."""
    view = make("last_n")
    history_state = view.start(USER)
    np.testing.assert_array_equal(history_state, np.zeros((1, 7)))
    for number, liked in ((1.0, 1.0), (2.0, 0.0), (3.0, 1.0)):
        history_state = view.update(history_state, shown(liked, tf.constant([[number, number]])))
    np.testing.assert_array_equal(history_state, [[3, 3, 1, 2, 2, 0, 0.75]])


def test_last_n_can_be_one():
    view = make("last_n", last_n=1)
    np.testing.assert_array_equal(view.update(view.start(USER), shown(1.0)), [[3, 4, 1, 0.25]])


def test_sequences_hold_features_like_and_a_one_and_no_more_than_the_last_n():
    """Items (1, 1), (2, 2) and (3, 3), the second not liked, of which n = 2 are kept; an empty place is zeros."""
    view = make("gru")
    history_state = view.update(view.start(USER), shown(1.0, tf.constant([[1.0, 1.0]])))
    np.testing.assert_allclose(history_state, [[1, 1, 0.6, 0.8, 1, 1, 0, 0, 0, 0, 0, 0, 0.25]])
    for number, liked in ((2.0, 0.0), (3.0, 1.0)):
        history_state = view.update(history_state, shown(liked, tf.constant([[number, number]])))
    np.testing.assert_allclose(history_state, [[3, 3, 0.6, 0.8, 1, 1, 2, 2, 0.6, 0.8, 0, 1, 0.75]])


def test_sequences_are_short():
    with pytest.raises(ConfigError, match="last_n is 201: the view transformer remembers at most 200 items"):
        make("transformer", last_n=201)
