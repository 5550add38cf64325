"""The rows of actions: one for each different JSON, whether it is cached or not."""

import pytest

from recpolicy.core.errors import DataError
from recpolicy.server.db.rank_events import row_digest
from recpolicy.server.rank.action_rows import ActionRows, as_json

ACTIONS = [
    ("a", {"x": 1}), ("a", {"x": 1.0}), ("a", {"x": True}), ("a", {"x": "1"}), (1, {"x": 1}), ("1", {"x": 1}),
    ("a", {"x": 0.0}), ("a", {"x": -0.0}), ("a", {"x": None}), ("a", {}), ("a", {"x": 1, "y": 2}),
    ("a", {"y": 2, "x": 1}), ("a", {"x": [1, {"y": "é"}]}), ("a", {"x": [1, {"y": "e"}]}),
]  # fmt: skip


def test_cached_rows_are_those_of_the_json():
    rows = ActionRows()
    plain = [as_json({"id": identity, "features": features}) for identity, features in ACTIONS]
    for _ in range(2):
        found = rows.of(ACTIONS)
        assert [row.json for row in found] == plain
        assert [row.digest for row in found] == list(map(row_digest, plain))
    assert len(set(plain)) == len(ACTIONS)


def test_the_cache_is_bounded():
    rows = ActionRows(max_bytes=5_000)
    for number in range(100):
        rows.of([(number, {"x": 1.0})])
    assert 0 < rows._cache.size <= 5_000


def test_what_is_refused_is_not_cached():
    rows = ActionRows()
    for _ in range(2):
        with pytest.raises(DataError, match="a feature is NaN or infinite"):
            rows.of([("a", {"x": float("nan")})])
