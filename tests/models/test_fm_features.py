import dataclasses

import numpy as np
import pandas as pd
from synthetic_ratings import table

from recpolicy.models.fm_features import item_features, user_features

RATINGS = table(np.array([0, 0, 0, 0, 1]), np.array([0, 1, 2, 3, 1]), np.full(5, 3.0), (4, 5))
SETTINGS = {"attributes": True, "bins": 2, "implicit": True}


def with_attributes():
    users = RATINGS.users.assign(
        age=[10, 20, 30, 40],
        job=["x", "y", None, "x"],
        zip_code=list("abcd"),
        same=["one"] * 4,
        age_gap=[1.0, np.nan, 3, 4],
    )
    items = RATINGS.items.assign(
        year=pd.array([1990, 1991, 1995, 1996, pd.NA], dtype="Int64"), genres=["A|B", "", "B", "A", ""]
    )
    return dataclasses.replace(RATINGS, users=users, items=items)


def test_without_attributes_only_ids_and_implicit_sets_are_left():
    users, items = user_features(RATINGS, max_levels=50, **SETTINGS), item_features(RATINGS, **SETTINGS)
    assert (users.names, users.sizes) == (("id", "rated items"), (4, 5))
    assert (items.names, items.sizes) == (("id", "rating users"), (5, 4))


def test_an_implicit_set_has_norm_one_and_is_empty_without_ratings():
    users = user_features(RATINGS, max_levels=50, **SETTINGS)
    implicit = users.matrix[:, 4:].toarray()
    np.testing.assert_allclose(implicit[0], [0.5, 0.5, 0.5, 0.5, 0])
    np.testing.assert_allclose((implicit**2).sum(axis=1), [1, 1, 0, 0])


def test_attributes_become_groups_and_useless_ones_are_left_out():
    users = user_features(with_attributes(), max_levels=3, **SETTINGS)
    assert users.names == ("id", "age", "job", "age_gap", "rated items")  # zip_code has 4 values, same has 1
    assert users.sizes == (4, 2, 2, 2, 5)
    np.testing.assert_array_equal(users.matrix[:, 4:6].toarray(), [[1, 0], [1, 0], [0, 1], [0, 1]])  # age
    np.testing.assert_array_equal(users.matrix[:, 6:8].toarray(), [[1, 0], [0, 1], [0, 0], [1, 0]])  # job, one missing
    np.testing.assert_array_equal(users.matrix[:, 8:10].toarray().sum(axis=1), [1, 0, 1, 1])


def test_items_have_year_bins_and_genres():
    items = item_features(with_attributes(), **SETTINGS)
    assert (items.names, items.sizes) == (("id", "year", "genres", "rating users"), (5, 2, 2, 4))
    np.testing.assert_array_equal(items.matrix[:, 5:7].toarray(), [[1, 0], [1, 0], [0, 1], [0, 1], [0, 0]])
    np.testing.assert_array_equal(items.matrix[:, 7:9].toarray(), [[1, 1], [0, 0], [0, 1], [1, 0], [0, 0]])


def test_switched_off_groups_are_absent():
    settings = {"attributes": False, "bins": 2, "implicit": False}
    assert user_features(with_attributes(), max_levels=3, **settings).names == ("id",)
    assert item_features(with_attributes(), **settings).names == ("id",)
