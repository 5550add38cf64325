"""Sessions of one item a step: rewards, lengths, fatigue, drift."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from recpolicy.core.errors import ConfigError
from recpolicy.environments.observation_encoders import OBSERVATION_ENCODERS
from recpolicy.environments.session import SessionConfig, SessionEnvironment
from recpolicy.environments.session_slate import SlateConfig, SlateEnvironment
from recpolicy.testing import (
    PlantedSessions,
    SessionEnvironmentContract,
    planted_environment,
    planted_sessions,
    record_sessions,
)
from recpolicy.testing.session_environments import first_session_lengths
from recpolicy.testing.synthetic_sessions import ITEMS

EVERYTHING = np.arange(ITEMS, dtype=np.int32)


class TestSessionEnvironment(SessionEnvironmentContract):
    def make(self, planted, seed=0, batch_size=8, **config):
        return planted_environment(planted, seed, batch_size, **config)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0: expected greater than or equal to 1"),
        ({"last_n": 0}, "last_n is 0: expected greater than or equal to 1"),
        ({"max_episode_steps": 0}, "max_episode_steps is 0: expected greater than or equal to 1"),
        ({"reward_decay": 0.0}, r"reward_decay is 0.0: expected greater than 0"),
        ({"reward_decay": 1.1}, r"reward_decay is 1.1: expected less than or equal to 1"),
        (
            {"view": "interests"},
            "view is 'interests': expected .* 'last_n', 'gru' or 'transformer'",
        ),
        ({"reward": "likes"}, "reward is 'likes': expected 'like', 'watch', 'rating', 'similarity' or"),
    ],
)
@pytest.mark.parametrize("config", [SessionConfig, SlateConfig])
def test_settings_out_of_range_are_refused(config, settings, message):
    with pytest.raises(ConfigError, match=message):
        config(**settings)


def test_the_longest_session_leaves_an_item_to_show():
    with pytest.raises(ConfigError, match="there are 8 items to show, 1 a step and 1 left at the end"):
        make(planted_sessions(), candidates=EVERYTHING[:8])
    assert make(planted_sessions(), candidates=EVERYTHING[:9]).actions == 9


def make(planted: PlantedSessions, seed=0, candidates=EVERYTHING, **config) -> SessionEnvironment:
    settings = SessionConfig(**{"batch_size": 8, "max_episode_steps": 8, **config})
    return SessionEnvironment(planted.world, planted.context, planted.embedding, candidates, settings, seed)


def in_order(order: np.ndarray):
    """Shows the items in this order, whatever happened: of the allowed ones the first."""
    rank = tf.constant(np.argsort(order), tf.int32)
    return lambda features, mask, number: tf.argmin(tf.where(mask, rank, ITEMS), axis=1, output_type=tf.int32)


def test_candidates_are_renumbered_as_actions():
    """Of items 20, 3 and 7, in this order, action 1 is item 3: each shows its own genres and pays its known level."""
    planted, rows = planted_sessions(known=1.0), np.array([20, 3, 7], np.int32)
    environment = make(planted, candidates=rows, max_episode_steps=2, reward="watch")
    session = environment.restart(None, None, environment.noise(tf.constant(0)))
    for action, item in enumerate(rows):
        step = environment.transition(session, tf.fill([8], action), environment.noise(tf.constant(1)))
        known = planted.world.known[session.user_state.user.numpy(), item]
        np.testing.assert_array_equal(step.reward, known / 4)
        np.testing.assert_array_equal(step.session.user_state.genres, np.tile(planted.world.genres[item], (8, 1)))
        np.testing.assert_array_equal(step.session.history_state[:, 4:9], 0.3 * step.session.user_state.genres)


@pytest.mark.parametrize("reward", ["similarity", "cosine_similarity"])
def test_a_similarity_pays_the_embeddings_and_no_response(reward):
    """Responses drawn anew leave the reward as it is, and a second step pays reward_decay times as much."""
    planted, action = planted_sessions(), tf.range(8)
    environment = make(planted, reward=reward, reward_decay=0.5)
    session = environment.restart(None, None, environment.noise(tf.constant(0)))
    user = planted.context[planted.world.users[session.user_state.user.numpy()]][:, : planted.embedding.shape[1]]
    item = planted.embedding[:8]
    expected = np.sum(user * item, axis=1)
    if reward == "cosine_similarity":
        expected /= np.linalg.norm(user, axis=1) * np.linalg.norm(item, axis=1)
    steps = [environment.transition(session, action, environment.noise(tf.constant(number))) for number in (1, 2)]
    assert (steps[0].response.like.numpy() != steps[1].response.like.numpy()).any()
    for step in steps:
        np.testing.assert_allclose(step.reward, expected, rtol=1e-5)
    second = environment.transition(steps[0].session, action, environment.noise(tf.constant(3)))
    np.testing.assert_allclose(second.reward, 0.5 * expected, rtol=1e-5)


def test_no_session_earns_more_than_max_return():
    """A similarity has no bound of 1: a training in it must not be told that its values diverge."""
    planted = planted_sessions()
    assert make(planted).max_return == make(planted).config.max_episode_steps
    large = dataclasses.replace(planted, embedding=30 * planted.embedding)
    environment = make(large, reward="similarity")
    users = planted.context[planted.world.users][:, : planted.embedding.shape[1]]
    best = np.abs(users @ large.embedding.T).max() * environment.config.max_episode_steps
    assert best > environment.config.max_episode_steps
    assert best <= environment.max_return <= 10 * best


def test_slates_pay_no_similarity():
    planted, config = planted_sessions(), SlateConfig(batch_size=8, max_episode_steps=2, reward="similarity")
    with pytest.raises(ConfigError, match="slates pay like, watch or rating"):
        SlateEnvironment(planted.world, planted.context, planted.embedding, EVERYTHING, config)


def test_fresh_users_of_the_world_are_rows_of_the_context():
    """The world's user w is row 2 w + 1 of the users."""
    planted = planted_sessions()
    environment = make(planted)
    session = environment.restart(None, None, environment.noise(tf.constant(0)))
    features, _ = environment.observe(session)
    np.testing.assert_array_equal(features[:, :5], planted.context[2 * session.user_state.user.numpy() + 1])
    np.testing.assert_array_equal(features[:, 5:9], features[:, :4])  # the running interest starts at the embedding


