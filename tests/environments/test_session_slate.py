"""Sessions of slates: the cascade, what it leaves behind, and slates that repeat items."""

import numpy as np
import pytest
import tensorflow as tf

from recpolicy.core.errors import ConfigError
from recpolicy.core.tensorflow_random import uniform
from recpolicy.environments.session_dynamics import SessionState, SessionTables, begin, like_odds, stay_odds, transition
from recpolicy.environments.session_slate import SlateConfig, SlateEnvironment, SlateResponse, browse_slate
from recpolicy.models.slate_outcomes import first_slate_outcomes
from recpolicy.testing import SessionEnvironmentContract, planted_sessions, record_sessions
from recpolicy.testing.synthetic_sessions import ITEMS

K = 2
EVERYTHING = np.arange(ITEMS, dtype=np.int32)
LIKES, LEAVES_IT = 0.0, 1.0
"""Numbers below and not below any probability."""


def make(planted=None, seed=0, batch_size=8, **config) -> SlateEnvironment:
    planted = planted or planted_sessions()
    wanted = {"batch_size": batch_size, "slate_size": K, "max_episode_steps": 6, **config}
    settings = SlateConfig(**wanted)
    return SlateEnvironment(planted.world, planted.context, planted.embedding, planted.candidates, settings, seed)


class TestSlateEnvironment(SessionEnvironmentContract):
    def make(self, planted, seed=0, batch_size=8, **config):
        return make(planted, seed, batch_size, **config)

    def expected_reward(self, value, response):
        return np.where(response.like, value, 0)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"slate_size": 0}, "SlateConfig: slate_size is 0: expected greater than or equal to 1"),
            ({"continuation_probability": 0.0}, r"continuation_probability is 0.0: expected greater than 0"),
            ({"continuation_probability": 1.5}, r"continuation_probability is 1.5: expected less than or equal to 1"),
        ],
    )
    def test_slates_out_of_range_are_refused(self, settings, message):
        with pytest.raises(ConfigError, match=message):
            SlateConfig(**settings)

    def test_the_longest_session_leaves_a_slate_to_show(self):
        """24 items are 8 slates of 3: 7 can be shown."""
        assert make(slate_size=3, max_episode_steps=7).actions == ITEMS
        with pytest.raises(ConfigError, match="there are 24 items to show, 3 a step and 3 left at the end"):
            make(slate_size=3, max_episode_steps=8)

    def test_a_slate_earns_at_most_one_like(self, records):
        for record in records:
            response = record.step.response
            assert response.liked.sum(axis=1).max() <= 1
            np.testing.assert_array_equal(response.liked.any(axis=1), response.like)
            assert not (response.liked & ~response.read).any()


def tables_and_state(users: int) -> tuple[SessionTables, SessionState]:
    """Fresh sessions in the planted world without known cells."""
    tables = SessionTables(planted_sessions(known=0.0).world, EVERYTHING)
    return tables, begin(tables, tf.cast(tf.range(users) % tables.users, tf.float32) / tables.users)


def noise(rows: list[list[float]], stay: float = 0.0) -> tf.Tensor:
    """One session's numbers, a row (like, level, reading on) per position."""
    return tf.constant([[0.0, stay, *np.ravel(rows)]], tf.float32)


def read(
    slate: list[int], rows: list[list[float]], continuation_probability: float = 0.5, stay: float = 0.0, state=None
):
    """User 0 reads a slate; returns tables, the state before and after, the response."""
    tables, fresh = tables_and_state(1)
    before = fresh if state is None else state
    after, response = browse_slate(tables, before, tf.constant([slate]), noise(rows, stay), continuation_probability)
    return tables, before, after, response


def flags(part: tf.Tensor) -> list[bool]:
    return part.numpy()[0].tolist()


ON, OFF = 0.4, 0.6
"""Numbers with which a user of continuation_probability .5 reads on, and does not."""


def test_reading_goes_from_the_top_to_the_first_like():
    rows = [[LEAVES_IT, 0.9, ON], [LIKES, 0.9, ON], [LIKES, 0.9, ON]]
    *_, response = read([4, 5, 6], rows)
    assert flags(response.read) == [True, True, False]
    assert flags(response.liked) == [False, True, False]
    assert response.like.numpy().item()


