"""Tabular Q-learning: the update, UCB1, cells, and the fallback to the rating model."""

import numpy as np
import pytest
import tensorflow as tf
from session_blocks import block, expected_ratings, make, observations, small_specs

from recpolicy.agents.experience import Experience
from recpolicy.agents.q_learning import QLearningConfig, make_q_learning, ucb1
from recpolicy.core.errors import ConfigError

SEED = tf.constant([1, 1], tf.int32)
ITEMS = 24
HALVES = {"columns": (0,), "edges": ((0.5,),)}
"""Two cells: the only column of the toys' observation is 0 or 1."""


def toy(actions: int = 2, **settings):
    return make_q_learning(*small_specs(1, actions), QLearningConfig(**(HALVES | settings)))


def steps(state: list, action: list, reward: list, following: list, terminated: list, actions: int = 2) -> Experience:
    """A block [1, B] of toy steps."""
    count = len(state)
    allowed = tf.ones([1, count, actions], tf.bool)
    return Experience(
        observation=tf.constant(state, tf.float32, [1, count, 1]), mask=allowed,
        action=tf.constant(action, tf.int32, [1, count]), log_probability=tf.zeros([1, count]),
        reward=tf.constant(reward, tf.float32, [1, count]), terminated=tf.constant(terminated, tf.bool, [1, count]),
        truncated=tf.zeros([1, count], tf.bool), next_observation=tf.constant(following, tf.float32, [1, count, 1]),
        next_mask=allowed,
    )  # fmt: skip


@pytest.mark.parametrize(("terminated", "expected"), [(False, 0.74), (True, 0.55)])
def test_one_update(terminated, expected):
    """Q = .5, r = 1, max Q(s', .) = 2: .5 + .1 (1 + .95 2 - .5) = .74; at an end .5 + .1 (1 - .5) = .55."""
    agent = toy(learning_rate=0.1, gamma=0.95)
    agent.learner.table.assign([[0.5, 0.0], [1.0, 2.0]])
    agent.learner.update(steps([0], [0], [1.0], [1], [terminated]), SEED)
    np.testing.assert_allclose(agent.learner.table, [[expected, 0], [1, 2]], rtol=1e-6)
    assert agent.learner.visits.numpy().tolist() == [[1, 0], [0, 0]]


def test_items_already_shown_do_not_count_in_the_target():
    agent = toy(learning_rate=0.1, gamma=0.95)
    agent.learner.table.assign([[0.5, 0.0], [1.0, 2.0]])
    played = steps([0], [0], [1.0], [1], [False])._replace(next_mask=tf.constant([[[True, False]]]))
    agent.learner.update(played, SEED)
    assert float(agent.learner.table[0, 0]) == pytest.approx(0.5 + 0.1 * (1 + 0.95 * 1 - 0.5))


def test_a_pair_that_a_block_holds_twice_moves_by_the_mean_error():
    agent = toy(learning_rate=0.1)
    agent.learner.update(steps([0, 0, 0], [0, 0, 1], [1.0, 3.0, 5.0], [1] * 3, [True] * 3), SEED)
    np.testing.assert_allclose(agent.learner.table, [[0.2, 0.5], [0, 0]], rtol=1e-6)
    assert agent.learner.visits.numpy().tolist() == [[2, 1], [0, 0]]


def test_it_finds_the_values_of_a_chain_of_two_states():
    """State 0: stay (0) or go on (1), for .2 and 0; state 1: back (0) for 0 or the end (1) for 1.

    Q*(1, 1) = 1, Q*(0, 1) = .9, Q*(0, 0) = .2 + .81 = 1.01, then staying is best: x = .2 + .9 x = 2.
    """
    agent = toy(learning_rate=0.2, gamma=0.9)
    played = steps([0, 0, 1, 1], [0, 1, 0, 1], [0.2, 0.0, 0.0, 1.0], [0, 1, 0, 0], [False, False, False, True])
    learn = tf.function(agent.learner.update, autograph=False)
    for _ in range(600):
        told = learn(played, SEED)
    np.testing.assert_allclose(agent.learner.table, [[2.0, 1.62], [1.8, 1.0]], atol=1e-3)
    assert float(told["loss"]) < 1e-6
    assert float(told["coverage"]) == 1.0


@pytest.mark.parametrize(("c", "expected"), [(np.sqrt(2), 1.459705), (2.0, 1.857228)])
def test_ucb1_oracle(c, expected):
    """Mean .5, n = 10 of N = 100."""
    found = ucb1(tf.constant([[0.5, 0.5]]), tf.constant([[10.0, 90.0]]), float(c)).numpy()
    assert found[0, 0] == pytest.approx(expected, abs=1e-6)
    assert found[0, 1] == pytest.approx(0.5 + c * np.sqrt(np.log(100) / 90), abs=1e-5)


