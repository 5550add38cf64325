"""The reward network and neural LinUCB."""

import numpy as np
import pytest
import tensorflow as tf
from synthetic_choice import make, misleading_arms, specs

from recpolicy.agents.neural import BoltzmannConfig, EpsilonGreedyConfig, make_boltzmann, make_epsilon_greedy
from recpolicy.agents.neural_linucb import NeuralLinUCBConfig, make_neural_linucb
from recpolicy.agents.observation import Observation
from recpolicy.core.errors import ConfigError

ROWS = 512


def linear_world(seed: int = 0) -> tuple[Observation, tf.Tensor, tf.Tensor]:
    """Contexts [N, 4], arms, and rewards that are linear in the context with weights of each arm's own."""
    rng = np.random.default_rng(seed)
    context = rng.normal(size=(ROWS, 4)).astype(np.float32)
    arm = rng.integers(0, 6, ROWS).astype(np.int32)
    weights = np.random.default_rng(99).normal(size=(6, 4))
    reward = 3 + np.sum(weights[arm] * context, axis=1) + 0.1 * rng.normal(size=ROWS)
    return Observation(tf.constant(context), None, None), tf.constant(arm), tf.constant(reward, tf.float32)


def few_rows() -> tuple[Observation, tf.Tensor, tf.Tensor]:
    seen, arm, reward = linear_world()
    return seen._replace(context=seen.context[:16]), arm[:16], reward[:16]


def losses(agent, steps: int) -> list[float]:
    step = tf.function(agent.learner.update)
    rows = linear_world()
    return [float(step(*rows)) for _ in range(steps)]


def test_the_dot_head_starts_exactly_at_the_rating_model():
    agent = make("eps_greedy").learner
    context = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)
    arms = misleading_arms()
    expected = arms.offset + context @ arms.embedding.T
    np.testing.assert_allclose(agent.estimate(Observation(tf.constant(context), None, None)).mean, expected, atol=1e-6)


@pytest.mark.parametrize("head", ["plain", "dot"])
def test_the_loss_falls_on_a_planted_linear_world(head):
    """The plain head can learn it (noise .01); the dot head has one vector for all arms and only gets nearer."""
    config = EpsilonGreedyConfig(layers=(32,), head=head, learning_rate=0.01)
    fallen = losses(make_epsilon_greedy(*specs(), config, misleading_arms()), 300)
    assert fallen[-1] < {"plain": 0.1, "dot": 0.9}[head] * fallen[0]


def test_only_the_played_arms_of_the_plain_head_learn():
    config = EpsilonGreedyConfig(layers=(), head="plain", learning_rate=0.1)
    agent = make_epsilon_greedy(*specs(), config).learner
    before = agent.export().arrays["kernel_0"].copy()
    seen, _, reward = linear_world()
    agent.update(seen, tf.fill([ROWS], 2), reward)
    changed = np.any(agent.export().arrays["kernel_0"] != before, axis=0)
    np.testing.assert_array_equal(changed, [False, False, True, False, False, False])


def test_without_arms_the_head_is_plain_with_one_output_per_arm():
    exported = make_epsilon_greedy(*specs(), EpsilonGreedyConfig(layers=(5,))).learner.export()
    assert exported.arrays["kernel_1"].shape == (5, 6)
    assert "embedding" not in exported.arrays


def test_weights_are_seeded():
    kernels = [
        make_boltzmann(*specs(), BoltzmannConfig(), None, seed).learner.export().arrays["kernel_0"]
        for seed in (1, 1, 2)
    ]
    np.testing.assert_array_equal(kernels[0], kernels[1])
    assert not np.array_equal(kernels[0], kernels[2])


def test_heads_read_the_networks_rewards():
    seen = linear_world()[0]
    greedy = make_epsilon_greedy(*specs(), EpsilonGreedyConfig(epsilon=0.3), misleading_arms()).learner
    mean = greedy.estimate(seen).mean.numpy()
    expected = np.full(mean.shape, 0.3 / 6)
    best = mean == mean.max(axis=1, keepdims=True)
    expected += 0.7 * best / best.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(greedy.behavior_probabilities(seen), expected, atol=1e-6)
    soft = make_boltzmann(*specs(), BoltzmannConfig(temperature=0.5), misleading_arms()).learner
    weight = np.exp(mean / 0.5)
    np.testing.assert_allclose(soft.behavior_probabilities(seen), weight / weight.sum(axis=1, keepdims=True), rtol=1e-4)


def test_neural_linucb_trains_its_network_first_and_then_only_its_posteriors():
    config = NeuralLinUCBConfig(layers=(8,), encoding_dim=4, encoder_batches=3, epsilon=0.5, alpha=2.0)
    agent = make_neural_linucb(*specs(), config, misleading_arms()).learner
    rows, states = few_rows(), [agent.export()]
    for _ in range(5):
        agent.update(*rows)
        states.append(agent.export())

    def moved(one: int, name: str) -> bool:
        return not np.array_equal(states[one].arrays[name], states[one + 1].arrays[name])

    for step in range(3):
        assert moved(step, "theta")
        assert (
            moved(step, "kernel_0") or step == 0
        )  # the reward layer starts at 0, so nothing reaches below it at first
        assert not moved(step, "covariance")
    for step in (3, 4):
        assert not moved(step, "kernel_0")
        assert moved(step, "covariance")
    assert [one.head for one in states] == ["epsilon_greedy"] * 3 + ["upper_confidence"] * 3
    # Every arm's prior mean is its row of the reward layer.
    np.testing.assert_array_equal(states[3].arrays["theta"], agent._reward_layer)


def test_neural_linucb_changes_its_head_with_the_phase():
    config = NeuralLinUCBConfig(layers=(), encoding_dim=3, encoder_batches=1, epsilon=1.0, alpha=0.0)
    agent = make_neural_linucb(*specs(), config, misleading_arms()).learner
    rows = linear_world()
    np.testing.assert_allclose(agent.behavior_probabilities(rows[0]), 1 / 6, rtol=1e-6)
    agent.update(*rows)
    np.testing.assert_array_equal(agent.behavior_probabilities(rows[0]), agent.greedy_probabilities(rows[0]))


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (EpsilonGreedyConfig, {"epsilon": 1.5}),
        (BoltzmannConfig, {"temperature": 0.0}),
        (NeuralLinUCBConfig, {"precision": 0.0}),
        (NeuralLinUCBConfig, {"epsilon": -0.1}),
    ],
)
def test_settings_out_of_range_are_refused(config, settings):
    with pytest.raises(ConfigError, match=next(iter(settings))):
        config(**settings)
