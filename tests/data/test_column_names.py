"""Columns are found by their usual names, and a missing one suggests a name that people give such a column."""

from pathlib import Path

import pytest

from recpolicy.core.errors import DataError
from recpolicy.data.column_names import find_column
from recpolicy.data.csv_reader import Source
from recpolicy.data.read_options import reading_for


def message(names, meaning, wanted=None):
    with pytest.raises(DataError) as raised:
        find_column(names, meaning, Source(Path("own.csv"), ","), wanted)
    return str(raised.value)


@pytest.mark.parametrize(
    ("names", "meaning", "suggested"),
    [
        (["uid", "film", "stars"], "user", "uid"),
        (["uid", "film", "stars"], "item", "film"),
        (["uid", "film", "stars"], "rating", "stars"),
        (["User-ID", "ISBN", "Book-Rating"], "user", "User-ID"),
        (["User-ID", "ISBN", "Book-Rating"], "item", "ISBN"),
        (["User-ID", "ISBN", "Book-Rating"], "rating", "Book-Rating"),
        (["user_id:token", "item_id:token", "rating:float"], "item", "item_id:token"),
        (["reviewerID", "asin", "overall"], "user", "reviewerID"),
        (["usr", "itme", "raitng"], "item", "itme"),
        (["usr", "itme", "raitng"], "rating", "raitng"),
        # No column means it: nothing is suggested.
        (["user", "rating", "time"], "item", None),
        (["user", "title", "rating", "timestamp"], "item", None),
        (["event_time", "age", "action", "reward"], "rating", None),
        (["event_time", "age", "action", "reward"], "user", None),
    ],
)
def test_a_missing_column_suggests_a_column_of_its_meaning_only(names, meaning, suggested):
    text = message(names, meaning)
    assert f"no column {meaning!r} for the {meaning}." in text
    assert (f"Did you mean {suggested!r}?" in text) is (suggested is not None), text
    assert ("Did you mean" in text) is (suggested is not None), text


def test_the_remedy_names_the_column_that_is_likely():
    assert "name it with columns={\"user\": 'uid'}" in message(["uid", "film", "stars"], "user")
    assert 'name it with columns={"user": NAME}' in message(["usr", "film", "stars"], "user")
    with pytest.raises(DataError, match=r"; name it with --item 'my film'$"), reading_for("option"):
        find_column(["uid", "my film", "stars"], "item", Source(Path("own.csv"), ","))


def test_a_given_name_suggests_the_column_that_it_misspells():
    assert "Did you mean 'stars'?" in message(["uid", "film", "stars"], "rating", "satrs")
    assert "Did you mean" not in message(["uid", "film", "stars"], "rating", "likes")
