"""Normalized rewards: the running unit, the same learning from rewards of any scale, values in the original unit."""

import numpy as np
import pytest
import tensorflow as tf
from session_blocks import BATCH, block, environment, make, observations

from recpolicy.agents import SESSION_AGENTS
from recpolicy.agents.experience import flatten
from recpolicy.agents.reward_normalizer import RewardNormalizer
from recpolicy.agents.sequence import SessionAgent
from recpolicy.data.reward_scale import reward_moments, reward_std
from recpolicy.training.session_loop import SessionLoop

SEED = tf.constant([1, 1], tf.int32)
NAMES = list(SESSION_AGENTS)


def rewards(scale: float, number: int) -> np.ndarray:
    """Rewards [5, B] around 2 and seldom 0, times a scale."""
    rng = np.random.default_rng(number)
    return scale * rng.normal(2.0, 1.0, (5, BATCH)) * (rng.random((5, BATCH)) < 0.9)


def learned(name: str, scale: float, *, normalize: bool = True, tables: bool = False, **settings) -> SessionAgent:
    """Return an agent after six blocks of rewards of a scale."""
    agent = make(name, tables=tables, normalize_reward=normalize, **settings)
    agent.learner.prepare(5 * BATCH)
    for number in range(6):
        agent.learner.update(block(5, number, reward=rewards(scale, number)), SEED)
    return agent


def test_the_unit_is_the_standard_deviation_of_all_rewards_so_far():
    normalizer, seen = RewardNormalizer(True), []
    assert float(normalizer.std) == 1.0
    for number in range(4):
        seen.append(rewards(3.0, number))
        normalizer.take_in(tf.constant(seen[-1], tf.float32))
        assert float(normalizer.std) == pytest.approx(reward_std(np.stack(seen)), rel=1e-5)
    np.testing.assert_allclose(
        [part.numpy() for part in normalizer._moments], reward_moments(np.stack(seen)), rtol=1e-5
    )
    values = tf.constant([2.0, -7.0])
    np.testing.assert_allclose(normalizer.original(normalizer.normalized(values)), values, rtol=1e-6)


def test_padding_is_no_reward():
    normalizer = RewardNormalizer(True)
    normalizer.take_in(tf.constant([[1.0, 3.0], [100.0, 3.0]]), tf.constant([[1.0, 1.0], [0.0, 1.0]]))
    assert float(normalizer.std) == pytest.approx(np.std([1.0, 3.0, 3.0]))


@pytest.mark.parametrize("value", [0.0, 0.1, 1e6])
def test_constant_rewards_keep_the_unit_1(value):
    normalizer = RewardNormalizer(True)
    for _ in range(3):
        normalizer.take_in(tf.fill([7, 3], value))
    assert float(normalizer.std) == 1.0


@pytest.mark.parametrize(
    ("name", "tables"), [*((name, False) for name in NAMES), ("a2c", True), ("dqn", True), ("q_learning", True)]
)
def test_rewards_100_times_as_large_train_the_same_policy(name, tables):
    """And values 100 times as large. Without normalization the values are others, but for a table that starts at 0."""
    seen = tf.constant(observations(BATCH))
    small, large, plain = (
        learned(name, scale, normalize=normalize, tables=tables)
        for scale, normalize in ((1.0, True), (100.0, True), (100.0, False))
    )
    probability = [tf.nn.softmax(agent.learner.logits(seen, None)).numpy() for agent in (small, large)]
    np.testing.assert_allclose(*probability, atol=1e-3)
    value = [agent.learner.value(seen, None).numpy() for agent in (small, large, plain)]
    tolerance = 0.005 * np.abs(value[1]).max()
    np.testing.assert_allclose(100 * value[0], value[1], atol=tolerance)
    if (name, tables) != ("q_learning", False):
        assert np.abs(value[1] - value[2]).max() > 10 * tolerance
    assert large.learner.reward_std == pytest.approx(100 * small.learner.reward_std, rel=1e-5)
    assert plain.learner.reward_std == 1.0


