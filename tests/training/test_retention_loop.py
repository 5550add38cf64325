"""Loops over chains of sessions: records, learning, evaluation with common random numbers, logged sessions."""

import numpy as np
import pytest
import tensorflow as tf

from recpolicy.agents.rlur import RLUR, Actors, RLURConfig
from recpolicy.environments.session_retention import RetentionConfig, RetentionEnvironment
from recpolicy.testing.synthetic_sessions import ITEMS, USERS, planted_sessions
from recpolicy.training.retention_loop import (
    ChainEvaluation,
    RetentionTrainConfig,
    RetentionTraining,
    mean_results,
)
from recpolicy.training.retention_rivals import CrossEntropyTraining, UniformLog, fit_bandit

TINY = RetentionTrainConfig(chains=64, requests=12, blocks=12, ring=4, updates=40, batch_size=64)


@pytest.fixture(scope="module")
def environment() -> RetentionEnvironment:
    """A world with two heads: what is liked, and what is novel."""
    planted = planted_sessions()
    world, novelty = planted.world, np.linspace(0, 1, ITEMS, dtype=np.float32)
    like = 1 / (1 + np.exp(-world.like))
    like = (like - like.min()) / np.ptp(like)
    heads = np.stack([like, np.broadcast_to(novelty, like.shape)], axis=2).astype(np.float32)
    activity = np.linspace(-1, 1, USERS, dtype=np.float32)[:, np.newaxis]
    settings = RetentionConfig(slate_size=3, requests=3, novelty_weight=12.0, like_weight=0.0)
    personal = np.full(USERS, -0.5)
    return RetentionEnvironment(world, activity, heads, novelty, personal, planted.candidates, settings)


@pytest.fixture(scope="module")
def played(environment):
    """An actor and its evaluation."""
    actor = Actors(environment.observation_width, 2, (8,), 0)
    return actor, ChainEvaluation(environment, actor, sessions=4, chains=3, horizon=6.0)


def constant(played, weights, seed=0):
    actor, evaluation = played
    actor.assign_constant(np.array(weights))
    return evaluation.run(seed)


def test_the_retention_agent_brings_users_back_sooner_than_the_immediate_one(environment):
    agent = RLUR(environment.observation_width, 2, RLURConfig(layers=(16,)))
    training = RetentionTraining(environment, agent, TINY)
    training.cost.assign(np.full(environment.users, 0.3), 1e9, 1.0)
    evaluation = ChainEvaluation(environment, agent.actor, sessions=4, chains=5)
    results = {}
    for name, settings in {
        "immediate": {"lambda_return": 0.0},
        "return": {"lambda_immediate": 0.0, "rnd_coef": 0.0},
    }.items():
        agent.restart(RLURConfig(layers=(16,), regularizer=0.0, actor_learning_rate=0.0003, **settings), 0, (10.0, 4.0))
        figures = training.run(0)
        assert np.isfinite(figures).all()
        results[name] = evaluation.run(0)
    assert results["return"].days.mean() < results["immediate"].days.mean() - 0.1


def test_results_depend_on_the_seed_and_the_policy_only(played):
    first, again, other = (constant(played, [1, 0], seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.days, again.days)
    assert (first.days != other.days).any()
    assert (first.sessions <= 4).all()
    assert (first.sessions >= 1).all()
    both = mean_results([first, other])
    np.testing.assert_allclose(both.days, (first.days + other.days) / 2)


def test_without_influence_all_policies_have_the_same_days(environment, played):
    effects = environment.effects.numpy()
    environment.effects.assign([0.0, 0.0, 12.0])
    liked, novel = constant(played, [1, 0]), constant(played, [0, 1])
    environment.effects.assign(effects)
    np.testing.assert_array_equal(liked.days, novel.days)
    assert liked.likes.mean() > novel.likes.mean()
    assert constant(played, [0, 1]).days.mean() < constant(played, [1, 0]).days.mean()


def test_logged_sessions_have_their_weights_days_and_likes(environment):
    (table,) = UniformLog(environment, TINY).run(0, 1)
    assert ((table.days >= 1) & (table.days <= 10)).all()
    assert len(table.weights) > 64 * 3
    assert np.abs(table.weights.mean(axis=0)).max() < 0.15  # uniform in -1..1
    assert table.weights.std() == pytest.approx(1 / np.sqrt(3), abs=0.05)
    assert (table.likes <= 3).all()
    assert len(np.unique(np.round(table.weights, 5), axis=0)) > 0.95 * len(table.weights)
    bandit = fit_bandit([table], 0)
    assert bandit.weights(table.features)[:, 1].mean() > 0.3  # novelty brings users back


def test_cross_entropy_moves_toward_what_brings_users_back(environment, played):
    actor, _ = played
    CrossEntropyTraining(environment, TINY).run(actor, 0)
    weights = actor(tf.zeros([1, environment.observation_width])).numpy()[0]
    assert weights[1] > weights[0]
