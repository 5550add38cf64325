"""The encoder: values worked out by hand, missing and unseen values, faults, and laws of flattening."""

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.feature_extraction import FeatureHasher

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.features import FeatureEncoder, FeatureSchema, columns_from_records, hashed_names
from recpolicy.data.features.schema import (
    BooleanFeature,
    CategoryFeature,
    JsonFeature,
    NumberFeature,
    TagsFeature,
    TimestampFeature,
)

MONDAY_8 = 1_764_576_000_000  # 2025-12-01T08:00:00Z, a Monday


def fitted(feature, values, **settings):
    """Return an encoder of one context feature `x` that was fitted on the values."""
    columns = columns_from_records([{"x": value} for value in values], ["x"])
    return FeatureEncoder.fit(FeatureSchema(context={"x": feature}, action={}, **settings), columns, {})


def dense(encoder, *values):
    return encoder.dense_context(columns_from_records([{"x": value} for value in values], ["x"])).tolist()


def sparse(encoder, *values):
    """Return one dict of index -> value per row."""
    rows = encoder.sparse_context(columns_from_records([{"x": value} for value in values], ["x"]))
    pairs = list(zip(rows.index.tolist(), rows.value.tolist(), strict=True))
    return [dict(pairs[low:high]) for low, high in zip(rows.start[:-1], rows.start[1:], strict=True)]


def named(features):
    index, sign = hashed_names(list(features))
    return dict(zip(index.tolist(), (sign * np.array(list(features.values()))).tolist(), strict=True))


class TestNumbers:
    def test_standardizes_and_limits(self):
        encoder = fitted(NumberFeature(), [1, 3])  # mean 2, standard deviation 1
        assert dense(encoder, 2, 3, 1e9) == [[0], [1], [10]]
        assert encoder.context_names == ("context.x",)
        assert sparse(encoder, 3) == [named({"context.x": 1.0})]

    def test_a_missing_value_is_the_mean_and_has_a_column_if_the_training_part_misses_some(self):
        assert dense(fitted(NumberFeature(), [1, 3]), None) == [[0]]
        encoder = fitted(NumberFeature(), [1, 3, None])
        assert dense(encoder, 3, None, math.nan) == [[1, 0], [0, 1], [0, 1]]
        assert encoder.context_names == ("context.x", "context.x=missing")
        assert sparse(encoder, None) == [named({"context.x=missing": 1.0})]
        assert sparse(fitted(NumberFeature(), [1, 3]), None, 3)[0] == {}

    def test_clips_raw_numbers_before_it_fits(self):
        encoder = fitted(NumberFeature(clip=(0, 4)), [-100, 100])  # clipped to 0 and 4: mean 2, standard deviation 2
        assert dense(encoder, 4, 1e6, -7) == [[1], [1], [-1]]
        assert dense(fitted(NumberFeature(clip=(0, 4), scale="none"), [1]), 7, 3) == [[4], [3]]

    def test_bins_at_fixed_edges_and_at_quantiles(self):
        encoder = fitted(NumberFeature(scale="bins", edges=(6, 12)), [0])
        assert dense(encoder, 5.9, 6, 50, None) == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0]]
        assert sparse(encoder, 6) == [named({"context.x=bin 1": 1.0})]
        encoder = fitted(NumberFeature(scale="bins", bins=4), range(101))  # edges 25, 50, 75
        assert np.argmax(dense(encoder, 24, 25, 74, 1000), axis=1).tolist() == [0, 1, 2, 3]

    def test_a_constant_column_stays_finite(self):
        assert dense(fitted(NumberFeature(), [0.1] * 9), 0.1, 1.1) == [[0], [1]]

    def test_a_column_without_a_value_stays_finite(self):
        for scale in ("standard", "none", "bins"):
            assert np.isfinite(dense(fitted(NumberFeature(scale=scale), [None, None]), 3, None)).all()


