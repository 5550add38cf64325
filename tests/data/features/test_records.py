"""Records of requests are encoded as their columns are: the same bits, the same refusals."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recpolicy.core.errors import DataError
from recpolicy.data.feature_columns import columns_from_records, object_array
from recpolicy.data.features import FeatureEncoder, schema_from_dict
from recpolicy.data.features.records import encode_records

SCHEMA = schema_from_dict({
    "context": {
        "standard": {"type": "number"}, "device": {"type": "category"}, "raw": {"type": "number", "scale": "none"},
        "rarely": {"type": "number"}, "bins": {"type": "number", "scale": "bins", "edges": [0.0, 1.0]},
        "bounded": {"type": "number", "clip": [-1, 1]}, "nested.size": {"type": "number"},
        "all": {"type": "json", "size": 8}, "flag": {"type": "boolean"},
    },
    "action": {"id": {"type": "number"}, "size": {"type": "number"}, "tags": {"type": "tags"}},
})  # fmt: skip
TRAINING = [
    {"standard": number, "raw": 3 * number, "bounded": number / 3, "device": "mobile", "nested": {"size": number},
     "bins": number, **({"rarely": number} if number > 2 else {}), "flag": number > 3}
    for number in range(7)
]  # fmt: skip
ENCODER = FeatureEncoder.fit(
    SCHEMA,
    columns_from_records(TRAINING, ("standard", "device", "raw", "rarely", "bins", "bounded", "nested", "all", "flag")),
    {"id": np.arange(3.0), **columns_from_records([{"size": 1}, {"size": 5}, {"tags": ["new"]}], ("size", "tags"))},
)
NUMBERS = st.one_of(
    st.floats(-1e15, 1e15), st.integers(-(10**15), 10**15), st.sampled_from([0.0, -0.0, None, True, False])
)
CONTEXTS = st.fixed_dictionaries({}, optional={
    **dict.fromkeys(("standard", "raw", "rarely", "bins", "bounded"), NUMBERS),
    "nested": st.fixed_dictionaries({}, optional={"size": NUMBERS}), "device": st.sampled_from(["mobile", "tv", None]),
    "all": st.dictionaries(st.text(max_size=3), NUMBERS, max_size=2), "flag": st.sampled_from([True, False, None]),
})  # fmt: skip
ACTIONS = st.fixed_dictionaries({}, optional={
    "size": NUMBERS, "tags": st.sampled_from([["new"], [], ["new", "old"]]), "id": st.just("another feature")
})  # fmt: skip


def by_columns(part, records, sparse, ids=None):
    columns = columns_from_records(records, ENCODER.names(part))
    return ENCODER.encode(part, columns if ids is None else {**columns, "id": ids}, sparse=sparse)


def assert_same_bits(found, expected):
    for one, other in zip(parts_of(found), parts_of(expected), strict=True):
        assert one.dtype == other.dtype
        assert one.shape == other.shape
        assert one.tobytes() == other.tobytes()


def parts_of(rows):
    return [rows] if isinstance(rows, np.ndarray) else [rows.start, rows.index, rows.value]


@pytest.mark.parametrize("sparse", [False, True])
@settings(max_examples=100, deadline=None)
@given(records=st.lists(CONTEXTS, min_size=1, max_size=4))
def test_contexts(records, sparse):
    assert_same_bits(encode_records(ENCODER, "context", records, sparse=sparse), by_columns("context", records, sparse))


@pytest.mark.parametrize("sparse", [False, True])
@settings(max_examples=50, deadline=None)
@given(records=st.lists(ACTIONS, min_size=1, max_size=4))
def test_actions_with_a_feature_that_is_their_id(records, sparse):
    ids = object_array(list(range(len(records))))
    found = encode_records(ENCODER, "action", records, sparse=sparse, ids=ids)
    assert_same_bits(found, by_columns("action", records, sparse, ids))


@pytest.mark.parametrize("value", ["late", 1e16, float("inf"), 10**400, 2**53 + 1, [1], {}])
@pytest.mark.parametrize("name", ["standard", "rarely", "bins"])
def test_what_is_no_number_has_the_refusal_of_columns(name, value):
    records = [{"standard": 1}, {"standard": 2, name: value}]
    with pytest.raises(DataError) as expected:
        by_columns("context", records, sparse=False)
    with pytest.raises(DataError) as caught:
        encode_records(ENCODER, "context", records, sparse=False)
    assert str(caught.value) == str(expected.value)
    assert name in str(caught.value)


def test_a_part_without_features_has_a_row_for_each_record():
    encoder = FeatureEncoder.fit(schema_from_dict({"context": {"x": {"type": "number"}}}), {"x": np.arange(3.0)}, {})
    ids = object_array(["a", "b"])
    assert encode_records(encoder, "action", [{}, {}], sparse=False, ids=ids).shape == (2, 0)
    assert len(encode_records(encoder, "action", [{}, {}], sparse=True, ids=ids)) == 2
