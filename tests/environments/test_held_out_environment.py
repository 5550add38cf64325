import numpy as np
import pytest
import tensorflow as tf
from tf_agents.bandits.agents.lin_ucb_agent import LinearUCBAgent
from tiny_dataset import miniature_ratings

from recpolicy.core.errors import DataError
from recpolicy.data.ratings import Ratings
from recpolicy.environments.held_out_choice import HeldOutChoice, HeldOutChoiceConfig
from recpolicy.testing import EnvironmentContract

NOW = tf.constant(0, tf.int64)


def held_out() -> Ratings:
    """Every fifth rating of the miniature; user 3 has one of his left, user 4 none."""
    every = miniature_ratings()
    test = every.take(np.arange(0, len(every), 5))
    keep = ~np.isin(test.user, [3, 4])
    keep[np.flatnonzero(test.user == 3)[0]] = True
    return test.take(keep)


def context() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(held_out().shape[0], 3)).astype(np.float32)


class TestHeldOutChoice(EnvironmentContract):
    def make(self, seed, batch_size=8):
        return HeldOutChoice(held_out(), context(), HeldOutChoiceConfig(batch_size=batch_size), seed)

    def test_exactly_the_test_rated_items_are_allowed_and_their_ratings_paid(self, environment):
        draw = environment.sample_round(NOW)
        matrix = held_out().matrix()[draw.user.numpy()]  # [B, I]
        np.testing.assert_array_equal(draw.mask, np.isfinite(matrix))
        for row, user in enumerate(draw.user.numpy()):
            for item in np.flatnonzero(np.isfinite(matrix[row])):
                one = environment.reward(draw, tf.fill([environment.batch_size], int(item)), NOW)[row]
                assert float(one) == held_out().matrix()[user, item]

    def test_users_with_fewer_than_two_test_ratings_never_appear(self, crowd):
        seen = np.unique(crowd.sample_round(NOW).user)
        rated = np.bincount(held_out().user, minlength=held_out().shape[0])
        assert rated[3] == 1
        assert rated[4] == 0
        np.testing.assert_array_equal(seen, np.flatnonzero(rated >= 2))

    def test_nothing_to_choose_between_is_an_error(self):
        one_each = held_out().take(np.unique(held_out().user, return_index=True)[1])
        with pytest.raises(DataError, match="no user has two ratings"):
            HeldOutChoice(one_each, context())

    def test_tf_agents_own_linucb_plays_it_with_the_mask_as_constraint(self, environment):
        agent = LinearUCBAgent(
            environment.time_step_spec(), environment.action_spec(), dtype=tf.float32,
            observation_and_action_constraint_splitter=lambda o: (o["global"], o["mask"]),
        )  # fmt: skip
        step = environment.reset()
        action = agent.collect_policy.action(step).action
        assert tf.gather(step.observation["mask"], action, batch_dims=1).numpy().all()
        assert environment.step(action).reward.numpy().min() >= 1
