"""PPO: the clipped gain, the first epoch, minibatches, the stop, and what TF-Agents leaves off."""

import inspect

import numpy as np
import pytest
import tensorflow as tf
from session_blocks import block, gradients, make, rounds, set_policy, small_specs
from tf_agents.agents.ppo import ppo_clip_agent

from recpolicy.agents.actor_critic import flatten
from recpolicy.agents.ppo import PPOConfig, clipped_gain, make_ppo
from recpolicy.core.errors import ConfigError

SEED = tf.constant([1, 1], tf.int32)
STEPS, BATCH = 6, 8


def on_policy(agent, **given):
    """A block whose log-probabilities are the agent's own."""
    played = block(STEPS, **given)
    seen, mask, action = (flatten(part) for part in (played.observation, played.mask, played.action))
    own = agent.learner.evaluate(seen, mask, action).log_probability
    return played._replace(log_probability=tf.reshape(own, [STEPS, BATCH]))


def learnt(agent, played) -> dict[str, float]:
    return {name: float(value) for name, value in agent.learner.update(played, SEED).items()}


@pytest.mark.parametrize(
    ("ratio", "advantage", "gain", "slope"),
    [
        (1.3, 2.0, 2.4, 0.0),  # gone far enough the good way: no more to earn
        (0.7, -2.0, -1.6, 0.0),  # and away from a bad action
        (0.7, 2.0, 1.4, 2.0),  # the wrong way: full gradient back
        (1.3, -2.0, -2.6, -2.0),
        (1.1, 2.0, 2.2, 2.0),  # within the clip nothing is clipped
        (0.9, -2.0, -1.8, -2.0),
    ],
)
def test_the_gain_and_its_gradient_in_the_four_corners(ratio, advantage, gain, slope):
    variable = tf.Variable(ratio)
    with tf.GradientTape() as tape:
        found = clipped_gain(variable, tf.constant(advantage), 0.2)
    assert float(found) == pytest.approx(gain, rel=1e-6)
    assert float(tape.gradient(found, variable)) == pytest.approx(slope)


@pytest.mark.parametrize(("shift", "reward", "moves"), [(-0.4, 1.0, False), (-0.4, -1.0, True), (0.4, 1.0, True)])
def test_the_corners_hold_for_the_agents_own_gradient(shift, reward, moves):
    """The old log-probability is shifted, so rho = e^-shift; the value is 0, so the advantage is the reward."""
    config = PPOConfig(layers=(), head="plain", ent_coef=0.0, normalize_advantage=False, minibatch_size=1, n_epochs=1)
    agent = make_ppo(*small_specs(1, 3), config)
    bias = set_policy(agent, np.log([0.2, 0.3, 0.5]))
    found = gradients(agent, rounds([1], [reward], [np.log(0.3) + shift], 3))[id(bias)]
    expected = -reward * np.exp(-shift) * (np.array([0, 1, 0]) - [0.2, 0.3, 0.5]) if moves else np.zeros(3)
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_in_the_first_step_the_ratio_is_1_and_the_loss_minus_the_mean_advantage():
    agent = make("ppo", n_epochs=1, minibatch_size=STEPS * BATCH, normalize_advantage=False)
    agent.learner._value.trainable_variables[-1].assign([0.7])
    played = on_policy(agent)
    found, _ = agent.learner.advantages(played, PPOConfig().gae_lambda)
    told = learnt(agent, played)
    assert told["policy_loss"] == pytest.approx(-float(np.mean(found.advantage)), rel=1e-4)
    assert told["approximate_kl"] == pytest.approx(0, abs=1e-6)
    assert told["clip_fraction"] == 0
    assert told["updates"] == 1


def test_standardised_advantages_make_the_first_loss_0():
    agent = make("ppo", n_epochs=1, minibatch_size=STEPS * BATCH)
    assert learnt(agent, on_policy(agent))["policy_loss"] == pytest.approx(0, abs=1e-5)


def test_a_constant_reward_teaches_the_policy_nothing():
    """One-step sessions that all pay 1: every advantage is the mean one."""
    agent = make("ppo", n_epochs=1, minibatch_size=STEPS * BATCH, ent_coef=0.0)
    played = on_policy(agent, ends=1.0, reward=np.ones((STEPS, BATCH)))
    found = gradients(agent, played)
    for weight in agent.learner._scores.network.trainable_variables:
        np.testing.assert_array_equal(found[id(weight)], 0)


