"""REINFORCE: which steps count, returns, the baseline."""

import numpy as np
import pytest
import tensorflow as tf
from session_blocks import block, gradients, make, rounds, set_policy, small_specs

from recpolicy.agents.reinforce import ReinforceConfig, first_sessions, make_reinforce
from recpolicy.core.errors import ConfigError

STEPS = 8
PROBABILITY = np.array([0.5, 0.3, 0.2])
COUNTS = [5, 3, 2]


def test_a_column_counts_up_to_the_end_of_its_first_session():
    ended = np.zeros((4, 3), bool)
    ended[1, 0] = ended[2, 0] = ended[0, 1] = True  # the third column never ends
    terminated, truncated = ended & [True, False, True], ended & [False, True, False]
    counted = first_sessions(block(4, batch=3, terminated=terminated, truncated=truncated)).numpy()
    assert counted.T.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]


def test_what_comes_after_the_first_session_changes_nothing():
    first, second = block(STEPS, 0), block(STEPS, 1)
    counts = first_sessions(first).numpy().astype(bool)
    assert counts.any()
    assert not counts.all()

    def mixed(name: str) -> tf.Tensor:
        one, other = getattr(first, name), getattr(second, name)
        return tf.where(counts.reshape(counts.shape + (1,) * (len(one.shape) - 2)), one, other)

    changed = first._replace(**{name: mixed(name) for name in first._fields})
    for one, other in zip(
        gradients(make("reinforce"), first).values(), gradients(make("reinforce"), changed).values(), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-6)


def bandit(**settings):
    """An agent of three actions with the probabilities of the test."""
    config = ReinforceConfig(layers=(), head="plain", **({"ent_coef": 0.0, "normalize_advantage": False} | settings))
    agent = make_reinforce(*small_specs(1, 3), config)
    return agent, set_policy(agent, np.log(PROBABILITY))


def everything(reward: np.ndarray):
    """Every action as often as its probability says: means over the block are expectations."""
    action = np.repeat(np.arange(3), COUNTS)
    return rounds(action, reward[action], np.log(PROBABILITY)[action], 3)


@pytest.mark.parametrize("baseline", [True, False])
@pytest.mark.parametrize("level", [0.0, 2.5])
def test_the_expected_gradient_is_that_of_the_expected_reward_whatever_the_baseline(baseline, level):
    """d E[r] / d logits = p (r - E[r]), enumerated; the critic says `level` everywhere."""
    agent, bias = bandit(baseline=baseline)
    critic = next(weight for weight in agent.learner.trainable_variables if weight.shape == (1,))
    critic.assign([level])
    reward = np.array([1.0, 4.0, -2.0])
    found = gradients(agent, everything(reward))[id(bias)]
    np.testing.assert_allclose(found, -PROBABILITY * (reward - PROBABILITY @ reward), atol=1e-6)


def test_a_baseline_that_knows_the_reward_leaves_nothing_of_a_single_draw():
    """Without it the same draw moves the policy: the variance that a baseline spares."""
    for baseline, expected in ((True, np.zeros(3)), (False, -2.0 * (np.array([0, 1, 0]) - PROBABILITY))):
        agent, bias = bandit(baseline=baseline)
        next(weight for weight in agent.learner.trainable_variables if weight.shape == (1,)).assign([2.0])
        found = gradients(agent, rounds([1], [2.0], [0.0], 3))[id(bias)]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_a_constant_reward_is_no_advantage_once_normalize_advantaged():
    agent, bias = bandit(normalize_advantage=True)
    np.testing.assert_allclose(gradients(agent, everything(np.full(3, 0.7)))[id(bias)], 0, atol=1e-7)


def test_returns_are_discounted_sums_to_the_end_of_the_session():
    agent = make("reinforce", baseline=False, normalize_advantage=False, gamma=0.5)
    terminated = np.zeros((3, 1), bool)
    terminated[2] = True
    nobody = np.zeros((3, 1), bool)
    played = block(3, batch=1, reward=[[1.0], [2.0], [4.0]], terminated=terminated, truncated=nobody)
    found, _ = agent.learner.advantages(played, gae_lambda=1.0)
    np.testing.assert_allclose(found.target[:, 0], [3, 4, 4], rtol=1e-6)  # 1 + .5 (2 + .5 4)


def test_short_sessions_do_not_weigh_more():
    """One column ends at once and one goes on: every step that counts weighs the same, however many there are."""
    config = ReinforceConfig(
        layers=(), head="plain", ent_coef=0.0, normalize_advantage=False, baseline=False, gamma=0.0
    )
    agent = make_reinforce(*small_specs(1, 3), config)
    bias = set_policy(agent, np.log(PROBABILITY))
    one = rounds([0, 1], [1.0, 1.0], [0.0, 0.0], 3)
    two = tf.nest.map_structure(lambda part: tf.concat([part, part], axis=0), one)  # [2, 2, ...]
    two = two._replace(terminated=tf.constant([[True, False], [True, True]]))
    expected = -np.mean([np.eye(3)[a] - PROBABILITY for a in (0, 1, 1)], axis=0)
    np.testing.assert_allclose(gradients(agent, two)[id(bias)], expected, atol=1e-6)


def test_it_asks_for_blocks_of_whole_sessions():
    assert make("reinforce").learner.whole_sessions


def test_wrong_settings_are_named():
    with pytest.raises(ConfigError, match="gamma"):
        ReinforceConfig(gamma=-0.1)
