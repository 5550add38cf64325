"""Tabular Q-learning by hand: the numbers of document 001, sessions, weights of constant steps, UCB1."""

import numpy as np
import pytest

from recpolicy.core.config import build
from recpolicy.strategies.config import ACTIONS, LearningConfig
from recpolicy.strategies.q_table import QTable, effective_visits, means, ucb1

ALPHA = LearningConfig(learning_rate=0.1, gamma=0.95)
AVERAGE = LearningConfig(step="average", gamma=0.0)


def table(states, cells):
    """Return a table with some cells {(state, action): q}, each visited once."""
    q, visits = np.zeros((len(states), ACTIONS)), np.zeros((len(states), ACTIONS), np.int64)
    for (state, action), value in cells.items():
        q[states.index(state), action], visits[states.index(state), action] = value, 1
    return QTable(np.array(states), q, visits)


def learn(start, rounds, config=ALPHA):
    """Return the table after rounds (state, action, reward, has_next)."""
    states, action, reward, has_next = (np.array(column) for column in zip(*rounds, strict=True))
    return start.updated(states, action, reward.astype(float), has_next.astype(bool), config)


def test_the_update_of_document_001():
    start = table([3, 8], {(3, 5): 0.5, (8, 2): 2.0, (8, 4): -1.0})
    after = learn(start, [(3, 5, 1.0, True), (8, 4, 0.0, False)])
    # .5 + .1 (1 + .95 * 2 - .5) = .74; the last round of a session: -1 + .1 (0 - -1) = -.9
    assert after.q[0, 5] == pytest.approx(0.74, abs=1e-12)
    assert after.q[1, 4] == pytest.approx(-0.9, abs=1e-12)
    assert after.visits[0, 5] == 2


def test_a_terminal_round_has_no_discounted_value():
    after = learn(table([3, 8], {(3, 5): 0.5, (8, 2): 2.0}), [(3, 5, 1.0, False)])
    assert after.q[0, 5] == pytest.approx(0.55, abs=1e-12)  # .5 + .1 (1 - .5)


def test_one_session_with_two_states_twice():
    session = [(10, 1, 1.0, True), (20, 2, 1.3, False)]
    first = learn(QTable.empty(), session)
    assert first.q[0, 1] == pytest.approx(0.1)  # .1 (1 + .95 * 0)
    assert first.q[1, 2] == pytest.approx(0.13)  # .1 * 1.3
    second = learn(first, session)
    assert second.q[0, 1] == pytest.approx(0.1 + 0.1 * (1.0 + 0.95 * 0.13 - 0.1))
    assert second.q[1, 2] == pytest.approx(0.13 + 0.1 * (1.3 - 0.13))
    assert learn(QTable.empty(), session * 2).q == pytest.approx(second.q, abs=0)


def test_q_learning_converges_to_the_values_of_a_chain():
    # state 0, action 1 pays 1 and leads to state 1; there action 2 pays 2 and ends: Q = 1 + .5 * 2 and 2
    config = LearningConfig(learning_rate=0.5, gamma=0.5)
    after = learn(QTable.empty(), [(0, 1, 1.0, True), (1, 2, 2.0, False)] * 200, config)
    assert after.q[0, 1] == pytest.approx(2.0, abs=1e-9)
    assert after.q[1, 2] == pytest.approx(2.0, abs=1e-9)


def random_rounds(count, seed=0):
    rng = np.random.default_rng(seed)
    has_next = rng.random(count) < 0.5
    has_next[-1] = False
    return rng.integers(50, size=count), rng.integers(ACTIONS, size=count), rng.normal(size=count), has_next


@pytest.mark.parametrize("step", ["constant", "average"])
def test_learning_in_parts_equals_learning_at_once(step):
    config = LearningConfig(step=step)
    states, action, reward, has_next = random_rounds(600)
    cut = int(np.flatnonzero(~has_next[:300])[-1]) + 1  # the end of a session
    at_once = QTable.empty().updated(states, action, reward, has_next, config)
    parts = QTable.empty()
    for rows in (slice(0, cut), slice(cut, None)):
        parts = parts.updated(states[rows], action[rows], reward[rows], has_next[rows], config)
    assert (parts.states == at_once.states).all()
    assert (parts.q == at_once.q).all()
    assert (parts.visits == at_once.visits).all()


@pytest.mark.parametrize("step", ["constant", "average"])
@pytest.mark.parametrize("states", [1, 50])
def test_the_bits_are_those_of_the_formula_round_by_round(step, states):
    config = LearningConfig(step=step, learning_rate=0.1, gamma=0.95)
    state, action, reward, has_next = random_rounds(2_000)
    state %= states
    q, visits = np.zeros((states, ACTIONS)), np.zeros((states, ACTIONS), np.int64)
    for i in range(len(state)):
        cell, following = (state[i], action[i]), 0.95 * q[state[i + 1]].max() if has_next[i] else 0.0
        visits[cell] += 1
        q[cell] += (0.1 if step == "constant" else 1 / visits[cell]) * (reward[i] + following - q[cell])
    after = QTable.empty().updated(state, action, reward, has_next, config)
    assert after.states.tolist() == list(range(states))
    assert (after.q == q).all()
    assert (after.visits == visits).all()


def test_average_steps_give_the_mean():
    rewards = [0.3, -1.0, 2.0, 0.7]
    after = learn(QTable.empty(), [(5, 7, reward, False) for reward in rewards], AVERAGE)
    assert after.q[0, 7] == pytest.approx(np.mean(rewards))
    assert (means(after.q, after.visits, AVERAGE) == after.q).all()
    assert effective_visits(after.visits, AVERAGE)[0, 7] == 4


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_constant_steps_give_the_mean_with_declining_weights(rate):
    config = build(LearningConfig, {"learning_rate": rate, "gamma": 0.0}, "learning")
    rewards = np.random.default_rng(1).normal(size=9)
    after = learn(QTable.empty(), [(5, 7, reward, False) for reward in rewards], config)
    weight = rate * (1 - rate) ** np.arange(9)[::-1]
    assert after.q[0, 7] == pytest.approx(weight @ rewards)
    assert means(after.q, after.visits, config)[0, 7] == pytest.approx(weight @ rewards / weight.sum())
    expected = weight.sum() ** 2 / (weight @ weight)
    assert effective_visits(after.visits, config)[0, 7] == pytest.approx(expected)
    assert effective_visits(after.visits, config)[0, 0] == means(after.q, after.visits, config)[0, 0] == 0


def test_ucb1_of_document_001():
    # mean .5, 10 of 100 visits: .5 + sqrt(2 ln 100 / 10), and with c = 2: .5 + 2 sqrt(ln 100 / 10)
    visits = np.array([10.0, 90.0, 0.0])
    assert ucb1(np.array([0.5, 0.5, 0.5]), visits, np.sqrt(2))[0] == pytest.approx(1.459705, abs=5e-7)
    scores = ucb1(np.array([0.5, 0.5, 0.5]), visits, 2.0)
    assert scores[0] == pytest.approx(1.857228, abs=5e-7)
    assert scores[2] == np.inf  # every action once, first


def test_rows_of_unknown_states_are_beyond_the_table():
    start = table([3, 8], {})
    assert start.rows(np.array([8, 4, 3, 9, 0])).tolist() == [1, 2, 0, 2, 2]
    assert QTable.empty().rows(np.array([1])).tolist() == [0]
