"""The laws of a session, one step at a time, against numbers worked out by hand and against its own odds.

The hand-made world: 2 users, 3 items, D = G = 2, 3 steps. Every exact test shows item 2 to user 0, who

    has shift (.1, .2), remembered genres (1, .5), misses .4, and is at step 1;
    repeat = .3 (1 * .6 + .5 * .8) = .3
    log-odds(like) = .5 + 2 (.1 * .6 + .2 * .8) - 1 * .3 - 2 * .4 = -.16, so P(like) = .460085
    log-odds(stay) = .5 - 1 * .3 - .5 misses': .2 after a like, P = .549834; -.1 after a miss (misses' .6), P = .475021
"""

import numpy as np
import pytest
import tensorflow as tf

from recpolicy.core.tensorflow_random import uniform
from recpolicy.environments.session_dynamics import (
    SessionState,
    SessionTables,
    begin,
    genre_repeat,
    like_odds,
    stay_odds,
    transition,
)
from recpolicy.models.session_world import SessionWorld
from recpolicy.testing import planted_sessions

STATE = SessionState(
    user=tf.constant([0]), shift=tf.constant([[0.1, 0.2]]), genres=tf.constant([[1.0, 0.5]]),
    misses=tf.constant([0.4]), step=tf.constant([1]), shown=tf.constant([[True, False, False]]),
)  # fmt: skip
LIKES, LEAVES_IT = 0.0, 0.9999
"""Numbers below and above every probability here."""


def table(rows) -> np.ndarray:
    return np.array(rows, np.float32)


def hand_made(known: np.ndarray | None = None) -> SessionTables:
    world = SessionWorld(
        name="hand-made", users=np.array([0, 1], np.int32), like=table([[0, 1, 0.5], [1, 1, 1]]), slope=2.0,
        interest=table([[1, 0], [0, 0]]), direction=table([[0, 2], [3, 0], [0.6, 0.8]]), like_history=table([-1, -2]),
        stay=table([[1, 0.5, 0.25], [0, 0, 0]]), stay_history=table([-1, -0.5]), fatigue=(1.0, 0.5),
        levels=table([[0, 1], [1, 0], [-1, 2]]), genres=table([[1, 0], [0, 1], [0.6, 0.8]]), known=known,
    )  # fmt: skip
    return SessionTables(world, np.arange(3, dtype=np.int32))


def show(like: float, level: float = 0.5, stay: float = 0.0, item: int = 2, tables: SessionTables | None = None):
    return transition(tables or hand_made(), STATE, tf.constant([item]), tf.constant([[0.0, like, level, stay]]))


def test_a_item_is_liked_with_its_probability():
    """P(like) = .460085."""
    assert show(0.46008)[1].like.numpy().item()
    assert not show(0.46009)[1].like.numpy().item()


def test_a_like_turns_the_interest_a_tenth_of_the_way_to_the_item():
    """Interest 1.1, .2 -> .9 (1.1, .2) + .1 (.6, .8) = (1.05, .26): the shift is (.05, .26)."""
    np.testing.assert_allclose(show(LIKES)[0].shift, [[0.05, 0.26]], rtol=1e-6)


def test_the_item_counts_by_its_direction_and_not_its_length():
    """Item 1 has direction (3, 0), the unit (1, 0): .9 (1.1, .2) + .1 (1, 0) = (1.09, .18)."""
    np.testing.assert_allclose(show(LIKES, item=1)[0].shift, [[0.09, 0.18]], rtol=1e-6)


def test_without_a_like_the_interest_stays():
    np.testing.assert_array_equal(show(LEAVES_IT)[0].shift, STATE.shift)


@pytest.mark.parametrize("like", [LIKES, LEAVES_IT])
def test_genres_are_remembered_at_seven_tenths_liked_or_not(like):
    """.7 (1, .5) + (.6, .8) = (1.3, 1.15)."""
    np.testing.assert_allclose(show(like)[0].genres, [[1.3, 1.15]], rtol=1e-6)


