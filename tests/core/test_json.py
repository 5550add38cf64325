"""JSON values: NumPy becomes plain Python, and nothing that is not finite stays a number."""

import json

import numpy as np

from recpolicy.core.json import to_plain


def test_arrays_scalars_and_tuples_become_lists_and_numbers():
    value = {"a": np.array([[1, 2]]), 3: (np.float32(0.5), np.int64(4), "x", None, True)}
    assert to_plain(value) == {"a": [[1, 2]], "3": [0.5, 4, "x", None, True]}
    json.dumps(to_plain(value), allow_nan=False)


def test_what_is_not_finite_becomes_none_or_keeps_its_sign():
    values = [float("nan"), np.inf, -np.inf, np.array([np.nan, 1.0])]
    assert to_plain(values) == [None, None, None, [None, 1.0]]
    assert to_plain(values, keep_infinity=True) == [None, "inf", "-inf", [None, 1.0]]
