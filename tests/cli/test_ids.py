import pytest
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.cli.ids import parse_id, parse_ratings
from recpolicy.core.errors import DataError


@given(number=st.integers(min_value=0))
def test_whole_numbers_are_numbers(number):
    assert parse_id(str(number)) == number


@pytest.mark.parametrize("text", ["alice", "007", "-1", "1.0", "", "1 ", "²", "١"])
def test_anything_else_is_text(text):
    assert parse_id(text) == text


def test_ratings_are_read_in_order_and_ids_may_hold_the_sign():
    assert parse_ratings(["50=5", "a=b=4.5"]) == {50: 5.0, "a=b": 4.5}


@pytest.mark.parametrize("pair", ["50", "50=", "=5", "50=good", ""])
def test_what_is_no_rating_is_shown(pair):
    with pytest.raises(DataError, match=r"--rating .*: expected ITEM=RATING"):
        parse_ratings([pair])