def one_genre_or_two(fatigue: tuple[float, float], order: np.ndarray) -> np.ndarray:
    """Lengths of 4,000 sessions; the first half of the items has one genre, the second half another."""
    planted = planted_sessions(fatigue=fatigue, like_history=(0.0, 0.0), slope=0.0, known=0.0)
    genres = np.repeat(np.eye(2, dtype=np.float32), ITEMS // 2, axis=0)
    same = np.zeros_like(planted.world.like)  # all items are liked alike, so only the genres differ
    world = dataclasses.replace(planted.world, genres=genres, like=same)
    environment = make(dataclasses.replace(planted, world=world), batch_size=4000)
    return first_session_lengths(record_sessions(environment, 8, in_order(order)))


REPEATING, ALTERNATING = EVERYTHING, EVERYTHING.reshape(2, -1).T.ravel()


def test_fatigue_makes_sessions_of_one_genre_shorter_than_alternating_ones():
    """n = 4,000 pairs with the same users and noise: more than 10 standard errors of the difference."""
    difference = one_genre_or_two((2.0, 0.0), ALTERNATING) - one_genre_or_two((2.0, 0.0), REPEATING)
    assert difference.mean() > 10 * difference.std() / np.sqrt(4000)


def test_without_fatigue_genres_leave_the_length_alone():
    repeating, alternating = (one_genre_or_two((0.0, 0.0), order) for order in (REPEATING, ALTERNATING))
    np.testing.assert_array_equal(repeating, alternating)


def test_fatigue_makes_misses_in_a_row_end_sessions():
    """The same sessions with and without: mean length differs by more than 10 standard errors."""
    tired = one_genre_or_two((0.0, 2.0), EVERYTHING)
    difference = one_genre_or_two((0.0, 0.0), EVERYTHING) - tired
    assert difference.mean() > 10 * difference.std() / np.sqrt(4000)


def test_sessions_that_nothing_ends_are_cut_at_the_limit():
    planted = planted_sessions(stay=1 - 1e-7, fatigue=(0.0, 0.0))
    records = record_sessions(make(planted, max_episode_steps=5), 10)
    ended = [record.step.session.user_state.step[record.over] for record in records]
    assert (np.concatenate(ended) == 5).all()
    assert not any(record.step.terminated.any() for record in records)
    assert records[4].step.truncated.all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: {"context": p.context[:59]}, "context has 59 users, the world names user row 59"),
        (lambda p: {"embedding": p.embedding[:-1]}, "embedding has 23 items, the world 24"),
        (lambda p: {"context": p.context[:, :3]}, "context is 3 wide, the items' embedding 4"),
    ],
)
def test_tables_that_do_not_fit_the_world_are_refused(change, message):
    planted = planted_sessions()
    with pytest.raises(ConfigError, match=message):
        make(dataclasses.replace(planted, **change(planted)))


@pytest.mark.parametrize("view", OBSERVATION_ENCODERS)
def test_every_view_plays_and_has_its_width(view):
    environment = make(planted_sessions(), view=view, last_n=3)
    tokens = 3 * (4 + 5 + 2) + 1
    widths = {"interest": 4 + 5 + 2, "last_item": 4, "last_n": 3 * 5 + 1, "gru": tokens, "transformer": tokens}
    width = widths[view]
    assert environment.time_step_spec().observation["global"].shape == (5 + width,)
    records = record_sessions(environment, 3)
    assert records[-1].step.session.history_state.shape == (8, width)
