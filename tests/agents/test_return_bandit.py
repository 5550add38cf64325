"""The return bandit on planted sessions, and the cross-entropy method on a known optimum."""

import numpy as np
import pytest

from recpolicy.agents.return_bandit import CrossEntropySearch, fit_return_bandit
from recpolicy.core.errors import DataError

N, HEADS = 4000, 3
CORNERS = np.array(np.meshgrid([-1, 1], [-1, 1], [-1, 1])).reshape(3, -1).T.astype(np.float32)  # [8, 3]


def planted(seed: int = 0):
    """Days fall with the first weight, and with the second one for users with a positive feature only."""
    rng = np.random.default_rng(seed)
    features, weights = rng.normal(size=(N, 2)), rng.uniform(-1, 1, (N, HEADS))
    days = 5 - weights[:, 0] - 0.8 * features[:, 1] * weights[:, 1] + 2 * features[:, 0] + rng.normal(0, 2, N)
    likes = 3 - 4 * weights[:, 0] + rng.normal(0, 1, N)
    return features, weights, days, likes


def test_the_bandit_finds_the_weights_that_bring_each_user_back():
    bandit = fit_return_bandit(*planted(), CORNERS)
    chosen = bandit.weights(np.array([[0.0, 2.0], [5.0, -2.0]]))
    np.testing.assert_array_equal(chosen[:, :2], [[1, 1], [1, -1]])


def test_likes_in_the_cost_move_the_choice():
    bandit = fit_return_bandit(*planted(), CORNERS, lambda_immediate=1.0)
    assert bandit.weights(np.zeros((1, 2)))[0, 0] == -1  # a like costs a quarter of a day here


def test_products_of_weights_count():
    rng = np.random.default_rng(1)
    weights = rng.uniform(-1, 1, (N, HEADS))
    days = 5 + weights[:, 1] * weights[:, 2]
    bandit = fit_return_bandit(np.zeros((N, 1)), weights, days, days, CORNERS)
    chosen = bandit.weights(np.zeros((1, 1)))[0]
    assert chosen[1] * chosen[2] == -1


@pytest.mark.parametrize(
    ("days", "message"),
    [([], "0 sessions, 0 without a return day"), ([2.0, np.nan], "2 sessions, 1 without a return day")],
)
def test_sessions_without_a_return_day_are_refused(days, message):
    count = len(days)
    with pytest.raises(DataError, match=message):
        fit_return_bandit(np.zeros((count, 1)), np.zeros((count, 3)), np.array(days), np.zeros(count), CORNERS)


def test_cross_entropy_finds_an_optimum():
    search, best = CrossEntropySearch(3, np.random.default_rng(0)), np.array([0.5, -0.5, 0.0])
    for _ in range(40):
        draws = search.draw(40)
        search.refit(draws, ((draws - best) ** 2).sum(axis=1))
    np.testing.assert_allclose(search.mean, best, atol=0.1)
    assert (search.std < 0.2).all()
