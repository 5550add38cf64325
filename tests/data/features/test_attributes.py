"""Attributes of users join the context."""

from dataclasses import replace

import numpy as np
import pytest
from feature_world import planted_log

from recpolicy.core.errors import DataError
from recpolicy.data.feature_columns import columns_from_records
from recpolicy.data.features.attributes import with_user_attributes

IDS = np.array(["ann", "bob", 3], object)
TABLE = columns_from_records([{"age": 30, "vip": True, "city": "Rome"}, {"age": 40, "vip": False}, {"vip": True}])


def log_of(users):
    return replace(planted_log(len(users)), user=np.array(users, object))


def test_the_rounds_get_their_users_values():
    context = with_user_attributes(log_of(["bob", "ann", "bob", 3]), IDS, TABLE).context
    assert context["user.age"][:3].tolist() == [40, 30, 40]
    assert np.isnan(context["user.age"][3])
    assert context["user.vip"].tolist() == [False, True, False, True]
    assert context["user.city"].tolist() == [None, "Rome", None, None]
    assert len(context) == 20 + 3


def test_unknown_users_have_missing_values():
    context = with_user_attributes(log_of(["ann", "eve", None, "3"]), IDS, TABLE).context
    assert context["user.age"].tolist() == pytest.approx([30, np.nan, np.nan, np.nan], nan_ok=True)
    assert context["user.vip"].tolist() == [True, None, None, None]


@pytest.mark.parametrize(
    ("change", "ids", "message"),
    [
        ({"user": None}, IDS, "the rounds name no users"),
        ({}, np.array(["ann", "bob", "ann"], object), "1 ids twice; expected one row per user"),
        ({"context": {"user.age": np.zeros(2)}}, IDS, r"a feature 'user\.age' already"),
    ],
)
def test_faults_are_one_line(change, ids, message):
    with pytest.raises(DataError, match=message):
        with_user_attributes(replace(log_of(["ann", "bob"]), **change), ids, TABLE)
