"""Attributes of users and items of a ratings table: columns by hand, the train part, and what is refused."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.features import schema_from_dict
from recpolicy.data.features.attributes import attribute_columns, encode_attributes
from recpolicy.data.ratings import Ratings

SCHEMA = {
    "context": {"age": {"type": "number", "scale": "none"}, "city": {"type": "category"}},
    "action": {"genres": {"type": "tags"}, "id": {"type": "category"}},
}


def ratings(**changes) -> Ratings:
    """Three users and three items; the last of both has no rating."""
    parts = {
        "user": np.array([0, 1, 0], np.int32), "item": np.array([0, 0, 1], np.int32),
        "rating": np.array([1, 5, 3], np.float32), "timestamp": None,
        "users": pd.DataFrame(
            {"user_id": [7, 8, 9], "age": pd.array([30, None, 50], "Int64"), "city": ["A", None, "B"]}
        ),
        "items": pd.DataFrame(
            {
                "item_id": ["x", "y", "z"], "title": ["X", "Y", "Z"], "genres": ["Drama|War", "", "Drama|Noir"],
                "year": pd.array([1990, 1991, None], "Int64"),
            }
        ),
        "scale": (1.0, 5.0), "name": "three",
    } | changes  # fmt: skip
    return Ratings(**parts)


def test_users_and_items_have_the_columns_of_the_train_part():
    """Only the users 7 and 8 and the items x and y have ratings: neither B nor Noir nor z is known."""
    attributes = encode_attributes(schema_from_dict(SCHEMA), ratings())
    assert attributes.encoder.context_names == ("context.age", "context.age=missing", "context.city=A",
                                                "context.city=missing")  # fmt: skip
    np.testing.assert_array_equal(attributes.user, [[30, 0, 1, 0], [0, 1, 0, 1], [50, 0, 0, 0]])
    assert attributes.encoder.action_names == ("action.genres=Drama", "action.genres=War", "action.id=x", "action.id=y")
    np.testing.assert_array_equal(attributes.item, [[1, 1, 1, 0], [0, 0, 0, 1], [1, 0, 0, 0]])


def test_genres_are_tags_and_missing_values_are_none():
    table = ratings()
    assert attribute_columns(table.items, "item_id")["genres"].tolist() == [["Drama", "War"], [], ["Drama", "Noir"]]
    columns = attribute_columns(table.users, "user_id")
    assert columns["city"].tolist() == ["A", None, "B"]
    assert np.isnan(columns["age"][1])
    assert columns["id"].tolist() == [7, 8, 9]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ({}, "the schema has no features"),
        ({"context": {"hour": {"type": "number"}}}, "the table of users has no column 'hour'. Found: age, city."),
        (
            {"action": {"price": {"type": "number"}}},
            "the table of items has no column 'price'. Found: genres, title, year.",
        ),
        ({"context": {"city": {"type": "number"}}}, "context feature 'city'"),
    ],
)
def test_what_the_tables_lack_is_named(schema, message):
    with pytest.raises((ConfigError, DataError), match=message):
        encode_attributes(schema_from_dict(schema), ratings())


def test_one_part_may_be_empty():
    attributes = encode_attributes(schema_from_dict({"context": SCHEMA["context"]}), ratings())
    assert attributes.user.shape == (3, 4)
    assert attributes.item.shape == (3, 0)


def test_values_of_a_user_without_ratings_do_not_move_the_scale():
    table = ratings()
    older = replace(table, users=table.users.assign(age=pd.array([30, None, 5000], "Int64")))
    schema = schema_from_dict({"context": {"age": {"type": "number"}}})
    first, second = (encode_attributes(schema, each) for each in (table, older))
    assert first.encoder.digest == second.encoder.digest