class TestCategories:
    def test_one_hot_by_falling_frequency_with_zeros_for_unseen_values(self):
        encoder = fitted(CategoryFeature(), ["b", "a", "b", "c"])
        assert encoder.context_names == ("context.x=b", "context.x=a", "context.x=c")
        assert dense(encoder, "a", "z", None) == [[0, 1, 0], [0, 0, 0], [0, 0, 0]]
        assert sparse(encoder, "a", "z", None) == [named({"context.x=a": 1.0}), {}, {}]

    def test_a_missing_value_is_a_class_if_the_training_part_misses_some(self):
        encoder = fitted(CategoryFeature(), ["b", None])
        assert dense(encoder, None, "b", "z") == [[0, 1], [1, 0], [0, 0]]

    def test_rare_values_have_no_column(self):
        assert fitted(CategoryFeature(min_count=2), ["b", "a", "b"]).context_names == ("context.x=b",)
        assert fitted(CategoryFeature(max_values=1), ["b", "a", "b"]).context_names == ("context.x=b",)

    def test_hashed(self):
        encoder = fitted(CategoryFeature(encoding="hashed", size=8), ["b"])
        index, sign = hashed_names(["context.x=new"])
        expected = np.zeros(8)
        expected[index[0] % 8] = sign[0]
        assert dense(encoder, "new", None) == [expected.tolist(), [0] * 8]
        assert sparse(encoder, "new", None) == [named({"context.x=new": 1.0}), {}]

    def test_embedding_gives_one_hot_columns(self):
        encoder = fitted(CategoryFeature(encoding="embedding", dim=3), ["b", "b", "a", None])
        columns = columns_from_records([{"x": "a"}, {"x": "z"}, {"x": None}, {"x": "b"}], ["x"])
        assert encoder.dense_context(columns).tolist() == [[0, 1], [0, 0], [0, 0], [1, 0]]

    def test_numbers_and_flags_are_texts(self):
        encoder = fitted(CategoryFeature(), [3, 3, "a", True])
        assert dense(encoder, 3.0, "3", "a", True, "true", 1) == [
            [1, 0, 0],
            [1, 0, 0],
            [0, 1, 0],
            [0, 0, 1],
            [0, 0, 1],
            [0] * 3,
        ]
        columns = {"x": np.array([3.0, math.nan])}
        assert encoder.dense_context(columns).tolist() == [[1, 0, 0], [0, 0, 0]]


def test_booleans():
    assert dense(fitted(BooleanFeature(), [True, False]), True, 0, None) == [[1], [0], [0]]
    encoder = fitted(BooleanFeature(), [True, None])
    assert dense(encoder, True, None) == [[1, 0], [0, 1]]
    assert sparse(encoder, True, False, None) == [named({"context.x": 1.0}), {}, named({"context.x=missing": 1.0})]


