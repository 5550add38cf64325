import numpy as np
import pytest
from small_cases import ratings_of

from recpolicy.core.errors import DataError
from recpolicy.evaluation.candidates import find_candidates

# users 0 and 3 have one rating, user 2 none
SCATTERED = [(4, 1, 2), (1, 2, 5), (0, 0, 3), (4, 0, 1), (1, 0, 4), (3, 1, 3), (4, 2, 3)]


def test_users_with_two_or_more_ratings_in_order_of_user_and_item():
    found = find_candidates(ratings_of(SCATTERED, users=5, items=3))
    assert found.user.tolist() == [1, 1, 4, 4, 4]
    assert found.item.tolist() == [0, 2, 0, 1, 2]
    assert found.rating.tolist() == [4, 5, 1, 2, 3]
    assert found.start.tolist() == [0, 2]
    assert found.size.tolist() == [2, 3]


def test_sums_maxima_and_spreading_stay_within_users():
    found = find_candidates(ratings_of(SCATTERED, users=5, items=3))
    assert found.total(found.rating).tolist() == [9, 6]
    assert found.highest(found.rating).tolist() == [5, 3]
    assert found.spread(np.array([7, 8])).tolist() == [7, 7, 8, 8, 8]


def test_look_up_reads_the_table_at_user_and_item():
    found = find_candidates(ratings_of(SCATTERED, users=5, items=3))
    assert found.look_up(np.arange(15.0).reshape(5, 3)).tolist() == [3, 5, 12, 13, 14]


def test_single_ratings_count_when_asked_for():
    assert find_candidates(ratings_of(SCATTERED, users=5, items=3), at_least=1).user.tolist() == [0, 1, 1, 3, 4, 4, 4]


def test_nobody_with_two_ratings_is_an_error():
    with pytest.raises(DataError, match="no user has 2 or more ratings"):
        find_candidates(ratings_of([(0, 0, 3), (1, 0, 3)], users=2, items=1))
