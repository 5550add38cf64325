from itertools import permutations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_cases import candidates_with, flat, ratings_of, scored_users

from recpolicy.core.errors import DataError
from recpolicy.evaluation.ranking import TopItems, coverage, grades, ndcg, novelty, self_information, top_items

LOG3 = np.log2(3)


def of_one_user(ratings, scores, k=10):
    return ndcg(candidates_with([ratings]), np.array(ratings, float), np.array(scores, float), k)[0]


def brute_force(ratings, scores, k):
    """Mean nDCG@k over every order in which a shuffled sort by score can leave the items."""
    gain = 2.0 ** np.array(ratings) - 1

    def dcg(order):
        return sum(gain[item] / np.log2(place + 2) for place, item in enumerate(order[:k]))

    everyone = list(permutations(range(len(ratings))))
    sorted_orders = [order for order in everyone if all(np.diff([scores[item] for item in order]) <= 0)]
    return np.mean([dcg(order) for order in sorted_orders]) / max(dcg(order) for order in everyone)


def test_ndcg_of_one_swap():
    # gains 7, 3, 1; the order is 3, 7, 1 instead of 7, 3, 1; discounts 1, 1/log2(3), 1/2
    expected = (3 + 7 / LOG3 + 1 / 2) / (7 + 3 / LOG3 + 1 / 2)
    assert of_one_user([3, 2, 1], [5, 9, 0]) == pytest.approx(expected, abs=1e-15)


def test_ndcg_looks_at_the_first_k_only():
    # k = 1: the first is the item with gain 3, the best has 7
    assert of_one_user([3, 2, 1], [5, 9, 0], k=1) == pytest.approx(3 / 7)


def test_tied_scores_get_the_mean_gain_of_the_tie():
    # all tied: mean gain 11/3 at each place; with k = 2 only two places pay
    assert of_one_user([3, 2, 1], [4, 4, 4]) == pytest.approx(11 / 3 * (1.5 + 1 / LOG3) / (7 + 3 / LOG3 + 0.5))
    assert of_one_user([3, 2, 1], [4, 4, 4], k=2) == pytest.approx(11 / 3 * (1 + 1 / LOG3) / (7 + 3 / LOG3))


def test_ties_do_not_depend_on_the_order_of_rows():
    assert of_one_user([5, 1, 1], [0, 0, 0]) == of_one_user([1, 1, 5], [0, 0, 0])


@settings(max_examples=60)
@given(scored_users(max_size=5), st.integers(1, 6))
def test_ndcg_is_the_mean_over_all_orders_of_ties(users, k):
    ratings, scores = users
    found = ndcg(candidates_with(ratings), flat(ratings), flat(scores), k)
    expected = [brute_force(one, score, k) for one, score in zip(ratings, scores, strict=True)]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@given(scored_users())
def test_ndcg_ignores_monotone_transforms_and_peaks_at_the_truth(users):
    ratings, scores = users
    candidates, grade = candidates_with(ratings), flat(ratings)
    found = ndcg(candidates, grade, flat(scores))
    assert (found == ndcg(candidates, grade, np.exp(flat(scores)) - 100)).all()
    assert (found <= 1 + 1e-12).all()
    np.testing.assert_allclose(ndcg(candidates, grade, flat(ratings)), 1, atol=1e-12)


def test_a_user_with_nothing_to_gain_is_ranked_ideally():
    assert ndcg(candidates_with([[0, 0]]), np.zeros(2), np.array([1.0, 2.0])).tolist() == [1]


def test_scales_beyond_five_are_mapped_onto_one_to_five():
    assert grades(np.array([0.5, 3, 5]), (0.5, 5)).tolist() == [0.5, 3, 5]
    assert grades(np.array([-10, 0, 10]), (-10, 10)).tolist() == [1, 3, 5]
    assert grades(np.array([0, 50, 100]), (0, 100)).tolist() == [1, 3, 5]