class TestTimestamps:
    def test_hour_and_weekday_as_waves(self):
        encoder = fitted(TimestampFeature(), [0])
        (row,) = dense(encoder, MONDAY_8)
        weekday = 2 * math.pi * (8 / 24) / 7
        angle = 2 * math.pi * 8 / 24
        expected = [math.sin(angle), math.cos(angle), math.sin(weekday), math.cos(weekday)]
        assert row == pytest.approx(expected, abs=1e-6)
        assert encoder.context_names[0] == "context.x.hour.sin"

    @pytest.mark.parametrize(
        ("value", "hour", "weekday"),
        [
            ("2025-12-01T08:59:59", 8, 0),
            ("2025-12-01T08:00:00+02:00", 6, 0),
            ("1969-12-31T23:00:00Z", 23, 2),
            ("2025-11-30", 0, 6),
            (MONDAY_8, 8, 0),
        ],
    )
    def test_one_hot(self, value, hour, weekday):
        (row,) = dense(fitted(TimestampFeature(encoding="one_hot"), [0]), value)
        assert (row.index(1), row[24:].index(1), sum(row)) == (hour, weekday, 2)

    def test_units_offsets_and_missing_times(self):
        feature = TimestampFeature(encoding="one_hot", parts=("hour",), unit="s", utc_offset_hours=-9)
        rows = dense(fitted(feature, [0]), MONDAY_8 // 1000, None)
        assert rows[0].index(1) == 23
        assert sum(rows[1]) == 0
        column = {"x": np.array(["2025-12-01T09:30", "NaT"], "datetime64[us]")}
        assert fitted(feature, [0]).dense_context(column).sum(axis=1).tolist() == [1, 0]


def test_tags():
    encoder = fitted(TagsFeature(), [["rock", "jazz"], ["rock"], None, []])
    assert encoder.context_names == ("context.x=rock", "context.x=jazz")
    assert dense(encoder, ["jazz", "rock", "jazz"], ["folk"], None) == [[1, 1], [0, 0], [0, 0]]
    assert sparse(encoder, ["jazz", "folk"]) == [named({"context.x=jazz": 1.0})]
    encoder = fitted(TagsFeature(encoding="hashed", size=16), [["rock"]])
    assert sparse(encoder, ["folk"], None) == [named({"context.x=folk": 1.0}), {}]
    assert np.abs(dense(encoder, ["folk", "rock"])).sum() in (0, 2)


LEAVES = st.floats(-9, 9) | st.text(max_size=5) | st.booleans() | st.none()
NESTED = st.recursive(LEAVES, lambda inner: st.dictionaries(st.text("abc", min_size=1, max_size=3), inner, max_size=4))


class TestJson:
    def test_leaves_have_names_as_in_other_systems(self):
        value = {"page": "home", "depth": 3, "user": {"vip": True, "age": None}, "tags": ["a", "b"], "xs": [0.5, 2]}
        leaves = {
            "context.x.page=home": 1.0,
            "context.x.depth": 3.0,
            "context.x.user.vip": 1.0,
            "context.x.tags=a": 1.0,
            "context.x.tags=b": 1.0,
            "context.x.xs.0": 0.5,
            "context.x.xs.1": 2.0,
        }
        encoder = fitted(JsonFeature(size=32), [value])
        assert sparse(encoder, value, None) == [named(leaves), {}]
        expected = FeatureHasher(n_features=32).transform([leaves]).toarray()
        assert dense(encoder, value) == expected.tolist()

    @given(NESTED, st.randoms())
    def test_the_order_of_keys_does_not_matter(self, value, random):
        def shuffled(part):
            if not isinstance(part, dict):
                return part
            return {key: shuffled(part[key]) for key in random.sample(list(part), len(part))}

        encoder = fitted(JsonFeature(size=32), [{}])
        assert dense(encoder, {"top": shuffled(value)}) == dense(encoder, {"top": value})

    def test_nesting_and_points_in_names_are_the_same(self):
        encoder = fitted(JsonFeature(), [{}])
        assert (
            sparse(encoder, {"a": {"b": {"c": 2}}})
            == sparse(encoder, {"a.b": {"c": 2}})
            == sparse(encoder, {"a.b.c": 2})
        )

    def test_a_number_that_is_not_finite_is_refused(self):
        with pytest.raises(DataError, match=r"context feature 'x' \(json\): row 0: context\.x\.a is inf"):
            fitted(JsonFeature(), []).dense_context({"x": np.array([{"a": math.inf}])})


EVERY_TYPE = FeatureSchema(
    context={
        "age": NumberFeature(),
        "device.os": CategoryFeature(encoding="embedding"),
        "vip": BooleanFeature(),
        "time": TimestampFeature(),
        "session": JsonFeature(size=16),
    },
    action={"id": CategoryFeature(), "tags": TagsFeature(), "price": NumberFeature(scale="bins", bins=3)},
)
CONTEXTS = [
    {"age": 30, "device": {"os": "ios"}, "vip": True, "time": MONDAY_8, "session": {"page": "home"}},
    {"age": None, "device": {"os": "web"}, "vip": False, "session": {"page": "cart", "n": 2}},
    {"age": 50, "device.os": "ios", "time": "2025-12-03T12:00:00"},
]
ACTIONS = [
    {"id": "a", "tags": ["x", "y"], "price": 1},
    {"id": "b", "tags": [], "price": 2.5},
    {"id": 7, "price": 9},
]


def every_type():
    context = columns_from_records(CONTEXTS, [*EVERY_TYPE.context, "device"])
    action = columns_from_records(ACTIONS, list(EVERY_TYPE.action))
    return FeatureEncoder.fit(EVERY_TYPE, context, action), context, action


def test_an_encoder_survives_json_with_its_columns_and_its_digest():
    encoder, context, action = every_type()
    restored = FeatureEncoder.from_dict(json.loads(json.dumps(encoder.as_dict())))
    assert restored == encoder
    assert restored.digest == encoder.digest
    assert (restored.dense_context(context) == encoder.dense_context(context)).all()
    assert (restored.sparse_action(action).index == encoder.sparse_action(action).index).all()
    assert encoder.dense_context(context).shape == (3, len(encoder.context_names))
    assert encoder.dense_action(action).dtype == np.float32


def test_the_digest_depends_on_the_training_part():
    assert fitted(NumberFeature(), [1, 3]).digest != fitted(NumberFeature(), [1, 4]).digest


def test_one_row_gets_what_it_gets_among_many():
    encoder, context, action = every_type()
    for row in range(3):
        single = columns_from_records([CONTEXTS[row]], encoder.names("context"))
        assert (encoder.dense_context(single)[0] == encoder.dense_context(context)[row]).all()
        many, one = (
            encoder.sparse_action(action),
            encoder.sparse_action(columns_from_records([ACTIONS[row]], encoder.names("action"))),
        )
        assert one.index.tolist() == many.index[many.start[row] : many.start[row + 1]].tolist()


def test_no_rows_and_no_features():
    encoder, _, _ = every_type()
    nothing = columns_from_records([], encoder.names("context"))
    assert encoder.dense_context(nothing).shape == (0, len(encoder.context_names))
    assert encoder.sparse_context(nothing).start.tolist() == [0]
    encoder = fitted(NumberFeature(), [1.0])
    assert encoder.dense_action({"id": np.array(["a", "b"], object)}).shape == (2, 0)
    assert encoder.sparse_action({"id": np.array(["a", "b"], object)}).start.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("feature", "value", "message"),
    [
        (NumberFeature(), "12", r"context feature 'x' \(number\): row 1 is '12'; expected a number, or null"),
        (NumberFeature(), [1], r"row 1 is \[1\.0\]; expected a number, or null"),
        (NumberFeature(), -1.1e15, "row 1 is -1.1e.15; expected a number from -1e15 to 1e15, or null"),
        (NumberFeature(), 2**60, "row 1 is '1152.*'; expected a number, or null"),
        (BooleanFeature(), 2, "row 1 is 2; expected true, false, 1, 0 or null"),
        (BooleanFeature(), "true", "row 1 is 'true'; expected a number, or null"),
        (CategoryFeature(), {"a": 1}, r"row 1 is {'a': 1\.0}; expected a text or a whole number, or null"),
        (CategoryFeature(), ["a"], r"row 1 is \['a'\]; expected a text"),
        (TimestampFeature(), "yesterday", "row 1 is 'yesterday'; expected a time such as 2026-11-30T08:00:00, or null"),
        (TimestampFeature(), {"a": 1}, r"row 1 is {'a': 1\.0}; expected a number"),
        (TagsFeature(), "rock", "row 1 is 'rock'; expected a list of texts, or null"),
        (TagsFeature(), [1], r"row 1 is \[1\.0\]; expected a list of texts, or null"),
        (JsonFeature(), {"a": 1e16}, r"row 1: context\.x\.a is 1e\+16; expected a number from -1e15 to 1e15"),
    ],
)
def test_a_value_of_the_wrong_type_is_one_line(feature, value, message):
    encoder = fitted(feature, [None])
    columns = columns_from_records([{"x": None}, {"x": value}], ["x"])
    for encode in (encoder.dense_context, encoder.sparse_context, encoder.check):
        with pytest.raises(DataError, match=message):
            encode(columns)


