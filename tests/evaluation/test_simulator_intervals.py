"""Intervals of the card over held-out users, on figures with a known spread."""

import numpy as np
import pytest

from recpolicy.evaluation.simulator_gates import auc
from recpolicy.evaluation.simulator_intervals import HeldOutLikes, SessionSums, card_intervals


def drawn(seed=0, users=200, each=20):
    """Ratings of users that each have a bias of their own, so those of one user belong together."""
    rng = np.random.default_rng(seed)
    user = np.repeat(np.arange(users), each)
    odds = rng.normal(0, 1, users)[user] + rng.normal(0, 1, len(user))
    like = rng.random(len(user)) < 1 / (1 + np.exp(-odds))
    probability = 1 / (1 + np.exp(-odds))
    length = rng.poisson(rng.uniform(2, 20, users))
    sums = SessionSums.of(np.arange(users), length, users), SessionSums.of(np.arange(users), np.full(users, 10), users)
    return HeldOutLikes(user, like, probability, np.zeros(len(user))), {"mean session length": sums}, length


def test_values_are_those_of_all_users_and_intervals_hold_them():
    likes, sessions, length = drawn()
    figures = card_intervals(likes, sessions, np.random.default_rng(0), 300)
    assert figures["like AUC"].value == auc(likes.like, likes.probability)
    assert figures["like AUC minus that of biases only"].value == pytest.approx(figures["like AUC"].value - 0.5)
    difference = figures["mean session length, simulated minus real"]
    assert difference.value == pytest.approx(10 - length.mean())
    # The half-width of a mean of 200 users, within a fifth.
    assert difference.hi - difference.lo == pytest.approx(2 * 1.96 * length.std() / np.sqrt(200), rel=0.2)
    for interval in figures.values():
        assert interval.lo < interval.value < interval.hi


def test_users_are_drawn_not_ratings():
    """The same ratings in one-rating users have a narrower interval: those of one user vary together."""
    likes, sessions, _ = drawn(users=40, each=100)
    apart = likes._replace(user=np.arange(len(likes.user)))
    wide, narrow = (
        card_intervals(each, sessions, np.random.default_rng(0), 200)["like Brier score"] for each in (likes, apart)
    )
    assert narrow.hi - narrow.lo < 0.8 * (wide.hi - wide.lo)


def test_no_resamples_give_no_intervals():
    likes, sessions, _ = drawn()
    assert card_intervals(likes, sessions, np.random.default_rng(0), 0) == {}
