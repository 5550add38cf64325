"""The dual-V variant: done rules, discounts between sessions, the mix of advantages and its schedule."""

import numpy as np
import pytest
import tensorflow as tf

from recpolicy.agents.dual_value import DualValue, DualValueConfig, alpha_at, chain_advantages, mixed_advantage


def column(*values) -> tf.Tensor:
    return tf.constant(values)[:, tf.newaxis]


def test_nothing_follows_a_terminated_chain_and_a_value_follows_a_cut_one():
    # Two sessions: requests 0 and 1, request 2; day costs 2 and 4, values 0, and 10 after the block.
    cost, zero, next_value = column(0.0, 2.0, 4.0), column(0.0, 0.0, 0.0), column(0.0, 0.0, 10.0)
    last, over = column(False, True, True), column(False, False, True)
    terminated = chain_advantages(cost, zero, next_value, last, over, 0.95, 1.0, 1.0)
    np.testing.assert_allclose(terminated[:, 0], [5.8, 5.8, 4.0], rtol=1e-6)
    cut = chain_advantages(cost, zero, next_value, last, column(False, False, False), 0.95, 1.0, 1.0)
    np.testing.assert_allclose(cut[:, 0], [5.8 + 0.95**2 * 10, 5.8 + 0.95**2 * 10, 4 + 9.5], rtol=1e-6)


def test_a_terminated_chain_keeps_the_next_chain_out():
    # Without the mask, the costs of the chain that follows in the block would count for this one.
    cost, zero = column(1.0, 100.0), column(0.0, 0.0)
    advantage = chain_advantages(cost, zero, zero, column(True, True), column(True, True), 0.95, 1.0, 1.0)
    np.testing.assert_allclose(advantage[:, 0], [1.0, 100.0])


def test_the_mix_counts_days_as_a_cost_and_its_share_rises():
    likes, days = tf.constant([1.0, -1.0]), tf.constant([1.0, -1.0])
    np.testing.assert_allclose(mixed_advantage(likes, days, 0.3), [0.4, -0.4], rtol=1e-5)
    np.testing.assert_allclose(mixed_advantage(likes, days, 1.0), [-1, 1], rtol=1e-5)
    assert [float(alpha_at(at, 0.3)) for at in (0.0, 0.25, 0.5, 1.0)] == pytest.approx([0, 0.15, 0.3, 0.3])


def test_an_update_raises_the_probability_of_an_action_with_an_advantage():
    agent = DualValue(3, 2, DualValueConfig(layers=(8,), learning_rate=0.01))
    observation = tf.ones([16, 3])
    mean = agent.actor(observation)
    action = tf.clip_by_value(mean + 0.3, -1.0, 1.0)
    before = float(tf.reduce_mean(tf.square(action - mean)))
    for _ in range(5):
        agent.update(observation, action, mean, tf.ones([16]), tf.zeros([2, 16]))
    assert float(tf.reduce_mean(tf.square(action - agent.actor(observation)))) < before
