"""The tables of an artifact come back as they were written, without pandas."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recpolicy.core.errors import ArtifactError
from recpolicy.inference.lookup_tables import LookupTables, lookup_tables, read_tables, write_tables

ITEMS = pd.DataFrame(
    {
        "item_id": ["m,1", 'm"2', "mé"],
        "title": pd.Series(["One (1990)", None, "Drei"], dtype="str"),
        "year": pd.array([1990, None, 2001], dtype="Int64"),
        "genres": pd.Series(["Drama|Action", "", "Drama"], dtype="str"),
    }
)
USERS = pd.DataFrame({"user_id": [3, 1], "age": [20, 30]})


def same(one: LookupTables, other: LookupTables) -> bool:
    return (
        [one.user_ids, one.item_ids, one.titles, one.genre_names]
        == [other.user_ids, other.item_ids, other.titles, other.genre_names]
        and np.array_equal(one.years, other.years, equal_nan=True)
        and np.array_equal(one.genres, other.genres)
    )


def test_tables_are_the_columns_of_the_frames():
    tables = lookup_tables(USERS, ITEMS)
    assert (tables.user_ids, tables.item_ids) == ([3, 1], ["m,1", 'm"2', "mé"])
    assert tables.titles == ["One (1990)", None, "Drei"]
    np.testing.assert_array_equal(tables.years, [1990, np.nan, 2001])
    assert tables.genre_names == ["Action", "Drama"]
    assert tables.genres.tolist() == [[True, True], [False, False], [False, True]]


def test_they_come_back_as_they_were_written(tmp_path):
    write_tables(lookup_tables(USERS, ITEMS), tmp_path)
    read = read_tables(tmp_path, 2, 3)
    assert same(read, lookup_tables(USERS, ITEMS))
    assert {type(user) for user in read.user_ids} == {int}
    assert (read.genres.dtype, read.years.dtype) == (np.dtype(bool), np.dtype(float))


@given(st.lists(st.sets(st.sampled_from(["a", "b", "c"])), min_size=1, max_size=6), st.data())
def test_any_tables_come_back(tmp_path_factory, genres, data):
    names = sorted(set().union(*genres))
    text = st.lists(st.text(max_size=5), min_size=len(genres), max_size=len(genres))
    identifier = st.integers(-(2**63), 2**63 - 1) | st.text(min_size=1, max_size=5)
    ids = st.lists(identifier, min_size=len(genres), max_size=len(genres), unique=True)
    years = st.lists(st.none() | st.integers(1800, 2100), min_size=len(genres), max_size=len(genres))
    tables = LookupTables(
        user_ids=data.draw(st.lists(identifier, unique=True)), item_ids=data.draw(ids),
        titles=data.draw(text), years=np.array(data.draw(years), np.float64), genre_names=names,
        genres=np.array([[name in row for name in names] for row in genres], bool).reshape(len(genres), len(names)),
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("tables")
    write_tables(tables, folder)
    assert same(read_tables(folder, len(tables.user_ids), len(genres)), tables)


@pytest.mark.parametrize(
    ("part", "value"), [("genres", [[7]]), ("genres", None), ("year", ["soon"]), ("genre_names", 3), ("title", ...)]
)
def test_tables_of_another_kind_are_refused(tmp_path, part, value):
    write_tables(lookup_tables(USERS, ITEMS), tmp_path)
    body = json.loads((tmp_path / "tables.json").read_text())
    if value is ...:
        del body[part]
    else:
        body[part] = value
    (tmp_path / "tables.json").write_text(json.dumps(body))
    with pytest.raises(ArtifactError, match=part):
        read_tables(tmp_path, 2, 3)
