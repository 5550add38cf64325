"""Relative gain over who logged: 0 for the logging policy, exact on enumerated logs, intervals that cover."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.evaluation.relative_gain import gain_on_hits, relative_gain
from recpolicy.ope.feedback import BanditFeedback, TargetPolicy


def rounds_of(action, reward, prob, user=None, actions=3):
    count = len(action)
    return BanditFeedback(
        np.array(action), np.array(reward, float), np.array(prob, float),
        np.arange(count) if user is None else np.array(user), actions,
    )  # fmt: skip


def gain_of(rounds, prob):
    found = relative_gain(rounds, TargetPolicy(np.array(prob, float)), (0.0, 5.0))
    return None if found is None else found["t"]


def test_by_hand():
    # weights .9/.5 = 1.8, .1/.5 = .2: SNIPS (1.8 * 4 + .2 * 2) / 2 = 3.8; the mean reward is 3
    rounds = rounds_of([0, 1], [4, 2], [0.5, 0.5])
    assert gain_of(rounds, [0.9, 0.1]).value == pytest.approx(3.8 / 3 - 1)
    assert gain_on_hits(rounds, TargetPolicy(np.array([0.9, 0.1]))) == pytest.approx(3.8 / 3 - 1)  # uniform: the same


def test_without_weights_hits_follow_the_log_and_not_the_target():
    # 3 rounds with action 0 (.75) and reward 1, one with action 1 (.25) and reward 5; the target is uniform
    rounds = rounds_of([0, 0, 0, 1], [1, 1, 1, 5], [0.75, 0.75, 0.75, 0.25], actions=2)
    assert gain_of(rounds, [0.5] * 4).value == pytest.approx(3 / 2 - 1)
    assert gain_on_hits(rounds, TargetPolicy(np.full(4, 0.5))) == pytest.approx(0)


@given(st.lists(st.tuples(st.floats(0.05, 1), st.floats(0.5, 5)), min_size=2, max_size=20))
def test_logging_policy_gains_nothing_over_itself(pairs):
    prob, reward = zip(*pairs, strict=True)
    found = gain_of(rounds_of([0] * len(pairs), reward, prob), prob)
    assert (found.value, found.lo, found.hi) == pytest.approx((0, 0, 0), abs=1e-9)


def test_seer_on_a_uniform_log_gains_what_the_best_action_is_worth():
    """Every action once in every context: the value is enumerated."""
    table = np.array([[1, 2, 6], [4, 1, 1]], float)
    action, reward = np.tile(np.arange(3), 2), table.ravel()
    seer = (action == np.repeat(table.argmax(axis=1), 3)).astype(float)
    rounds = rounds_of(action, reward, np.full(6, 1 / 3))
    assert gain_of(rounds, seer).value == pytest.approx((6 + 4) / 2 / table.mean() - 1)
    assert gain_on_hits(rounds, TargetPolicy(seer)) == pytest.approx((6 + 4) / 2 / table.mean() - 1)


def test_no_share_of_nothing():
    assert gain_of(rounds_of([0, 1], [0, 0], [0.5, 0.5]), [1, 0]) is None
    assert gain_on_hits(rounds_of([0, 1], [-1, 0], [0.5, 0.5]), TargetPolicy(np.array([1.0, 0]))) is None
    assert gain_of(rounds_of([0, 1], [1, 1], [0.5, 0.5]), [0, 0]) is None
    assert gain_on_hits(rounds_of([0, 1], [1, 1], [0.5, 0.5]), TargetPolicy(np.zeros(2))) is None


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """300 logs of 40 users, 5 rounds each; rewards of a user are alike. Truth: (.8 * 4 + .2 * 2) / 3 - 1 = .2."""
    rng = np.random.default_rng(0)
    covered = always = 0
    user = np.repeat(np.arange(40), 5)
    for _ in range(300):
        action = rng.integers(2, size=200)
        reward = np.where(action == 0, 4.0, 2.0) + rng.normal(0, 0.3, 40)[user] + rng.normal(0, 0.5, 200)
        rounds = rounds_of(action, reward, np.full(200, 0.5), user)
        target = TargetPolicy(np.where(action == 0, 0.8, 0.2))
        found = relative_gain(rounds, target, (0.0, 5.0))
        covered += found["t"].lo <= 0.2 <= found["t"].hi
        always += found["sequence"].lo == -np.inf
    assert covered >= 279  # 285 of 300 less 1.6 standard errors of 3.8; the missing mass and rare rewards add to that
    assert always == 300  # 40 users are too few for a sequence
