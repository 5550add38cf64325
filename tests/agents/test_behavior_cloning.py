"""Behavior cloning: it ends at the logging policy, from actions or from propensities; rewards teach only its value."""

import numpy as np
import pytest
import tensorflow as tf
from session_blocks import block, gradients, make, rounds, small_specs

from recpolicy.agents.behavior_cloning import BehaviorCloningConfig, imitation_loss, make_behavior_cloning
from recpolicy.core.errors import ConfigError

SEED = tf.constant([1, 1], tf.int32)
COUNTS = np.array([5, 3, 2])


def bandit(**settings):
    """Return an agent without hidden layers: a table of logits."""
    config = {"layers": (), "head": "plain", "learning_rate": 0.05, "max_grad_norm": 0.0, "gamma": 0.0} | settings
    agent = make_behavior_cloning(*small_specs(1, 3), BehaviorCloningConfig(**config))
    bias = agent.learner._scores.network.trainable_variables[-1]
    return agent, bias


def shown(reward: np.ndarray, counts: np.ndarray = COUNTS):
    """Every action as often as its count says, logged with the shares 5 : 3 : 2."""
    action = np.repeat(np.arange(3), counts)
    return rounds(action, reward[action].astype(np.float32), np.log(COUNTS / COUNTS.sum())[action], 3)


def learn(agent, played, steps: int) -> dict[str, float]:
    @tf.function(autograph=False)
    def run():
        def step(index, _):
            figures = agent.learner.update(played, SEED)
            return index + 1, tf.stack([figures[name] for name in agent.learner.figures])

        return tf.while_loop(lambda index, _: index < steps, step, (tf.constant(0), tf.zeros([6])))[1]

    return dict(zip(agent.learner.figures, run().numpy(), strict=True))


@pytest.mark.parametrize("reward", [np.zeros(3), np.array([0.0, 0.0, 10.0])], ids=["unpaid", "paid"])
@pytest.mark.parametrize("target", ["actions", "propensities"])
def test_it_ends_at_the_logging_policy_whatever_the_rewards(target, reward):
    agent, bias = bandit(target=target)
    figures = learn(agent, shown(reward), 400)
    np.testing.assert_allclose(tf.nn.softmax(bias), COUNTS / 10, atol=0.005)
    assert figures["log_ratio"] == pytest.approx(0, abs=1e-3)
    assert float(agent.learner.value(tf.zeros([1, 1]), None)[0]) == pytest.approx(reward @ COUNTS / 10, abs=0.05)


def test_propensities_make_a_small_log_enough():
    """Each action was logged once, with its true probability: likelihood learns 1/3, regression the policy."""
    policies = {}
    for target in ("actions", "propensities"):
        agent, bias = bandit(target=target)
        learn(agent, shown(np.zeros(3), np.ones(3, int)), 400)
        policies[target] = tf.nn.softmax(bias).numpy()
    np.testing.assert_allclose(policies["actions"], 1 / 3, atol=0.005)
    np.testing.assert_allclose(policies["propensities"], COUNTS / 10, atol=0.005)


def test_a_perfect_clone_has_no_gradient_in_any_step_from_propensities():
    agent, bias = bandit(target="propensities")
    bias.assign(np.log(COUNTS / 10).astype(np.float32))
    for action in range(3):
        played = shown(np.zeros(3), np.eye(3, dtype=int)[action])
        np.testing.assert_allclose(gradients(agent, played)[id(bias)], 0, atol=1e-6)


def test_the_losses():
    own, behavior = tf.math.log([0.5, 0.2]), tf.math.log([0.25, 0.2])
    np.testing.assert_allclose(imitation_loss(own, behavior, "actions"), -np.log([0.5, 0.2]), rtol=1e-6)
    np.testing.assert_allclose(imitation_loss(own, behavior, "propensities"), [0.5 * np.log(2) ** 2, 0], atol=1e-6)


def test_without_propensities_the_log_ratio_is_the_negative_log_likelihood():
    agent, played = make("behavior_cloning", tables=False), block(5)
    figures = agent.learner.update(played._replace(log_probability=0 * played.log_probability), SEED)
    assert float(figures["log_ratio"]) == pytest.approx(float(figures["policy_loss"]), rel=1e-6)


@pytest.mark.parametrize("wrong", [{"gamma": 2.0}, {"target": "rewards"}, {"batch_size": 0}, {"vf_coef": -1.0}])
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        BehaviorCloningConfig(**wrong)
