"""Diversity of lists, exposure and best actions: by hand, against enumeration of all orders of ties, and as laws."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.core.errors import DataError
from recpolicy.evaluation.diversity import action_diversity, gini, list_diversity, unit_rows

GENRES = np.array([[1, 0], [1, 0], [0, 1], [1, 1], [0, 0]], float)  # a, a, b, ab, none known


def diversity(score, k, rated=None, directions=GENRES):
    table = np.array(score, float)
    rated = np.zeros(table.shape, bool) if rated is None else np.array(rated, bool)
    return list_diversity(table, rated, {"genres": unit_rows(directions)}, k)["genres"]


def enumerated(score, k, directions):
    """Mean over all permutations of the items, sorted by score with ties in the order of the permutation."""
    unit, found = unit_rows(directions), []
    for order in itertools.permutations(range(len(score))):
        best = sorted(order, key=lambda item: -score[item])[:k]
        found.append(np.mean([1 - unit[i] @ unit[j] for i, j in itertools.combinations(best, 2)]))
    return np.mean(found)


def test_pairs_of_a_list_by_hand():
    assert diversity([[9, 8, 1, 1, 1]], k=2) == pytest.approx(0)  # a, a
    assert diversity([[9, 1, 8, 1, 1]], k=2) == pytest.approx(1)  # a, b
    # a, a, b: distances 0, 1, 1
    assert diversity([[9, 8, 7, 1, 1]], k=3) == pytest.approx(2 / 3)
    # a, ab: cosine 1/sqrt(2); the second user's a, a; the mean counts users alike
    assert diversity([[9, 1, 1, 8, 1], [9, 8, 1, 1, 1]], k=2) == pytest.approx((1 - np.sqrt(0.5)) / 2)
    assert diversity([[9, 1, 1, 1, 8]], k=2) == pytest.approx(1)  # nothing is known of the last


def test_rated_items_are_not_in_the_list():
    assert diversity([[9, 8, 7, 1, 1]], k=2, rated=[[0, 1, 0, 0, 0]]) == pytest.approx(1)  # a, b


def test_users_with_fewer_than_two_items_left_do_not_count():
    rated = [[1, 1, 1, 1, 0], [0, 0, 0, 0, 0]]
    assert diversity([[1, 1, 1, 1, 1], [9, 1, 8, 1, 1]], k=2, rated=rated) == pytest.approx(1)
    assert diversity([[1, 1, 1, 1, 1]], k=2, rated=rated[:1]) is None
    assert diversity([[1, 1, 1, 1, 1]], k=1) is None


@given(
    score=st.lists(st.integers(0, 2), min_size=5, max_size=5),
    k=st.integers(2, 5),
    directions=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=5, max_size=5),
)
def test_ties_are_shared_exactly(score, k, directions):
    table = np.array(directions, float)
    found = diversity([score], k, directions=table)
    assert found == pytest.approx(enumerated(score, k, table)) if table.any() else found is None


def test_more_users_than_a_block_count_alike(monkeypatch):
    rng = np.random.default_rng(0)
    score, directions = rng.normal(size=(7, 12)), rng.normal(size=(12, 3))
    whole = diversity(score, 4, directions=directions)
    monkeypatch.setattr("recpolicy.evaluation.diversity._BLOCK", 3)
    assert diversity(score, 4, directions=directions) == pytest.approx(whole)


def test_gini_of_equal_and_of_single_exposure():
    assert gini(np.full(8, 3.0)) == pytest.approx(0)
    assert gini(np.array([0, 0, 0, 5.0])) == pytest.approx(3 / 4)  # (I - 1) / I
    # half the mean absolute difference over the mean: pairs of (1, 3): |1-3| twice of 4 -> 1; / (2 * 2)
    assert gini(np.array([1.0, 3.0])) == pytest.approx(1 / 4)
    assert gini(np.zeros(3)) == 0


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=9).filter(lambda row: sum(row) > 1e-3))
def test_gini_is_half_the_mean_difference_over_the_mean(row):
    exposure = np.array(row)
    expected = np.abs(exposure[:, None] - exposure).mean() / (2 * exposure.mean())
    assert gini(exposure) == pytest.approx(expected, abs=1e-9)
    assert gini(7 * exposure[::-1]) == pytest.approx(gini(exposure), abs=1e-9)


def test_actions_of_a_collapsed_and_of_a_uniform_policy():
    collapsed = action_diversity(np.eye(50)[7])
    assert (collapsed.diversity, collapsed.distinct, collapsed.modal_share) == (pytest.approx(1 / 50), 1, 1)
    uniform = action_diversity(np.full(50, 2.0))
    assert (uniform.diversity, uniform.distinct) == (pytest.approx(1), 50)
    # entropy of (1/2, 1/4, 1/4): 1.5 bits, so exp(entropy) is 2^1.5
    some = action_diversity(np.array([2.0, 1, 1, 0]))
    assert some.diversity == pytest.approx(2**1.5 / 4)
    assert (some.distinct, some.modal_share, some.actions) == (3, 0.5, 4)


@pytest.mark.parametrize("share", [[0.0, 0.0], [1.0, -0.1]])
def test_shares_that_are_none_are_refused(share):
    with pytest.raises(DataError, match="diversity of actions"):
        action_diversity(np.array(share))