@pytest.mark.parametrize(("score", "k"), [([1.0, np.nan], 10), ([1.0, 2.0], 0)])
def test_ndcg_refuses_scores_that_are_not_numbers_and_k_below_one(score, k):
    with pytest.raises(DataError, match="nDCG"):
        of_one_user([1, 2], score, k)


def test_top_items_without_ties():
    # user 0 has rated item 0, so 1 and 2 are left as top 2; user 1's are 0 and 3
    score = np.array([[9, 5, 4, 1], [8, 1, 2, 7]], float)
    rated = np.array([[True, False, False, False], [False] * 4])
    top = top_items(score, rated, k=2)
    assert top.count.tolist() == [1, 1, 1, 1]
    assert coverage(top) == 1
    assert coverage(top_items(score, rated, k=1)) == 0.5


def test_constant_scores_cover_what_random_lists_cover():
    # each of 2 users has a given item on top with probability 1/3; neither has it with probability 4/9
    top = top_items(np.zeros((2, 3)), np.zeros((2, 3), bool), k=1)
    np.testing.assert_allclose(top.count, 2 / 3)
    assert coverage(top) == pytest.approx(5 / 9)


def test_users_with_little_left_get_what_is_left():
    rated = np.array([[True, True, False], [True, True, True]])
    top = top_items(np.array([[1.0, 2, 3], [1, 2, 3]]), rated, k=2)
    assert top.count.tolist() == [0, 0, 1]
    assert coverage(top) == pytest.approx(1 / 3)
    assert novelty(top_items(np.ones((1, 3)), np.ones((1, 3), bool), k=2), np.ones(3)) == 0


def top_sets(scores, k):
    """All top-k sets that shuffled sorts of one user's scores can give, with repetitions in proportion."""
    orders = permutations(range(len(scores)))
    return [set(order[:k]) for order in orders if all(np.diff([scores[item] for item in order]) <= 0)]


@settings(max_examples=40)
@given(st.lists(st.lists(st.integers(0, 2), min_size=4, max_size=4), min_size=1, max_size=2), st.integers(1, 4))
def test_coverage_is_the_mean_over_all_orders_of_ties(scores, k):
    draws = product(*(top_sets(row, k) for row in scores))
    expected = np.mean([len(set().union(*draw)) / 4 for draw in draws])
    found = top_items(np.array(scores, float), np.zeros((len(scores), 4), bool), k)
    assert coverage(found) == pytest.approx(expected)
    assert found.count.sum() == pytest.approx(k * len(scores))


def test_many_users_are_ranked_in_blocks(monkeypatch):
    rng = np.random.default_rng(0)
    score, rated = rng.integers(0, 9, (50, 30)).astype(float), rng.random((50, 30)) < 0.3
    whole = top_items(score, rated, k=5)
    monkeypatch.setattr("recpolicy.evaluation.ranking._BLOCK", 7)
    blocks = top_items(score, rated, k=5)
    np.testing.assert_allclose(blocks.count, whole.count)
    np.testing.assert_allclose(blocks.missed, whole.missed)


@pytest.mark.parametrize("k", [0, 4])
def test_top_k_must_fit_the_catalog(k):
    with pytest.raises(DataError, match=r"expected 1\.\.3"):
        top_items(np.zeros((1, 3)), np.zeros((1, 3), bool), k)


def test_top_items_refuses_scores_that_are_not_numbers():
    with pytest.raises(DataError, match="finite"):
        top_items(np.array([[1.0, -np.inf]]), np.zeros((1, 2), bool), 1)


def test_self_information_counts_raters_in_bits():
    # 3 users; items with 3, 1 and 0 raters: -log2 of 4/4, 2/4, 1/4
    fit = ratings_of([(0, 0, 3), (1, 0, 3), (2, 0, 3), (2, 1, 3)], users=3, items=3)
    assert self_information(fit).tolist() == [0, 1, 2]


def test_novelty_is_weighted_by_how_often_a_item_is_recommended():
    top = TopItems(count=np.array([3.0, 1.0, 0.0]), missed=np.zeros(3))
    assert novelty(top, np.array([0.0, 1.0, 2.0])) == 0.25
