"""Chains of sessions: slates by weights, return days, conflict, and the switch of the influence."""

import numpy as np
import pytest
import tensorflow as tf

from recpolicy.core.errors import ConfigError
from recpolicy.environments.session_retention import (
    RetentionConfig,
    RetentionEnvironment,
    return_day,
)
from recpolicy.models.return_time import day_probabilities
from recpolicy.testing.synthetic_sessions import ITEMS, USERS, planted_sessions

CHAINS, HEADS = 60, 2


def make(heads=None, **config) -> RetentionEnvironment:
    planted = planted_sessions()
    world, rng = planted.world, np.random.default_rng(3)
    novelty = np.linspace(0, 1, ITEMS, dtype=np.float32)
    if heads is None:
        like = 1 / (1 + np.exp(-world.like))
        like = (like - like.min()) / np.ptp(like)
        heads = np.stack([like, np.broadcast_to(novelty, like.shape)], axis=2).astype(np.float32)
    settings = RetentionConfig(**{"slate_size": 3, "requests": 4, **config})
    personal = rng.normal(-0.5, 0.5, USERS)
    return RetentionEnvironment(
        world, planted.context[world.users], heads, novelty, personal, planted.candidates, settings
    )


def play(env: RetentionEnvironment, weights, requests=24, seed=1):
    """Constant weights; returns the last state and outcomes [T, B]."""
    weights = tf.constant(np.tile(np.float32(weights), (CHAINS, 1)))
    state, noise = env.begin(tf.range(CHAINS) % env.users), env.noise(CHAINS, requests, tf.constant([seed, 2]))
    outcomes = []
    for step in range(requests):
        state, outcome = STEPS[env](state, weights, noise[step])
        outcomes.append([part.numpy() for part in outcome])
    return state, [np.stack(part) for part in zip(*outcomes, strict=True)]


class CompiledSteps(dict):
    """One compiled step for each environment."""

    def __missing__(self, env):
        self[env] = tf.function(env.step, jit_compile=True, autograph=False)
        return self[env]


STEPS = CompiledSteps()


@pytest.fixture(scope="module")
def env() -> RetentionEnvironment:
    return make()


def test_the_slate_has_the_best_items_of_the_weighted_sum_once(env):
    state = env.begin(tf.constant([4, 9]))
    weights = tf.constant([[1.0, -0.5], [0.0, 1.0]])
    score = np.einsum("bha,bh->ba", env.heads.numpy()[[4, 9]], weights.numpy())
    np.testing.assert_array_equal(env.slate(state, weights), np.argsort(-score, axis=1, kind="stable")[:, :3])
    following, outcome = env.step(state, weights, env.noise(2, 1, tf.constant([1, 1]))[0])
    shown = following.user_state.shown.numpy()
    assert (shown.sum(axis=1) == np.where(outcome.last, 0, 3)).all()  # a new session may show all items again


def test_return_days_have_the_truncated_geometric_distribution():
    point = tf.constant((np.arange(20_000) + 0.5) / 20_000, tf.float32)
    for p in (0.02, 0.3, 0.8):
        days = return_day(tf.fill([20_000], tf.constant(p)), point).numpy()
        share = np.bincount(days.astype(int), minlength=11)[1:] / len(days)
        np.testing.assert_allclose(share, day_probabilities(np.array(p)), atol=3e-4)


def test_days_come_after_the_last_request_of_a_session_only(env):
    state, (like, novelty, last, day) = play(env, [1, 0])
    assert ((day >= 1) == last).all()
    assert (day <= 10).all()
    assert ((novelty >= 0) & (novelty <= 1)).all()
    assert set(np.unique(like)) == {0, 1}
    assert (state.session.numpy() == last.sum(axis=0)).all()
    length = np.diff(np.flatnonzero(np.append(True, last[:, 0])))
    assert length.max() <= env.config.requests


def test_novel_slates_bring_users_back_sooner_in_conflict_and_not_when_aligned(env):
    (_, liked), (_, novel) = play(env, [1, 0]), play(env, [0, 1])
    assert liked[0].mean() > novel[0].mean() + 0.05  # likes
    assert novel[3][novel[2]].mean() < liked[3][liked[2]].mean() - 0.3  # days
    env.effects.assign([1.0, 4.0, 0.0])  # return depends on likes only
    (_, liked), (_, novel) = play(env, [1, 0]), play(env, [0, 1])
    env.effects.assign([1.0, 1.0, 4.0])
    assert liked[3][liked[2]].mean() < novel[3][novel[2]].mean()


def test_without_influence_the_return_days_of_every_policy_are_the_same():
    # Sessions of one request, so that the k-th session of all policies has the same random number.
    env = make(influence=0.0, requests=1)
    (_, liked), (_, novel) = play(env, [1, 0]), play(env, [0, 1])
    assert (liked[0] != novel[0]).any()
    np.testing.assert_array_equal(liked[3], novel[3])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"slate_size": 6, "requests": 5}, "5 requests of 6 items; there are 24 items"),
        ({"influence": -1.0}, "influence is -1.0"),
        ({"heads": np.full((USERS, ITEMS, HEADS), 1.5, np.float32)}, "heads and item_novelty must be finite, in 0..1"),
        (
            {"heads": np.zeros((3, ITEMS, HEADS), np.float32)},
            "the world has 30 users and 24 items; found context of 30",
        ),
    ],
)
def test_settings_and_tables_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        make(**settings)
