"""The two problems of benchmarks/known_problems, with one seed: all agents on the bandit and on the chain."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

sys.path.append(str(Path(__file__).resolve().parents[2] / "benchmarks" / "known_problems"))

from problems import (
    ARMS,
    BAIT,
    BEST_ARM,
    BEST_RETURN,
    BLOCKS,
    DUD,
    JACKPOT,
    OPENER,
    SETTINGS,
    bandit,
    chain,
    mean_return,
    opening,
    trained,
)

from recpolicy.environments.session_dynamics import like_odds


def responses(problem, items: list[int], liked: list[bool]) -> list[float]:
    """P(like) of each item when it is shown, those before it having been liked or not as told; by enumeration."""
    game = problem.environment(0, sessions=1)
    session, found = game.restart(None, None, game.noise(tf.constant(0))), []
    for item, like in zip(items, liked, strict=True):
        found.append(float(tf.sigmoid(like_odds(game.tables, session.user_state))[0, item]))
        noise = tf.constant([[0.0, 0.0 if like else 1.0 - 2.0**-24, 0.5, 0.5]])
        session = game.transition(session, tf.constant([item]), noise).session
    return found


def test_the_bandit_is_what_it_is_said_to_be():
    assert [responses(bandit(), [arm], [False])[0] for arm in range(10)] == pytest.approx(ARMS.tolist(), rel=1e-5)
    assert np.sort(ARMS)[-1] >= np.sort(ARMS)[-2] + 0.3


@pytest.mark.parametrize(
    ("items", "liked", "expected"),
    [
        ([OPENER, JACKPOT], True, [0.5, 0.982]),
        ([OPENER, JACKPOT], False, [0.5, 0.018]),
        ([OPENER, BAIT], False, [0.5, 0.8]),
        ([OPENER, BAIT], True, [0.5, 0.0013]),
        ([BAIT, OPENER], True, [0.8, 0.0003]),
        ([BAIT, OPENER], False, [0.8, 0.5]),
        ([BAIT, JACKPOT], True, [0.8, 0.0]),
        ([DUD, BAIT], False, [0.018, 0.8]),
    ],
)
def test_the_chain_is_what_it_is_said_to_be(items, liked, expected):
    assert responses(chain(), items, [liked, False]) == pytest.approx(expected, abs=1e-4)


def final(name: str, problem, gamma: float, blocks: int):
    ((_, agent),) = trained(name, problem, gamma, (0,), blocks)
    return agent


@pytest.mark.parametrize("name", SETTINGS)
def test_more_than_95_percent_of_the_pulls_are_of_the_best_arm(name):
    problem = bandit()
    assert opening(final(name, problem, 0.9, BLOCKS["bandit"]), problem)[BEST_ARM] > 0.95


@pytest.mark.parametrize("name", SETTINGS)
def test_looking_ahead_opens_the_chain(name):
    problem = chain()
    agent = final(name, problem, 0.9, BLOCKS["chain"])
    assert opening(agent, problem)[OPENER] > 0.95
    assert mean_return(agent, problem) > 0.95 * BEST_RETURN


@pytest.mark.parametrize("name", ["a2c", "q_learning"])
def test_looking_no_step_ahead_takes_the_bait(name):
    """The other agents do so in the benchmark."""
    problem = chain()
    agent = final(name, problem, 0.0, BLOCKS["chain"])
    assert opening(agent, problem)[BAIT] > 0.9
    assert mean_return(agent, problem) < 0.75 * BEST_RETURN
