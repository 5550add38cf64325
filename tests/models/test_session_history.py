"""History along sessions, by hand."""

from dataclasses import replace

import numpy as np
import pytest
from tiny_dataset import miniature_ratings

from recpolicy.data.rating_sessions import split_into_sessions
from recpolicy.models.session_history import Preferences, compute_history, history_of_all_items

TASTES = Preferences(
    interest=np.array([[1.0, 0.0]], np.float32),
    direction=np.array([[0.0, 2.0], [3.0, 0.0]], np.float32),
    genres=np.array([[1.0, 0.0], [0.6, 0.8]], np.float32),
    interest_decay=0.9,
    genre_decay=0.7,
)


def played(item, like, hours=None):
    """One user's items, a minute apart or at these hours."""
    rows = np.zeros(len(item), int)
    time = np.arange(len(item)) * 60 if hours is None else np.asarray(hours) * 3600
    table = replace(miniature_ratings().take(rows), user=np.zeros(len(item), np.int32), timestamp=time)
    return compute_history(split_into_sessions(table), np.array(item, np.int32), np.array(like, bool), TASTES)


def test_misses_count_up_to_five_and_a_like_ends_them():
    history = played([0] * 8, [0, 0, 0, 0, 0, 0, 0, 1])
    assert history.misses.tolist() == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1, 1, 1])
    assert history.misses_after.tolist() == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 1, 1, 0])


def test_repeat_is_the_decaying_share_of_the_genres_shown():
    # item 1 after item 0: cosine .6; item 0 again: .3 (.7 x 1 + .6)
    assert played([0, 1, 0], [0, 0, 0]).repeat.tolist() == pytest.approx([0, 0.3 * 0.6, 0.3 * (0.7 + 0.6)])


def test_a_like_turns_interest_towards_the_item_and_a_miss_does_not():
    # liking item 0: shift .1 ((0, 1) - (1, 0)) = (-.1, .1); its direction is (0, 2), that of item 1 (3, 0)
    assert played([0, 0, 1], [1, 0, 0]).drift.tolist() == pytest.approx([0, 0.2, -0.3])
    # liking item 1 then turns by .1 ((1, 0) - (.9, .1)): back to (-.09, .09)
    assert played([0, 1, 0], [1, 1, 0]).drift.tolist() == pytest.approx([0, -0.3, 0.18])


def test_a_new_session_has_no_history():
    history = played([0, 0, 0], [1, 0, 0], hours=[0, 2, 2])
    assert history.repeat.tolist() == pytest.approx([0, 0, 0.3])
    assert history.misses.tolist() == pytest.approx([0, 0, 0.2])
    assert history.drift.tolist() == [0, 0, 0]


def test_the_history_of_all_items_has_that_of_the_items_shown():
    rng = np.random.default_rng(0)
    item, like = rng.integers(0, 2, 9), rng.random(9) < 0.4
    shown, every = played(item, like), history_of_all_items(item, like, 0, TASTES)
    for part in ("repeat", "misses", "misses_after", "drift"):
        assert getattr(every, part).shape == (9, 2)
        assert getattr(every, part)[np.arange(9), item].tolist() == pytest.approx(getattr(shown, part).tolist())