def test_reading_stops_where_patience_ends():
    rows = [[LEAVES_IT, 0.9, ON], [LEAVES_IT, 0.9, OFF], [LIKES, 0.9, ON]]
    *_, response = read([4, 5, 6], rows)
    assert flags(response.read) == [True, True, False]
    assert not response.like.numpy().item()
    assert response.level.numpy().item() == 0


def test_read_items_move_the_session_on_as_single_items_do():
    """A miss and then a like: the state is that after showing the two one by one, but for the step and the mask."""
    rows = [[LEAVES_IT, 0.3, ON], [LIKES, 0.2, ON], [LIKES, 0.9, ON]]
    tables, before, after, response = read([4, 5, 6], rows, stay=0.7)
    one, _ = transition(tables, before, tf.constant([4]), tf.constant([[0.0, LEAVES_IT, 0.3, 0.7]]))
    two, last = transition(
        tables, one._replace(step=before.step), tf.constant([5]), tf.constant([[0.0, LIKES, 0.2, 0.7]])
    )
    for name in ("shift", "genres", "misses"):
        np.testing.assert_array_equal(getattr(after, name), getattr(two, name))
    assert response.level.numpy().item() == last.level.numpy().item() >= 3
    assert response.stays.numpy().item() == last.stays.numpy().item()
    assert after.step.numpy().item() == 1
    assert np.flatnonzero(after.shown.numpy()[0]).tolist() == [4, 5, 6]


def test_misses_add_up_within_a_slate_and_unread_items_are_none():
    """Three read and left: 3 / 5. Reading stops after the second: 2 / 5."""
    for reads_on, misses in ((ON, 0.6), (OFF, 0.4)):
        rows = [[LEAVES_IT, 0.9, ON], [LEAVES_IT, 0.9, reads_on], [LEAVES_IT, 0.9, ON]]
        _, _, after, _ = read([4, 5, 6], rows)
        np.testing.assert_allclose(after.misses, [misses], rtol=1e-6)


def test_a_repeated_position_is_skipped_and_reading_goes_on():
    """Position 2 shows item 4 again: neither read nor a miss, and no continuation_probability is spent on it."""
    rows = [[LEAVES_IT, 0.9, ON], [LIKES, 0.9, OFF], [LIKES, 0.9, ON]]
    _, _, after, response = read([4, 4, 6], rows)
    assert flags(response.read) == [True, False, True]
    assert flags(response.liked) == [False, False, True]
    assert np.flatnonzero(after.shown.numpy()[0]).tolist() == [4, 6]


def test_a_item_shown_before_is_skipped():
    before = tables_and_state(1)[1]._replace(shown=tf.constant([EVERYTHING == 4]))
    *_, response = read([4, 5], [[LIKES, 0.9, ON]] * 2, state=before)
    assert flags(response.read) == [False, True]


def test_a_slate_with_nothing_new_earns_nothing_and_only_time_passes():
    """The user stays with the log-odds of no repeat and the misses so far."""
    tables, fresh = tables_and_state(1)
    before = fresh._replace(shown=tf.constant([EVERYTHING < 2]), misses=tf.constant([0.4]))
    probability = tf.sigmoid(tables.stay[0, 0] + 0.4 * tables.stay_history[1]).numpy()
    for stay, stays in ((probability - 1e-4, True), (probability + 1e-4, False)):
        _, _, after, response = read([0, 1], [[LIKES, 0.9, ON]] * 2, stay=stay, state=before)
        assert not response.like.numpy().item()
        assert response.stays.numpy().item() is stays
        np.testing.assert_array_equal(after.misses, before.misses)
        np.testing.assert_array_equal(after.genres, before.genres)
        assert after.step.numpy().item() == 1


def crowd(continuation_probability: float) -> tuple[SessionTables, SessionState, SlateResponse]:
    """30,000 fresh sessions that read items 0, 1, 2."""
    users = 30_000
    tables, state = tables_and_state(users)
    drawn = uniform([users, 2 + 3 * 3], tf.constant([3, 4]))
    _, response = browse_slate(tables, state, tf.tile([[0, 1, 2]], [users, 1]), drawn, continuation_probability)
    return tables, state, response