def test_the_ratio_is_measured_against_the_logged_probability():
    """Half of the steps were logged with two thirds of the agent's own probability, so their ratio is 1.5."""
    agent = make("ppo", n_epochs=1, minibatch_size=STEPS * BATCH)
    played = on_policy(agent)
    shift = np.where(np.arange(BATCH) < BATCH // 2, np.log(1.5), 0.0).astype(np.float32)
    told = learnt(agent, played._replace(log_probability=played.log_probability - shift))
    assert told["clip_fraction"] == 0.5
    assert told["approximate_kl"] == pytest.approx(0.5 * (0.5 - np.log(1.5)), rel=1e-4)


def minibatches(agent, played, monkeypatch) -> list[list[int]]:
    """The rows of each gradient step of an update; rows are told apart by their first column."""
    marked = tf.reshape(tf.range(STEPS * BATCH, dtype=tf.float32), [STEPS, BATCH, 1])
    played = played._replace(observation=tf.concat([marked / 100, played.observation[..., 1:]], axis=-1))
    rows, evaluate = [], agent.learner.evaluate

    def watched(observation, mask, action):
        rows.append(np.rint(observation[:, 0].numpy() * 100).astype(int).tolist())
        return evaluate(observation, mask, action)

    monkeypatch.setattr(agent.learner, "evaluate", watched)
    agent.learner.update(played, SEED)
    return rows


def test_every_epoch_sees_every_step_once_in_an_order_of_its_own(monkeypatch):
    rows = minibatches(make("ppo", n_epochs=2, minibatch_size=16, target_kl=0.0), block(STEPS), monkeypatch)
    assert [len(one) for one in rows] == [16] * 6
    first, second = (np.concatenate(part).tolist() for part in (rows[:3], rows[3:]))
    assert sorted(first) == sorted(second) == list(range(STEPS * BATCH))
    assert first != second
    assert first != sorted(first)


def test_what_fills_no_minibatch_is_left_out_of_the_epoch(monkeypatch):
    rows = minibatches(make("ppo", n_epochs=1, minibatch_size=20, target_kl=0.0), block(STEPS), monkeypatch)
    assert [len(one) for one in rows] == [20, 20]
    assert len({*rows[0], *rows[1]}) == 40


def test_minibatches_are_no_larger_than_the_block(monkeypatch):
    rows = minibatches(make("ppo", n_epochs=1, minibatch_size=5000, target_kl=0.0), block(STEPS), monkeypatch)
    assert [len(one) for one in rows] == [STEPS * BATCH]


def test_an_update_ends_early_once_the_policy_has_moved_far_enough():
    """The divergence is measured before each step: 0 at the first, too much at the second, and that is the last."""
    hasty = {"learning_rate": 0.05, "n_epochs": 4, "minibatch_size": STEPS * BATCH}
    stopped, unstopped = make("ppo", target_kl=1e-6, **hasty), make("ppo", target_kl=0.0, **hasty)
    told = learnt(stopped, on_policy(stopped))
    assert told["updates"] == 2
    assert learnt(unstopped, on_policy(unstopped))["updates"] == 4


def test_a_generous_limit_stops_nothing():
    agent = make("ppo", target_kl=1e6, n_epochs=3, minibatch_size=STEPS * BATCH)
    assert learnt(agent, on_policy(agent))["updates"] == 3


def test_clipping_and_generalised_advantages_are_on():
    config = PPOConfig()
    assert config.clip_range == 0.2
    assert config.gae_lambda == 0.95
    assert config.target_kl > 0


def test_tf_agents_leaves_both_off():
    """The trap: PPOClipAgent as it comes neither clips nor uses generalised advantages."""
    defaults = inspect.signature(ppo_clip_agent.PPOClipAgent.__init__).parameters
    assert defaults["importance_ratio_clipping"].default == 0.0
    assert defaults["use_gae"].default is False


def test_lambda_enters_the_advantages():
    agent = make("ppo", gae_lambda=0.5, n_epochs=1, minibatch_size=STEPS * BATCH, normalize_advantage=False)
    played = on_policy(agent)
    expected = -float(np.mean(agent.learner.advantages(played, 0.5)[0].advantage))
    assert expected != pytest.approx(-float(np.mean(agent.learner.advantages(played, 0.95)[0].advantage)), rel=0.01)
    assert learnt(agent, played)["policy_loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "wrong",
    [
        {"n_steps": 0},
        {"n_epochs": 0},
        {"minibatch_size": 0},
        {"clip_range": 0.0},
        {"gae_lambda": -0.1},
        {"target_kl": -1.0},
    ],
)
def test_wrong_settings_are_named(wrong):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        PPOConfig(**wrong)
