"""Columns are found by their usual names, and a missing one suggests a name that people give such a column."""

from pathlib import Path

import pytest

from recpolicy.core.errors import DataError
from recpolicy.data.column_names import ITEM_COLUMNS, RATING_COLUMNS, find_columns, likely_columns
from recpolicy.data.csv_reader import Source
from recpolicy.data.read_options import reading_for

OWN = Source(Path("own.csv"), ",")


def message(names, meaning, wanted=None):
    with pytest.raises(DataError) as raised:
        find_columns(names, [meaning], OWN, {} if wanted is None else {meaning: wanted})
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
    assert "name it with columns={\"user\": 'usr'}" in message(["usr", "film", "stars"], "user")
    assert 'name it with columns={"user": NAME}' in message(["who", "film", "stars"], "user")
    with pytest.raises(DataError, match=r"; name it with --item 'my film'$"), reading_for("option"):
        find_columns(["uid", "my film", "stars"], ["item"], OWN, {})


def test_a_given_name_suggests_the_column_that_it_misspells():
    assert "Did you mean 'stars'?" in message(["uid", "film", "stars"], "rating", "satrs")
    assert "Did you mean" not in message(["uid", "film", "stars"], "rating", "likes")


REMEDIES = {
    "argument": 'name them with columns={"user": \'uid\', "item": \'film\', "rating": NAME}',
    "option": "name them with --user uid --item film --rating NAME",
    "config": 'name them with columns = { user = "uid", item = "film", rating = "NAME" } in [data] of a TOML file,'
    " given as --config FILE",
    "parameter": 'name them with data_settings={"columns": {"user": "uid", "item": "film", "rating": "NAME"}}',
    "file": "rename the columns to 'user', 'item' and 'rating' in the file",
}


@pytest.mark.parametrize("remedy", REMEDIES)
def test_all_missing_columns_are_named_in_one_line(remedy):
    with pytest.raises(DataError) as raised, reading_for(remedy):
        find_columns(["uid", "film", "opinion"], RATING_COLUMNS, OWN, {}, optional=("timestamp",))
    assert str(raised.value) == (
        "own.csv:1: no columns 'user' for the user, 'item' for the item and 'rating' for the rating. Did you mean 'uid'"
        f" for the user and 'film' for the item? Found in the first line: uid, film, opinion; {REMEDIES[remedy]}"
    )


def test_a_column_that_has_a_meaning_is_not_suggested_for_another():
    with pytest.raises(DataError, match="Did you mean 'video'") as raised:
        find_columns(["user", "film", "video"], RATING_COLUMNS[:3], OWN, {"rating": "film"})
    assert "'film'" not in str(raised.value)


def test_names_that_the_caller_gave_are_missing_together_with_others():
    wanted = {"title": "lable"}
    with pytest.raises(DataError) as raised:
        find_columns(["thing", "label"], ITEM_COLUMNS[:2], OWN, wanted, optional=("title",), table="item_columns")
    assert str(raised.value) == (
        "own.csv:1: no columns 'item' for the item and 'lable' for the title. Did you mean 'label' for the title? Found"
        ' in the first line: thing, label; name them with item_columns={"item": NAME, "title": \'label\'}'
    )


def test_no_column_is_suggested_twice():
    assert likely_columns(["time"], {"timestamp": None, "time": None}) == {"timestamp": "time"}


@pytest.mark.parametrize(
    "names", [["UserID", "MovieID", "Rating", "Timestamp"], ["USER_ID", "ITEM_ID", "RATING", "TIMESTAMP"]]
)
def test_usual_names_are_found_in_capitals_and_small_letters(names):
    found = find_columns(names, RATING_COLUMNS, OWN, {}, optional=("timestamp",))
    assert found == dict(zip(RATING_COLUMNS, names, strict=True))


def test_exact_letters_come_first_and_two_spellings_are_no_answer():
    assert find_columns(["USER", "user"], ["user"], OWN, {}) == {"user": "user"}
    assert "no column 'user' for the user" in message(["USER", "User"], "user")
    assert "no column 'uid' for the user. Did you mean 'UID'?" in message(["UID"], "user", "uid")
