"""Ratings of one's own: what is understood, and how everything else is refused."""

import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.ratings_files import ratings_from_frame, read_table

GOOD = "user,item,rating,timestamp\nann,7,4,100\nbob,9,2.5,200\nann,9,5,300\n"


def written(folder, text, name="mine.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_csv_is_read_with_ids_as_they_are(tmp_path):
    ratings = read_table(written(tmp_path, GOOD))
    assert ratings.name == "mine"
    assert ratings.users["user_id"].tolist() == ["ann", "bob"]
    assert ratings.items["item_id"].tolist() == [7, 9]
    assert ratings.items["title"].tolist() == ["7", "9"]
    assert ratings.items["genres"].tolist() == ["", ""]
    assert ratings.items["year"].isna().all()
    assert [ratings.user.tolist(), ratings.item.tolist()] == [[0, 1, 0], [0, 1, 1]]
    assert ratings.rating.tolist() == [4, 2.5, 5]
    assert ratings.timestamp.tolist() == [100, 200, 300]


def test_same_table_in_every_format_is_the_same_ratings(tmp_path):
    frame = pd.read_csv(written(tmp_path, GOOD))
    frame.to_parquet(tmp_path / "mine.parquet")
    paths = [
        written(tmp_path, GOOD.replace("\n", "\r\n"), "dos.csv"),
        written(tmp_path, b"\xef\xbb\xbf" + GOOD.encode(), "bom.csv"),
        written(tmp_path, GOOD.replace(",", "\t"), "mine.tsv"),
        written(tmp_path, GOOD.replace("ann", '"ann"').replace("\nbob", "\n\nbob"), "quoted.csv"),
        written(tmp_path, gzip.compress(GOOD.encode()), "mine.csv.gz"),
        tmp_path / "mine.parquet",
    ]
    digests = [read_table(path).digest for path in paths]
    assert set(digests) == {read_table(tmp_path / "mine.csv").digest}
    assert ratings_from_frame(frame).digest == digests[0]


def test_columns_are_mapped_found_under_usual_names_and_others_ignored(tmp_path):
    path = written(tmp_path, 'stars,comment,uid,item_id\n5,"two\nlines",u1,m1\n1,,u1,m2\n')
    ratings = read_table(path, columns={"user": "uid", "rating": "stars"})
    assert ratings.rating.tolist() == [5, 1]
    assert ratings.timestamp is None


def test_zero_padded_ids_stay_text(tmp_path):
    ratings = read_table(written(tmp_path, "user,item,rating\n007,1,3\n7,1,4\n"))
    assert ratings.users["user_id"].tolist() == ["007", "7"]


@given(st.lists(st.tuples(st.integers(-(10**12), 10**12), st.integers(0, 99)), min_size=1, max_size=30, unique=True))
def test_rows_lead_back_to_their_ids(pairs):
    user, item = (list(column) for column in zip(*pairs, strict=True))
    ratings = ratings_from_frame(pd.DataFrame({"user": user, "item": item, "rating": 3.0}))
    assert ratings.users["user_id"].to_numpy()[ratings.user].tolist() == user
    assert ratings.items["item_id"].to_numpy()[ratings.item].tolist() == item
    assert ratings.user_rows(user).tolist() == ratings.user.tolist()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "mine.csv: the file is empty"),
        ("user,item,rating\n", "mine.csv: the file is empty"),
        ("user,item,rating\na,1,5\na,2,6\n", r"mine.csv:3: rating 6 is not in 1\.\.5.*scale=\(1, 6\)"),
        ("user,item,rating\na,1,0.5\n", r"mine.csv:2: rating 0.5 is not in 1\.\.5.*scale=\(0.5, 5\)"),
        ("user,item,rating\na,1,5\n\na,2,nan\n", "mine.csv:4: rating 'nan' is not a number"),
        ("user,item,rating\na,1,inf\n", "mine.csv:2: rating 'inf' is not a number"),
        ("user,item,rating\na,1,\n", "mine.csv:2: rating is missing"),
        ("user,item,rating\na,1,good\n", "mine.csv:2: rating 'good' is not a number"),
        ('user,item,rating\n"a\nb",1,4\nc,1,"4,5"\n', "mine.csv:4: rating '4,5' is not a number"),
        ("user,item,rating\n,1,4\n", "mine.csv:2: user id is missing"),
        ("user,item,rating\na, ,4\n", "mine.csv:2: item id is missing"),
        ("user,item,rating\na,1,4\nb,1,4\na,1,5\n", "mine.csv:4: user a rated item 1 before, at .*mine.csv:2"),
        ("user,item,rating\na,1,4\nb,1\n", "mine.csv:3: 2 fields separated by ',' in 'b,1', expected 3"),
        (
            "user;item;rating\na;1;4\n",
            "mine.csv:1: .* one column when split at ',', and contains ';'; pass separator=\";\"",
        ),
        ("user\titem\trating\na\t1\t4\n", r"mine.csv:1: .*and contains '\\t'"),
        (
            "usr,item,rating\na,1,4\n",
            "mine.csv:1: no column 'user' for the user. Did you mean 'usr'.*columns={\"user\": 'usr'}",
        ),
        ("196,242,3\n22,377,1\n", "mine.csv:1: no columns 'user'.*Found in the first line: 196, 242, 3"),
        ("user,user,item,rating\na,b,1,4\n", "mine.csv: two columns named 'user'"),
        ("user,item,rating,timestamp\na,1,4,yesterday\n", "mine.csv:2: timestamp 'yesterday' is not a number"),
        ("user,item,rating,timestamp\na,1,4,1147880044000\n", "mine.csv:2: timestamp '1147880044000'.*milliseconds"),
        ("user,item,rating,timestamp\na,1,4,2020-01-01\nb,1,4,2020-13-01\n", "mine.csv:3: timestamp '2020-13-01'"),
        (b"user,item,rating\na,1,4\n\xe9,1,4\n", "mine.csv:3: not utf-8 text"),
        (b"\x00\x01PAR", "mine.csv"),
    ],
)
def test_what_is_wrong_is_named_by_file_line_and_value(tmp_path, text, message):
    path = written(tmp_path, text)
    with pytest.raises(DataError, match=message):
        read_table(path)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        ({"user": ["a", "b"], "item": [1, 2], "rating": [3.0, np.nan]}, r"mine.parquet: row 2: rating is missing"),
        ({"user": ["a", None], "item": [1, 2], "rating": [3, 4]}, r"mine.parquet: row 2: user id is missing"),
        (
            {"user": [1.0, 1.5], "item": [1, 2], "rating": [3, 4]},
            r"mine.parquet: row 2: user id 1.5 is not an integer",
        ),
        ({"user": [True, False], "item": [1, 2], "rating": [3, 4]}, r"mine.parquet: user ids are of type bool"),
        ({"user": [1, 1], "item": [2, 2], "rating": [3, 4]}, r"mine.parquet: row 2: user 1 rated .* row 1"),
        ({"user": [1], "item": [2]}, r"mine.parquet: no column 'rating'"),
    ],
)
def test_parquet_rows_are_named_by_number(tmp_path, frame, message):
    pd.DataFrame(frame).to_parquet(tmp_path / "mine.parquet")
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / "mine.parquet")