@pytest.mark.parametrize("name", NAMES)
def test_figures_are_in_the_original_unit(name):
    """Values times 100 and squared errors times 10,000; the minimized loss of a network stays as it is."""
    figures = []
    for scale in (1.0, 100.0):
        agent = learned(name, scale)
        reported = agent.learner.update(block(5, 9, reward=rewards(scale, 9)), SEED)
        figures.append({key: float(value) for key, value in reported.items()})
    factors = dict.fromkeys(("value_mean", "target_mean", "max_q_value", "critic_deviation"), 100) | {"value_loss": 1e4}
    factors |= {"loss": 1e4 if name == "q_learning" else 1}
    for key, value in figures[0].items():
        assert figures[1][key] == pytest.approx(factors.get(key, 1) * value, rel=2e-3, abs=2e-3), key


def test_values_approach_returns_in_the_original_unit():
    """Sessions of one step that earn 30 or 50: the critic's value becomes 40, not 40 / 10."""
    agent = make("a2c", tables=False, normalize_reward=True, learning_rate=0.1, layers=())
    seen = tf.constant(observations(BATCH))
    for number in range(80):
        reward = 40.0 + 10.0 * np.sign(np.random.default_rng(number).random((5, BATCH)) - 0.5)
        experience = block(5, number, reward=reward, ends=1.0)
        agent.learner.update(experience._replace(observation=0 * experience.observation), SEED)
    assert agent.learner.value(0 * seen, None).numpy() == pytest.approx(40, rel=0.1)


@pytest.mark.parametrize("name", ["a2c", "q_learning"])
def test_the_compiled_loop_normalizes_and_a_checkpoint_holds_the_unit(name, tmp_path):
    agent, twin = (make(name, normalize_reward=True) for _ in range(2))
    SessionLoop(environment(), agent).run(4)
    assert 0 < agent.learner.reward_std < 1  # likes, 0 or 1
    path = tf.train.Checkpoint(learner=agent.learner).write(str(tmp_path / "state"))
    twin.learner.prepare(agent.learner.n_steps * BATCH)
    tf.train.Checkpoint(learner=twin.learner).read(path).assert_consumed()
    assert twin.learner.reward_std == agent.learner.reward_std
    seen = tf.constant(observations(BATCH))
    np.testing.assert_array_equal(twin.learner.value(seen, None), agent.learner.value(seen, None))


@pytest.mark.parametrize("name", NAMES)
def test_without_the_setting_there_is_nothing_to_save(name):
    """Checkpoints of earlier trainings fit."""
    assert not make(name).learner._rewards.variables


def test_dqn_normalizes_batches_of_logged_steps():
    from recpolicy.agents.replay import Batch

    agents = [make("dqn", tables=False, normalize_reward=True) for _ in range(2)]
    for agent, scale in zip(agents, (1.0, 100.0), strict=True):
        for number in range(6):
            steps = block(5, number, reward=rewards(scale, number))
            batch = Batch(*(flatten(getattr(steps, field)) for field in Batch._fields))
            agent.learner.update_batch(batch)
    seen = tf.constant(observations(BATCH))
    value = [agent.learner.scores(seen, None).numpy() for agent in agents]
    np.testing.assert_allclose(100 * value[0], value[1], rtol=2e-3, atol=2e-3 * np.abs(value[1]).max())


@pytest.mark.parametrize("name", ["q_learning", "offpolicy_actor_critic", "dqn"])
def test_the_largest_q_value_is_reported_of_all_items_in_the_original_unit(name):
    agent = learned(name, 100.0)
    learner, steps = agent.learner, block(5, 9, reward=rewards(100.0, 9))
    seen = tf.reshape(steps.observation, [-1, steps.observation.shape[-1]])
    learner._rewards.take_in(steps.reward)  # the update counts them first, and again here: the same moments
    values = learner.action_values(seen) if name == "offpolicy_actor_critic" else learner.scores(seen, None)
    largest = np.abs(values.numpy()).max()
    assert float(learner.update(steps, SEED)["max_q_value"]) == pytest.approx(
        largest, rel=0.5 if name == "dqn" else 0.05
    )
    assert largest > 20
