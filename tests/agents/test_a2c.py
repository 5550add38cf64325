"""A2C: its loss, what it does to the policy, and where values come in."""

import numpy as np
import pytest
import tensorflow as tf
from session_blocks import block, gradients, make, rounds, set_policy, small_specs

from recpolicy.agents.a2c import A2CConfig, make_a2c
from recpolicy.agents.actor_critic import flatten
from recpolicy.core.errors import ConfigError

SEED = tf.constant([1, 1], tf.int32)


def test_the_loss_is_what_the_paper_says():
    agent, played = make("a2c", vf_coef=0.7, ent_coef=0.2), block(5)
    learner = agent.learner
    learner._value.trainable_variables[-1].assign([0.7])  # or advantages and targets would be the same
    found, _ = learner.advantages(played, gae_lambda=1.0)
    told = learner.evaluate(flatten(played.observation), flatten(played.mask), flatten(played.action))
    figures = {name: float(value) for name, value in learner.update(played, SEED).items()}
    policy_loss = -np.mean(flatten(found.advantage) * told.log_probability)
    value_loss = np.mean(np.square(flatten(found.target) - told.value))
    assert figures["policy_loss"] == pytest.approx(policy_loss, rel=1e-4)
    assert figures["value_loss"] == pytest.approx(value_loss, rel=1e-4)
    assert figures["entropy"] == pytest.approx(np.mean(told.entropy), rel=1e-4)
    assert figures["loss"] == pytest.approx(policy_loss + 0.7 * value_loss - 0.2 * np.mean(told.entropy), rel=1e-4)


def bandit(**settings):
    config = A2CConfig(layers=(), head="plain", **({"ent_coef": 0.0} | settings))
    return make_a2c(*small_specs(1, 3), config)


def test_the_gradient_is_minus_advantage_times_that_of_the_log_probability():
    """Two steps of two actions, rewards 1 and 0, values 0: minus the mean of 1[a] - p for the first alone."""
    agent = bandit()
    bias = set_policy(agent, np.log([0.2, 0.3, 0.5]))
    found = gradients(agent, rounds([0, 1], [1.0, 0.0], [0.0, 0.0], 3))
    np.testing.assert_allclose(found[id(bias)], [-0.4, 0.15, 0.25], rtol=1e-5)


def test_the_entropy_bonus_pulls_towards_uniform():
    """dH / d logits = -p (log p + H), with nothing else to learn."""
    agent = bandit(ent_coef=2.0)
    probability = np.array([0.2, 0.3, 0.5])
    bias = set_policy(agent, np.log(probability))
    entropy = -np.sum(probability * np.log(probability))
    found = gradients(agent, rounds([0], [0.0], [0.0], 3))[id(bias)]
    np.testing.assert_allclose(found, 2.0 * probability * (np.log(probability) + entropy), atol=1e-6)


def test_the_critic_moves_towards_the_targets_only():
    """Value loss (1 - V)^2 at V = 0, weight .5: gradient -1 for V; and none of it reaches the policy."""
    agent = bandit(vf_coef=0.5)
    critic = agent.learner.trainable_variables
    (value_bias,) = [weight for weight in critic if weight.shape == (1,)]
    found = gradients(agent, rounds([0], [1.0], [0.0], 3))
    np.testing.assert_allclose(found[id(value_bias)], [-1.0], rtol=1e-6)


def test_an_action_that_pays_becomes_more_likely():
    agent, played = make("a2c", tables=False), block(5, ends=1.0)
    learner, seen = agent.learner, flatten(played.observation)
    played = played._replace(reward=tf.cast(played.action == 3, tf.float32))
    before = tf.nn.softmax(learner.scores(seen, None))[:, 3].numpy().mean()
    for _ in range(20):
        learner.update(played, SEED)
    assert tf.nn.softmax(learner.scores(seen, None))[:, 3].numpy().mean() > 2 * before


def test_blocks_have_as_many_steps_as_asked_for():
    assert make("a2c", n_steps=7).learner.n_steps == 7
    assert not make("a2c").learner.whole_sessions


def test_lambda_is_1_unless_asked_for():
    """Lambda 1 makes n-step returns of the advantages, as the paper has it."""
    played = block(5)
    plain, short = (gradients(make("a2c", gae_lambda=gae_lambda), played) for gae_lambda in (1.0, 0.2))
    default = gradients(make("a2c"), played)
    for one, same, other in zip(default.values(), plain.values(), short.values(), strict=True):
        np.testing.assert_array_equal(one, same)
        assert not np.array_equal(one, other) or not one.any()


@pytest.mark.parametrize(
    "wrong", [{"n_steps": 0}, {"gae_lambda": 1.5}, {"gamma": 1.1}, {"vf_coef": -1.0}, {"ent_coef": -1.0}]
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        A2CConfig(**wrong)