def test_parquet_knows_times_categories_and_whole_floats(tmp_path):
    frame = pd.DataFrame(
        {
            "user": pd.Series(["a", "b"], dtype="category"),
            "item": [10.0, 20.0],
            "rating": np.array([1, 5], np.int8),
            "timestamp": pd.to_datetime(["1970-01-01 00:01:00", "1970-01-02 00:00:00"]),
        }
    )
    frame.to_parquet(tmp_path / "mine.parquet")
    ratings = read_table(tmp_path / "mine.parquet")
    assert ratings.users["user_id"].tolist() == ["a", "b"]
    assert ratings.items["item_id"].tolist() == [10, 20]
    assert ratings.timestamp.tolist() == [60, 86400]


def test_dates_are_utc_unless_they_say_otherwise(tmp_path):
    rows = "a,1,4,1970-01-02\nb,1,4,1970-01-02T00:00:00+01:00\nc,1,4,1970-01-02 00:00:01.9Z\n"
    ratings = read_table(written(tmp_path, "user,item,rating,timestamp\n" + rows))
    assert ratings.timestamp.tolist() == [86400, 82800, 86401]


def test_missing_unreadable_and_foreign_files_are_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.csv: no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(DataError, match=r"none\.parquet: no such file"):
        read_table(tmp_path / "none.parquet")
    with pytest.raises(DataError, match=r"mine\.parquet: not a readable Parquet file"):
        read_table(written(tmp_path, GOOD, "mine.parquet"))
    with pytest.raises(DataError, match=r"mine\.csv\.gz: cannot be read"):
        read_table(written(tmp_path, GOOD, "mine.csv.gz"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="empty: neither Parquet nor CSV files in this folder"):
        read_table(tmp_path / "empty")


def test_options_are_checked(tmp_path):
    path = written(tmp_path, GOOD)
    with pytest.raises(ConfigError, match=r"no rating column named 'usr'\. Did you mean 'user'"):
        read_table(path, columns={"usr": "user"})
    with pytest.raises(DataError, match="no column 'uid' for the user"):
        read_table(path, columns={"user": "uid"})
    with pytest.raises(ConfigError, match="expected two finite numbers, the lowest"):
        read_table(path, scale=(5, 1))
    assert read_table(written(tmp_path, "user;item;rating\na;1;9\n", "x.txt"), separator=";", scale=(0, 10)).scale == (
        0,
        10,
    )


def test_titles_genres_and_attributes_are_joined(tmp_path):
    items = written(
        tmp_path, "movieId,title,genres,year\n9,Nine,Drama,\n7,Seven (1995),Crime|Drama,1996\n", "items.csv"
    )
    users = written(tmp_path, "user_id,age\nbob,30\nann,40\ncid,50\n", "users.csv")
    ratings = read_table(written(tmp_path, GOOD), users=users, items=items)
    assert ratings.shape == (3, 2)
    assert ratings.items["title"].to_numpy()[ratings.item].tolist() == ["Seven (1995)", "Nine", "Nine"]
    assert ratings.items["genres"].tolist() == ["Drama", "Crime|Drama"]
    assert ratings.items["year"].isna().tolist() == [True, False]
    assert ratings.items["year"][1] == 1996
    assert ratings.users["age"].to_numpy()[ratings.user].tolist() == ["40", "30", "40"]
    frame = pd.DataFrame({"item_id": [7, 9], "title": ["Seven (1995)", "Nine"]})
    assert read_table(tmp_path / "mine.csv", items=frame).items["year"][0] == 1995


def test_joined_tables_are_checked(tmp_path):
    path = written(tmp_path, GOOD)
    with pytest.raises(DataError, match=r"mine\.csv:3: item id 9 is not in the table of items"):
        read_table(path, items=pd.DataFrame({"item_id": [7]}))
    twice = written(tmp_path, "item,title\n7,a\n9,b\n7,c\n", "items.csv")
    with pytest.raises(DataError, match=r"items\.csv:4: item id 7 is already at .*items\.csv:2"):
        read_table(path, items=twice)
    with pytest.raises(DataError, match=r"years\.csv:3: year 'soon' is not a number"):
        read_table(path, items=written(tmp_path, "item,year\n7,1990\n9,soon\n", "years.csv"))


def test_ids_of_another_type_than_the_joined_table_are_compared_by_spelling(tmp_path):
    with pytest.raises(DataError, match=r"mine\.csv:3: item id 9 is not in the table of items"):
        read_table(written(tmp_path, GOOD), items=pd.DataFrame({"item_id": ["7", "nine"]}))
