"""Encoded rows of the actions that come again in request after request, by a key that the caller has for each.

A actions of a request, D dense columns. Encoding 50 actions takes most of the time of a ranking, and most applications
offer the same actions again and again.
"""

from collections.abc import Callable, Hashable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.lru import LRUCache
from recpolicy.data.features.encoder import SparseRows

Rows = NDArray[np.float32] | SparseRows
"""Dense [A, D], or the hashed features of A rows."""
CACHE_BYTES = 8 << 20
"""Some 60,000 actions of 30 numbers."""
_ENTRY_BYTES = 300
"""Of a cached row, apart from its numbers."""


class RecurringActions:
    """A bounded cache of encoded actions; several threads may share it."""

    def __init__(self, max_bytes: int = CACHE_BYTES):
        self._cache: LRUCache[tuple[NDArray[Any], ...]] = LRUCache(max_bytes)

    def rows(self, keys: Sequence[Hashable], encode: Callable[[list[int]], Rows]) -> Rows:
        """Return the encoded actions [A].

        Args:
            keys: A key for each action; actions with the same key have the same id and features.
            encode: Returns the encoded actions at some positions, in this order.

        Raises:
            DataError: What `encode` raises; nothing is cached then.
        """
        found = [self._cache.get(key) for key in keys]
        missing = [place for place, row in enumerate(found) if row is None]
        if missing:
            encoded = encode(missing)
            if len(missing) == len(keys):
                self._put(keys, encoded)
                return encoded
            for place, row in zip(missing, self._put([keys[place] for place in missing], encoded), strict=True):
                found[place] = row
        return _joined([row for row in found if row is not None])

    def _put(self, keys: Sequence[Hashable], encoded: Rows) -> list[tuple[NDArray[Any], ...]]:
        rows = _divided(encoded)
        for key, row in zip(keys, rows, strict=True):
            self._cache.put(key, row, _ENTRY_BYTES + sum(part.nbytes for part in row))
        return rows


def _divided(encoded: Rows) -> list[tuple[NDArray[Any], ...]]:
    """Return the parts of each row: its columns, or its indices and values. They are copies."""
    if not isinstance(encoded, SparseRows):
        return [(row.copy(),) for row in encoded]
    ends = encoded.start.tolist()
    return [(encoded.index[first:last].copy(), encoded.value[first:last].copy()) for first, last in pairwise(ends)]


def _joined(rows: Sequence[tuple[NDArray[Any], ...]]) -> Rows:
    """Return rows that `_divided` returned as one."""
    if len(rows[0]) == 1:
        return np.stack([row for (row,) in rows])
    start = np.concatenate([[0], np.cumsum([len(index) for index, _ in rows])]).astype(np.int64)
    return SparseRows(start, np.concatenate([index for index, _ in rows]), np.concatenate([value for _, value in rows]))