def test_ucb1_shows_every_item_once_first():
    agent = toy(actions=6, exploration="ucb1", learning_rate=1.0)
    shown = []
    for number in range(6):
        point = tf.constant([(0.37 + 0.61 * number) % 1], tf.float32)
        action, _ = agent.learner.sample_action(tf.zeros([1, 1]), tf.ones([1, 6], tf.bool), point)
        shown.append(int(action[0]))
        agent.learner.update(steps([0], shown[-1:], [5.0 * number], [1], [True], actions=6), SEED)
    assert sorted(shown) == list(range(6))
    assert shown != sorted(shown)


def test_ucb1_then_trades_value_against_visits():
    agent = toy(actions=3, exploration="ucb1", ucb_c=1.0)
    agent.learner.table.assign([[0.5, 0.4, 0.0], [0, 0, 0]])
    agent.learner.visits.assign([[50, 10, 10], [0, 0, 0]])
    found = tf.nn.softmax(agent.learner.logits(tf.zeros([1, 1]), None)).numpy()[0]
    bound = np.array([0.5, 0.4, 0.0]) + np.sqrt(np.log(70) / np.array([50, 10, 10]))
    np.testing.assert_array_equal(found, np.eye(3)[bound.argmax()])
    assert bound.argmax() == 1
    assert float(agent.learner.epsilon()) == 0.0


def test_ties_share_alike():
    unseen = tf.nn.softmax(toy(actions=4, exploration="ucb1").learner.logits(tf.zeros([1, 1]), None)).numpy()[0]
    np.testing.assert_allclose(unseen, 0.25)
    agent = toy(actions=4, exploration_initial_eps=0.0, exploration_final_eps=0.0)
    agent.learner.table.assign([[1, 3, 3, 2], [0, 0, 0, 0]])
    allowed = tf.constant([[True, True, True, True], [True, True, False, True]])
    found = tf.nn.softmax(agent.learner.logits(tf.zeros([2, 1]), allowed)).numpy()
    np.testing.assert_allclose(found, [[0, 0.5, 0.5, 0], [0, 1, 0, 0]], atol=1e-6)


def test_epsilon_is_shared_among_allowed_items_and_decays_with_blocks():
    agent = toy(actions=4, exploration_initial_eps=0.4, exploration_final_eps=0.1, exploration_decay=0.5)
    agent.learner.table.assign([[1, 3, 2, 2], [0, 0, 0, 0]])
    found = tf.nn.softmax(agent.learner.logits(tf.zeros([1, 1]), tf.constant([[True, True, True, False]]))).numpy()[0]
    np.testing.assert_allclose(found, [0.4 / 3, 0.6 + 0.4 / 3, 0.4 / 3, 0], atol=1e-6)
    played = steps([1], [0], [0.0], [0], [True], actions=4)
    assert [float(agent.learner.update(played, SEED)["epsilon"]) for _ in range(3)] == pytest.approx([0.2, 0.1, 0.1])


def test_cells_are_cut_at_the_edges():
    agent = make_q_learning(
        *small_specs(3, 2), QLearningConfig(columns=(0, -1), edges=((0.0,), (0.1, 0.5))), None
    )  # fmt: skip
    seen = tf.constant([[-1.0, 9, 0.0], [-1, 9, 0.2], [-1, 9, 0.6], [1, 9, 0.1], [1, 9, 0.5], [0, 9, 0.51]])
    assert agent.learner.cell(seen).numpy().tolist() == [0, 1, 2, 3, 4, 2]
    assert agent.learner.table.shape == (6, 2)


def test_cells_never_visited_rank_as_the_rating_model():
    agent, seen = make("q_learning"), observations(200)
    played = block(4)
    agent.learner.update(played, SEED)
    touched = set(agent.learner.cell(tf.reshape(played.observation, [32, -1])).numpy().tolist())
    cell = agent.learner.cell(tf.constant(seen)).numpy()
    fresh = np.array([one not in touched for one in cell])
    assert 20 < fresh.sum() < 190
    value = agent.learner.scores(tf.constant(seen), None).numpy()
    np.testing.assert_allclose(value[fresh], expected_ratings(seen)[fresh] / 4.0, rtol=1e-5)
    assert not np.allclose(value[~fresh], expected_ratings(seen)[~fresh] / 4.0, rtol=1e-3)


def test_without_tables_everything_starts_at_0():
    np.testing.assert_array_equal(
        make("q_learning", tables=False).learner.scores(tf.constant(observations(9)), None), 0
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"learning_rate": 0.0},
        {"gamma": 1.5},
        {"train_freq": 0},
        {"temperature": 0.0},
        {"columns": (0, 1)},
        {"columns": (0,), "edges": ((2.0, 1.0),)},
        {"exploration_initial_eps": 2.0},
        {"exploration_final_eps": 0.9},
        {"exploration_decay": 0.0},
        {"ucb_c": -1.0},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ConfigError, match="QLearningConfig"):
        QLearningConfig(**wrong)


def test_columns_beyond_the_observation_are_refused():
    with pytest.raises(ConfigError, match="has 16 columns"):
        make("q_learning", columns=(0, 16), edges=((0.0,), (0.0,)))