def test_misses_count_in_fifths_until_a_like():
    assert show(LIKES)[0].misses.numpy().item() == 0
    np.testing.assert_allclose(show(LEAVES_IT)[0].misses, [0.6], rtol=1e-6)


def test_misses_stop_at_five():
    state = STATE
    for _ in range(7):
        state, _ = transition(hand_made(), state, tf.constant([2]), tf.constant([[0.0, LEAVES_IT, 0.5, 0.0]]))
    np.testing.assert_allclose(state.misses, [1.0], rtol=1e-6)


def test_the_item_is_marked_as_shown_and_the_step_counted():
    state, _ = show(LIKES)
    np.testing.assert_array_equal(state.shown, [[True, False, True]])
    assert state.step.numpy().item() == 2
    assert state.user.numpy().item() == 0


def test_the_user_stays_with_the_probability_of_the_history_after_the_response():
    """P = .549834 after a like, .475021 after a miss."""
    for like, probability in ((LIKES, 0.549834), (LEAVES_IT, 0.475021)):
        assert show(like, stay=probability - 1e-5)[1].stays.numpy().item()
        assert not show(like, stay=probability + 1e-5)[1].stays.numpy().item()


def test_beyond_the_last_step_of_the_world_its_last_one_counts():
    """Step 3 of 3 reads column 2: .25 - .3 = -.05 after a like, P = .487503; step 2 reads the same column."""
    for step in (2, 3):
        state = STATE._replace(step=tf.constant([step]))
        liked, _ = stay_odds(hand_made(), state)
        np.testing.assert_allclose(liked.numpy()[0, 2], -0.05, atol=1e-6)


@pytest.mark.parametrize(
    ("like", "point", "level"),
    [
        # liked: 5 stars with sigma(0 + 1 * -.16) = .460085
        (LIKES, 0.46008, 4), (LIKES, 0.46009, 3),
        # not liked: 3 with sigma(1) = .731059; else 2 with sigma(-1 - .32) = .210814 of the rest, up to .787755
        (LEAVES_IT, 0.73105, 2), (LEAVES_IT, 0.73107, 1), (LEAVES_IT, 0.78775, 1), (LEAVES_IT, 0.78777, 0),
        (LEAVES_IT, 0.9999, 0),
    ],
)  # fmt: skip
def test_the_level_follows_the_continuation_ratios(like, point, level):
    assert show(like, point)[1].level.numpy().item() == level


@pytest.mark.parametrize("level", range(5))
@pytest.mark.parametrize("like", [LIKES, LEAVES_IT])
def test_a_known_level_is_paid_whatever_is_drawn(level, like):
    known = np.full((2, 3), -1, np.int8)
    known[0, 2] = level
    state, response = show(like, tables=hand_made(known))
    assert response.level.numpy().item() == level
    assert response.like.numpy().item() == (level >= 3)
    assert (state.misses.numpy().item() == 0) == (level >= 3)


def test_sessions_begin_at_nothing_with_the_user_of_the_number():
    state = begin(hand_made(), tf.constant([0.0, 0.4999, 0.5, 1 - 2.0**-24]))
    np.testing.assert_array_equal(state.user, [0, 0, 1, 1])
    for part in state[1:]:
        assert not part.numpy().any()
    assert state.shift.shape == state.genres.shape == (4, 2)
    assert state.shown.shape == (4, 3)


def test_genre_repeat_is_the_weighted_cosine_and_reaches_one_for_ever_the_same():
    """.3 (1, .5) . rows: .3, .15, .3; a genre shown 40 times in a row is remembered at 1 / .3."""
    np.testing.assert_allclose(genre_repeat(hand_made(), STATE), [[0.3, 0.15, 0.3]], rtol=1e-6)
    tables = hand_made()
    state = begin(tables, tf.constant([0.0]))
    for _ in range(40):
        state, _ = transition(tables, state, tf.constant([0]), tf.constant([[0.0, 0.5, 0.5, 0.0]]))
    np.testing.assert_allclose(genre_repeat(tables, state)[0, 0], 1.0, atol=1e-6)