def test_a_column_of_the_wrong_type_is_one_line():
    with pytest.raises(DataError, match="the column holds datetime64"):
        fitted(NumberFeature(), [1]).dense_context({"x": np.array(["2025-12-01"], "datetime64[s]")})
    with pytest.raises(DataError, match=r"no context feature named 'x' in the data, but in the schema\. Found: y"):
        fitted(NumberFeature(), [1]).dense_context({"y": np.zeros(1)})
    encoder, context, _ = every_type()
    with pytest.raises(DataError, match=r"the columns of features have \[2, 3\] rows"):
        encoder.dense_context({**context, "age": np.zeros(2)})


def test_a_damaged_encoder_is_refused():
    plain = every_type()[0].as_dict()
    for damage, message in [
        ({"context": {}}, "context: expected the fitted values of age, device.os, vip"),
        ({"schema": {**plain["schema"], "bits": 40}}, "bits is 40"),
        ({"context": {**plain["context"], "age": {"mean": "x"}}}, "context.age: mean is 'x'"),
        ({"context": {**plain["context"], "age": {"std": 0}}}, "std is 0"),
        ({"context": {**plain["context"], "age": 3}}, "expected fitted values by name"),
    ]:
        with pytest.raises(ConfigError, match=message.replace("[", r"\[").replace("]", r"\]")):
            FeatureEncoder.from_dict({**plain, **damage})
    with pytest.raises(ConfigError, match="expected the keys schema, context and action"):
        FeatureEncoder.from_dict({"schema": {}})
