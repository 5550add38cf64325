"""The rows of actions: their JSON, as the database stores it, and its digest.

Most applications offer the same actions again and again, so the rows of earlier requests are kept. To write and digest
the JSON of 50 actions takes three times as long as to find them here.
"""

import marshal
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic_core import to_json

from recpolicy.core.errors import DataError
from recpolicy.core.lru import LRUCache
from recpolicy.data.feature_columns import MAX_DEPTH
from recpolicy.inference.rank_request import Action
from recpolicy.server.db.rank_events import row_digest
from recpolicy.server.json_output import encode

CACHE_BYTES = 8 << 20
"""Some 5,000 actions of 30 numbers."""
_ENTRY_BYTES = 500
_EXACT_FORM = 2
"""Version of marshal that writes equal bytes for equal values of equal types, and other bytes for others."""


class ActionRow(NamedTuple):
    """An action as the database stores it."""

    json: str
    digest: bytes


class ActionRows:
    """A bounded cache of the rows of actions; several threads may share it."""

    def __init__(self, max_bytes: int = CACHE_BYTES):
        self._cache: LRUCache[ActionRow] = LRUCache(max_bytes)

    def of(self, actions: Sequence[Action]) -> list[ActionRow]:
        """Return the rows of actions; raises DataError for features that no database can hold."""
        rows = []
        for action in actions:
            key = _exact_bytes(action)
            row = self._cache.get(key)
            if row is None:
                identity, features = action
                text = as_json({"id": identity, "features": features})
                row = ActionRow(text, row_digest(text))
                self._cache.put(key, row, _ENTRY_BYTES + len(key) + len(text))
            rows.append(row)
        return rows


def _exact_bytes(action: Any) -> bytes:
    """Return bytes that are equal for equal actions of equal types only; 1, 1.0 and true are equal in Python."""
    return marshal.dumps(action, _EXACT_FORM)


def as_json(value: Mapping[str, Any]) -> str:
    """Return an object as JSON; raises DataError for numbers that are not finite, and for deep nesting.

    The encoder of pydantic takes an eighth of the time of Python's, and writes NaN and Infinity.
    """
    text = to_json(value).decode()
    if "NaN" in text or "Infinity" in text:  # also within a text
        try:
            encode(value)
        except ValueError:
            raise DataError("a feature is NaN or infinite; expected a finite number, or null") from None
    if text.count("{") + text.count("[") > MAX_DEPTH:
        _check_depth(value)
    return text


def _check_depth(value: Any, depth: int = 0) -> None:
    """Raise DataError for features that are nested too deeply for a log."""
    if depth > MAX_DEPTH:
        raise DataError(f"a feature is nested more than {MAX_DEPTH} levels deep")
    for part in value.values() if isinstance(value, dict) else value:
        if type(part) in (dict, list):
            _check_depth(part, depth + 1)
