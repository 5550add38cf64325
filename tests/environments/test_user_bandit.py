"""UserBandit: the contexts are posteriors, and each reward moves that of its user, as the fold-in would."""

import numpy as np
import pytest
import tensorflow as tf
from posterior_folds import fold_ratings

from recpolicy.environments.item_bandit import ItemBandit, ItemBanditConfig
from recpolicy.environments.user_bandit import UserBandit
from recpolicy.models.embeddings import Embeddings
from recpolicy.models.user_posterior import (
    RatedItems,
    UserPosterior,
    pack,
    packed_size,
    trained_posterior,
)
from recpolicy.models.world import World
from recpolicy.testing import EnvironmentContract

USERS, ITEMS, RANK = 5, 12, 3
ACTION_ITEMS = np.array([0, 2, 3, 5, 7, 11], np.int32)


def known() -> Embeddings:
    rng = np.random.default_rng(0)
    return Embeddings(
        rng.normal(0, 0.7, (USERS, RANK)).astype(np.float32), rng.normal(0, 0.6, (ITEMS, RANK)).astype(np.float32),
        rng.uniform(2.5, 3.5, ITEMS).astype(np.float32), (1.0, 5.0), 0.8, 1.0, np.full(ITEMS, 0.3, np.float32),
    )  # fmt: skip


def trained() -> UserPosterior:
    return trained_posterior(known(), np.array([0, 0, 3]), np.array([1, 2, 3]))


def make(seed: int = 0, batch_size: int = 8) -> UserBandit:
    expected = np.random.default_rng(1).uniform(1, 5, (USERS, ITEMS)).astype(np.float32)
    world = World(expected, np.zeros(expected.shape, bool), (1.0, 5.0), "planted")
    context, config = pack(trained()).astype(np.float32), ItemBanditConfig(batch_size=batch_size)
    return UserBandit(world, context, RatedItems.from_embeddings(known()), ACTION_ITEMS, config, seed)


class TestUserBandit(EnvironmentContract):
    def make(self, seed: int, batch_size: int = 8) -> UserBandit:
        return make(seed, batch_size)


def test_contexts_begin_at_the_trained_posteriors():
    environment = make()
    draw = environment.sample_round(tf.constant(0, tf.int64))
    shown = environment.observation(draw).numpy()
    assert shown.shape == (8, packed_size(RANK))
    np.testing.assert_array_equal(shown, pack(trained()).astype(np.float32)[draw.user.numpy()])


def test_rewards_move_the_posteriors_as_a_fold_of_the_ratings_does():
    """40 rounds of 8 of 5 users: every batch has users who come twice."""
    environment, rng = make(), np.random.default_rng(2)
    items, posteriors = RatedItems.from_embeddings(known()), trained()
    ratings: list[list[tuple[int, float]]] = [[] for _ in range(USERS)]
    for number in range(40):
        now = tf.constant(number, tf.int64)
        draw, action = environment.sample_round(now), rng.integers(len(ACTION_ITEMS), size=8)
        reward = environment.reward(draw, tf.constant(action, tf.int32), now)
        environment.record(draw, tf.constant(action, tf.int32), reward)
        for user, arm, rating in zip(draw.user.numpy(), action, reward.numpy(), strict=True):
            ratings[user].append((ACTION_ITEMS[arm], rating))
    for user, rated in enumerate(ratings):
        begun = UserPosterior(posteriors.mean[user], posteriors.covariance[user])
        folded = fold_ratings(begun, items, np.array([row for row, _ in rated]), np.array([r for _, r in rated]))
        np.testing.assert_allclose(environment.posteriors.mean[user], folded.mean, atol=2e-4)
        np.testing.assert_allclose(environment.posteriors.covariance[user], folded.covariance, atol=2e-4)


def test_draws_rewards_and_regret_are_those_of_the_item_bandit():
    environment = make()
    plain = ItemBandit(
        World(np.random.default_rng(1).uniform(1, 5, (USERS, ITEMS)).astype(np.float32),
              np.zeros((USERS, ITEMS), bool), (1.0, 5.0), "planted"),
        pack(trained()).astype(np.float32), ACTION_ITEMS, ItemBanditConfig(batch_size=8), 0,
    )  # fmt: skip
    for number in (0, 3):
        now, action = tf.constant(number, tf.int64), tf.zeros(8, tf.int32)
        draw = environment.sample_round(now)
        np.testing.assert_array_equal(draw.user, plain.sample_round(now).user)
        np.testing.assert_array_equal(environment.reward(draw, action, now), plain.reward(draw, action, now))
        np.testing.assert_array_equal(environment.regret(draw, action, now), plain.regret(draw, action, now))


def test_tf_agents_steps_record_the_rewards_too():
    environment = make()
    environment.reset()
    before = environment.posteriors.mean.numpy()
    environment.step(tf.zeros(8, tf.int32))
    assert np.abs(environment.posteriors.mean.numpy() - before).max() > 0.01


def test_other_environments_have_no_state_of_users():
    assert set(make().user_state) == {"user_mean", "user_covariance"}
    plain = ItemBandit(
        World(np.full((USERS, ITEMS), 3, np.float32), np.zeros((USERS, ITEMS), bool), (1.0, 5.0), "flat"),
        known().user, ACTION_ITEMS,
    )  # fmt: skip
    assert plain.user_state == {}


def test_posteriors_of_another_rank_are_refused():
    world = World(np.full((USERS, ITEMS), 3, np.float32), np.zeros((USERS, ITEMS), bool), (1.0, 5.0), "flat")
    with pytest.raises(ValueError, match="3 directions need 9"):
        UserBandit(world, known().user, RatedItems.from_embeddings(known()), ACTION_ITEMS)
