"""Sessions in batches: the number asked for, no more, over all users, each batch with its own random numbers."""

import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from recpolicy.core.errors import ConfigError
from recpolicy.environments.session import SessionConfig, SessionEnvironment
from recpolicy.evaluation.sessions import SessionRunner, best_slate, by_table, numbers_of_seed
from recpolicy.testing import planted_environment, planted_sessions

USERS = len(planted_sessions().world.users)


@pytest.fixture(scope="module")
def environment():
    return planted_environment(batch_size=16)


@pytest.fixture(scope="module")
def score(environment):
    return np.random.default_rng(0).normal(size=(USERS, environment.actions))


def test_the_last_batch_is_cut_at_the_number_of_sessions(environment, score):
    results = SessionRunner(environment, 40).run(by_table(score), seed=3)
    assert {len(getattr(results, name)) for name in ("reward", "length", "likes", "watched", "user")} == {40}
    assert results.shown.sum() == results.length.sum()  # the surplus of the third batch does not count
    expected = np.floor((np.arange(40) + 0.5) / 40 * USERS)
    np.testing.assert_array_equal(results.user, expected)  # every user as often as any other


def test_batches_have_their_own_random_numbers(environment, score):
    """One user's sessions fill both batches: the same random numbers would repeat the first batch."""
    runner = SessionRunner(environment, 16 * USERS * 2)
    results = runner.run(by_table(score), seed=3)
    first, second = results.length[:16], results.length[16:32]
    assert set(results.user[:32]) == {0}
    assert (first != second).any()
    again = runner.run(by_table(score), seed=3)
    np.testing.assert_array_equal(results.reward, again.reward)
    assert len(results.by_user(results.reward)) == USERS


def test_large_seeds_have_random_numbers_of_their_own(environment):
    """Numbers of 32 bits wrap: 1000 seed is the same for seeds 2^29 apart, and 2,147,483 is the first that wraps."""
    family = environment.noise_seed
    assert numbers_of_seed(family, 2_147_482) == (family, 2_147_482_000)
    found = [numbers_of_seed(family, seed) for seed in (5, 5 + 2**29, 5 + 2**30, 2_147_483)]
    drawn = [environment.noise(tf.constant(first, tf.int64), seed=own).numpy().tobytes() for own, first in found]
    assert len(set(drawn)) == len(drawn)


def test_one_compiled_program_plays_several_worlds():
    """A world loaded into a running program gives the sessions of an environment made in it, to the last bit."""

    def make(planted, replaceable):
        config = SessionConfig(batch_size=32, max_episode_steps=planted.world.steps)
        tables = planted.context, planted.embedding, planted.candidates
        return SessionEnvironment(planted.world, *tables, config, 0, replaceable=replaceable)

    first, second = planted_sessions(), planted_sessions(1, slope=0.2)
    second = dataclasses.replace(second, context=first.context, embedding=first.embedding)
    environment = make(first, replaceable=True)
    runner = SessionRunner(environment)
    score = np.random.default_rng(0).normal(size=(USERS, environment.actions))
    before = runner.run(by_table(score), seed=3)
    environment.load_world(second.world)
    after, alone = runner.run(by_table(score), seed=3), SessionRunner(make(second, False)).run(by_table(score), seed=3)
    np.testing.assert_array_equal(after.reward, alone.reward)
    np.testing.assert_array_equal(after.length, alone.length)
    assert (after.reward != before.reward).any()
    assert runner._transition.experimental_get_tracing_count() == 1
    with pytest.raises(ConfigError, match="one program plays worlds of one shape"):
        environment.load_world(planted_sessions(users=USERS + 1).world)


def test_the_best_slate_is_that_of_a_sort_with_lots():
    """Many ties, some across the last place; fewer allowed items than places never occur in an environment."""
    rng = np.random.default_rng(4)
    score, mask = rng.integers(0, 4, (200, 9)).astype(float), rng.random((200, 9)) < 0.8
    mask[:, :3] = True
    for size in (1, 3):
        slate = best_slate(score, mask, size, np.random.default_rng(5))
        lot = np.random.default_rng(5).random(score.shape, dtype=np.float32)
        expected = np.lexsort((lot, -np.where(mask, score, -np.inf)), axis=1)[:, :size]
        np.testing.assert_array_equal(slate, expected)