def crowd(users: int, seed: int = 0, **planted) -> tuple[SessionTables, SessionState]:
    """Sessions of the planted world after 4 random items."""
    world = planted_sessions(**planted).world
    tables = SessionTables(world, np.arange(world.like.shape[1], dtype=np.int32))
    noise = uniform([5, users, 5], tf.constant([seed, 1]))
    state = begin(tables, noise[0, :, 0])
    for step in noise[1:]:
        state, _ = transition(tables, state, tf.cast(step[:, 4] * tables.actions, tf.int32), step[:, :4])
    return tables, state


def test_odds_of_all_items_are_those_of_each_item_shown():
    """A number just below the probability is a like (or staying), one just above is not; unknown cells."""
    tables, state = crowd(50, known=0.0)
    like = tf.sigmoid(like_odds(tables, state)).numpy()
    stay = [tf.sigmoid(odds).numpy() for odds in stay_odds(tables, state)]
    for item in range(tables.actions):
        for liked in (1, 0):
            for sign in (-1e-5, 1e-5):
                point = like[:, item] + 1e-5 * (1 - 2 * liked)
                noise = np.stack([point, point, point, stay[1 - liked][:, item] + sign], axis=1)
                _, response = transition(tables, state, tf.fill([50], item), tf.constant(noise))
                np.testing.assert_array_equal(response.like, liked)
                np.testing.assert_array_equal(response.stays, sign < 0)


def test_known_levels_have_certain_odds():
    tables, state = crowd(200, known=0.5)
    known = tf.gather(tables.known, state.user).numpy()
    odds = like_odds(tables, state).numpy()
    np.testing.assert_array_equal(odds[known >= 3], 30)
    np.testing.assert_array_equal(odds[(known >= 0) & (known < 3)], -30)
    assert np.abs(odds[known < 0]).max() < 10


def test_likes_and_stays_happen_as_often_as_the_odds_say():
    """n = 100,000 responses; sum of (outcome - p) within 4.5 of its standard deviation, sqrt(sum p (1 - p))."""
    users = 100_000
    tables, state = crowd(users, known=0.0)
    noise = uniform([users, 5], tf.constant([9, 9]))
    action = tf.cast(noise[:, 4] * tables.actions, tf.int32)
    _, response = transition(tables, state, action, noise[:, :4])
    chosen = {"batch_dims": 1}
    like = tf.sigmoid(tf.gather(like_odds(tables, state), action, **chosen)).numpy().astype(float)
    liked, missed = (tf.gather(odds, action, **chosen) for odds in stay_odds(tables, state))
    stay = tf.sigmoid(tf.where(response.like, liked, missed)).numpy().astype(float)
    for outcome, probability in ((response.like, like), (response.stays, stay)):
        rest = outcome.numpy() - probability
        assert abs(rest.sum()) < 4.5 * np.sqrt(np.sum(probability * (1 - probability)))


def test_with_slope_zero_likes_leave_the_odds_alone():
    tables, state = crowd(50, slope=0.0, like_history=(0.0, 0.0), known=0.0)
    assert np.abs(state.shift.numpy()).max() > 0
    np.testing.assert_array_equal(like_odds(tables, state), tf.gather(tables.like, state.user))


def test_without_fatigue_history_leaves_staying_alone():
    tables, state = crowd(50, fatigue=(0.0, 0.0))
    liked, missed = stay_odds(tables, state)
    base = tf.gather(tables.stay, state.user).numpy()[:, 4]
    np.testing.assert_array_equal(liked, np.repeat(base[:, np.newaxis], tables.actions, axis=1))
    np.testing.assert_array_equal(missed, liked)
