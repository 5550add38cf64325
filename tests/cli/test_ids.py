import pytest
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.cli.ids import parse_history, parse_ids, parse_ratings
from recpolicy.core.errors import DataError

NUMBERS, TEXTS = [7, 8], ["7", "guest"]


@given(number=st.integers(min_value=-(2**63), max_value=2**63 - 1))
def test_whole_numbers_are_numbers_in_a_table_of_numbers(number):
    assert parse_ids([str(number)], NUMBERS) == [number]
    assert parse_ids([str(number)], TEXTS) == [str(number)]


@pytest.mark.parametrize("text", ["alice", "007", "-0", "1.0", "", "1 ", "²", "١", "1" * 20])
def test_anything_else_is_text(text):
    assert parse_ids([text], NUMBERS) == [text]


def test_ratings_are_read_in_order_and_ids_may_hold_the_sign():
    assert parse_ratings(["50=5", "a=b=4.5", "-3=1"], NUMBERS) == {50: 5.0, "a=b": 4.5, -3: 1.0}
    assert parse_ratings(["50=5"], TEXTS) == {"50": 5.0}
    assert parse_history(["50=like", "x=skip"], NUMBERS) == [(50, True), ("x", False)]
    assert parse_history(["50=like"], TEXTS) == [("50", True)]


@pytest.mark.parametrize("pair", ["50", "50=", "=5", "50=good", ""])
def test_what_is_no_rating_is_shown(pair):
    with pytest.raises(DataError, match=r"--rating .*: expected ITEM=RATING"):
        parse_ratings([pair], NUMBERS)
