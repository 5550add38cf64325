import dataclasses

import numpy as np
import pytest
from small_cases import model_of, ratings_of

from recpolicy.core.errors import DataError
from recpolicy.evaluation.policy_scores import baseline_tables, regret_by_user

# item 0: 5 once; item 1: 4, 4, 1; item 2: none. Global mean 14/4 = 3.5
FIT = [(0, 0, 5), (0, 1, 4), (1, 1, 4), (2, 1, 1)]
MEAN = np.linspace(1, 5, 9).reshape(3, 3)


def fit():
    return ratings_of(FIT, users=3, items=3)


def tables(prior_count=4.0):
    return baseline_tables(fit(), model_of(fit(), MEAN), prior_count)


def test_all_four_baselines_in_order():
    assert list(tables()) == ["random", "most_popular", "highest_mean", "rating_model"]
    assert all(table.score.shape == (3, 3) for table in tables().values())


def test_random_prefers_nothing_and_popular_counts_raters():
    assert np.unique(tables()["random"].score).size == 1
    assert tables()["most_popular"].score[1].tolist() == [1, 3, 0]


def test_means_are_drawn_to_the_global_mean():
    # m = 4: (5 + 14) / 5, (9 + 14) / 7, 14 / 4
    for weight, expected in ((4, [3.8, 23 / 7, 3.5]), (0, [5, 3, 3.5]), (1e6, [3.5, 3.5, 3.5])):
        np.testing.assert_allclose(tables(weight)["highest_mean"].score, [expected] * 3, rtol=1e-5)


def test_highest_mean_and_model_estimate_ratings_by_their_scores():
    found = tables()
    for name in ("highest_mean", "rating_model"):
        assert found[name].rating is found[name].score
    assert found["random"].rating is None
    assert found["most_popular"].rating is None
    np.testing.assert_allclose(found["rating_model"].score, MEAN)


def test_a_model_fitted_on_other_ratings_is_refused():
    model = dataclasses.replace(model_of(fit(), MEAN), train_digest="another")
    with pytest.raises(DataError, match=r"fitted on other ratings .*fit it on the train part"):
        baseline_tables(fit(), model)


def test_regret_shares_ties_and_leaves_out_rated_items():
    expected = np.array([[5.0, 3.0, 1.0], [2.0, 4.0, 4.5], [1.0, 2.0, 3.0]])
    score = np.array([[1.0, 1.0, 0.0], [9.0, 0.0, 1.0], [0.0, 1.0, 2.0]])
    np.testing.assert_allclose(regret_by_user(expected, score), [1.0, 2.5, 0.0])
    rated = np.array([[True, False, False], [True, False, False], [True, True, True]])
    np.testing.assert_allclose(regret_by_user(expected, score, rated), [0.0, 0.0])  # the third user has nothing left
    np.testing.assert_allclose(regret_by_user(expected, -score, rated), [2.0, 0.5])
