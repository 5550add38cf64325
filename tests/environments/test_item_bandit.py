import numpy as np
import pytest
import tensorflow as tf
from synthetic_world import ITEMS, USERS, planted
from tf_agents.bandits.agents.lin_ucb_agent import LinearUCBAgent

from recpolicy.core.errors import ConfigError
from recpolicy.environments.item_bandit import ItemBandit, ItemBanditConfig
from recpolicy.testing import EnvironmentContract

ACTION_ITEMS = np.array([2, 0, 5, 7, 11, 3], np.int32)


def at(number: int) -> tf.Tensor:
    return tf.constant(number, tf.int64)


class TestItemBandit(EnvironmentContract):
    def make(self, seed, batch_size=8):
        config = ItemBanditConfig(batch_size=batch_size)
        return ItemBandit(planted().world, planted().user, ACTION_ITEMS, config, seed)

    def test_actions_are_the_items_of_the_catalog_in_its_order(self, environment):
        draw = environment.sample_round(at(0))
        expected = planted().world.expected[draw.user.numpy()][:, ACTION_ITEMS]
        np.testing.assert_array_equal(environment.expected_rewards(draw, at(0)), expected)

    def test_the_policy_sees_the_users_own_context(self, environment):
        draw = environment.sample_round(at(1))
        np.testing.assert_array_equal(environment.observation(draw), planted().user[draw.user.numpy()])

    def test_real_ratings_are_paid_exactly_and_others_with_noise(self, crowd):
        draw, rng = crowd.sample_round(at(0)), np.random.default_rng(0)
        action = rng.integers(0, len(ACTION_ITEMS), crowd.batch_size)
        paid = crowd.reward(draw, tf.constant(action, tf.int32), at(0)).numpy()
        real = planted().world.known[draw.user.numpy(), ACTION_ITEMS[action]]
        assert real.sum() > 500
        np.testing.assert_array_equal(paid[real], 4.0)
        assert set(paid[~real]) == {1.0, 2.0, 3.0, 4.0, 5.0}

    def test_users_are_uniform(self, crowd):
        """20,000 draws of 40 users: chi-square with 39 degrees of freedom is below 84.5 with probability 1 - 3e-5."""
        count = np.bincount(crowd.sample_round(at(9)).user, minlength=USERS)
        assert np.square(count - count.mean()).sum() / count.mean() < 84.5

    def test_tf_agents_own_linucb_plays_it(self, environment):
        agent = LinearUCBAgent(environment.time_step_spec(), environment.action_spec())
        action = agent.collect_policy.action(environment.reset()).action
        assert environment.step(action).reward.shape == (environment.batch_size,)

    @pytest.mark.parametrize(
        ("action_items", "found"), [([1], "1 items"), ([1, 1], "no repeats"), ([0, ITEMS], "12"), ([-1, 2], "row -1")]
    )
    def test_a_catalog_that_makes_no_sense_is_refused(self, action_items, found):
        with pytest.raises(ConfigError, match=found):
            ItemBandit(planted().world, planted().user, np.array(action_items, np.int32))

    def test_a_context_of_other_users_is_refused(self):
        with pytest.raises(ConfigError, match="39 users, the world 40"):
            ItemBandit(planted().world, planted().user[:-1], ACTION_ITEMS)


class TestDriftingItemBandit(EnvironmentContract):
    period = 40

    def make(self, seed, batch_size=8):
        config = ItemBanditConfig(batch_size=batch_size, drift_period=self.period)
        return ItemBandit(planted(known=0.0).world, planted().user, ACTION_ITEMS, config, seed)

    def test_preferences_move_to_another_users_and_back(self, environment):
        draw = environment.sample_round(at(0))
        still = planted(known=0.0).world.expected[:, ACTION_ITEMS]
        start, half, after = (environment.expected_rewards(draw, at(t)).numpy() for t in (0, 20, 40))
        np.testing.assert_array_equal(start, still[draw.user.numpy()])
        np.testing.assert_array_equal(after, start)
        # Half a period on, each user has the preferences of one user, mostly another.
        gap = np.abs(half[:, np.newaxis, :] - still).max(axis=-1)  # [B, U]
        np.testing.assert_allclose(gap.min(axis=1), 0, atol=1e-6)
        assert (gap.argmin(axis=1) != draw.user.numpy()).mean() > 0.5
        # A quarter on, half way: w = (1 - cos(pi / 2)) / 2 = 1/2.
        np.testing.assert_allclose(
            environment.expected_rewards(draw, at(10)).numpy(), (start + half) / 2, rtol=0, atol=1e-5
        )

    def test_the_phase_is_exact_after_billions_of_rounds(self, environment):
        """float32 holds no integer beyond 2^24: 2^33 + 8 rounds have the phase of (2^33 + 8) mod 40 = 0."""
        draw, many = environment.sample_round(at(0)), 2**33 + 8
        assert many % self.period == 0
        np.testing.assert_array_equal(
            environment.expected_rewards(draw, at(many)), environment.expected_rewards(draw, at(0))
        )

    def test_who_drifts_to_whom_is_seeded(self):
        draw = self.make(0).sample_round(at(0))
        half = [self.make(seed).expected_rewards(draw, at(20)).numpy() for seed in (0, 0, 1)]
        np.testing.assert_array_equal(half[0], half[1])
        assert not np.array_equal(half[0], half[2])