def test_positions_are_read_as_often_as_the_cascade_says():
    """P(k read) = continuation_probability^(k-1) prod (1 - P(like j)), n = 30,000 sessions, 4.5 standard errors."""
    tables, state, response = crowd(0.7)
    expected = np.ones(30_000)
    for k in range(3):
        like = tf.sigmoid(like_odds(tables, state)[:, k]).numpy().astype(float)
        for outcome, p in ((response.read[:, k], expected), (response.liked[:, k], expected * like)):
            assert abs((outcome.numpy() - p).sum()) <= 4.5 * np.sqrt(np.sum(p * (1 - p)))
        expected = expected * (1 - like) * 0.7
        state, _ = transition(tables, state, tf.fill([30_000], k), tf.ones([30_000, 4]))  # read and left


def test_with_full_patience_the_user_reads_to_the_first_like():
    *_, response = crowd(1.0)
    liked_above = np.cumsum(response.liked.numpy(), axis=1) - response.liked.numpy()
    np.testing.assert_array_equal(response.read, liked_above == 0)


def test_slates_of_one_item_are_sessions_of_single_items():
    """Same numbers, same states: like, level, staying, and the odds behind them."""
    tables, state = tables_and_state(500)
    drawn = uniform([500, 5], tf.constant([1, 2]))
    item = tf.range(500) % ITEMS
    after, response = browse_slate(tables, state, item[:, tf.newaxis], drawn, 0.5)
    single = tf.gather(drawn, [0, 2, 3, 1], axis=1)
    expected, told = transition(tables, state, item, single)
    for mine, wanted in zip(after, expected, strict=True):
        np.testing.assert_array_equal(mine, wanted)
    np.testing.assert_array_equal(response.like, told.like)
    np.testing.assert_array_equal(response.stays, told.stays)
    np.testing.assert_array_equal(response.level, np.where(told.like, told.level, 0))
    assert tf.reduce_any(stay_odds(tables, state)[0] != stay_odds(tables, after)[0])


def test_the_view_remembers_read_items_only_and_in_their_order():
    """last_n holds the last two read; n = 64 sessions of slates of 3."""
    environment = make(slate_size=3, max_episode_steps=4, view="last_n", last_n=2, batch_size=64)
    (record,) = record_sessions(environment, 1)
    history_state, response = record.step.session.history_state, record.step.response
    embedding = planted_sessions().embedding
    assert len(np.unique(response.read.sum(axis=1))) > 1
    for row in range(64):
        seen = [(*embedding[item], liked) for item, liked, was in zip(
            record.action[row], response.liked[row], response.read[row], strict=True) if was]  # fmt: skip
        newest = np.zeros((2, 5), np.float32)
        newest[: min(2, len(seen))] = seen[::-1][:2]
        np.testing.assert_allclose(history_state[row, :10], newest.ravel(), rtol=1e-6)
        np.testing.assert_allclose(history_state[row, 10], len(seen) / 12, rtol=1e-6)  # of at most 4 slates of 3


@pytest.mark.parametrize("known", [0.0, 0.3])
def test_exact_outcomes_of_the_first_slate_agree_with_the_environment(known):
    world, people = planted_sessions(known=known).world, 20_000
    tables = SessionTables(world, EVERYTHING)
    person = np.array([1, 5])
    slate = np.array([[3, 9, 14, 0], [7, 2, 20, 11]], np.int32)
    likes, stays = first_slate_outcomes(world, person, slate, 0.7)
    for place in range(2):
        state = begin(tables, tf.fill([people], np.float32((person[place] + 0.5) / tables.users)))
        points = uniform([people, 2 + 3 * 4], (1, place))
        _, response = browse_slate(tables, state, tf.tile(slate[place : place + 1], [people, 1]), points, 0.7)
        for drawn, exact in ((response.like, likes[place]), (response.stays, stays[place])):
            share = float(np.mean(drawn.numpy()))
            assert share == pytest.approx(exact, abs=4.5 * np.sqrt(max(exact * (1 - exact), 1e-3) / people))
