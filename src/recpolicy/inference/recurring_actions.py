"""Encoded rows of the actions that come again in request after request, by a key that the caller has for each.

A actions of a request, D dense columns. Encoding 50 actions takes most of the time of a ranking, and most applications
offer the same actions again and again. Many offer the same list of them, whose rows are kept together, too.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.lru import LRUCache
from recpolicy.data.features.encoder import SparseRows

Rows = NDArray[np.float32] | SparseRows
"""Dense [A, D], or the hashed features of A rows."""
CACHE_BYTES = 4 << 20
"""For rows, and as much for lists: some 10,000 actions of 30 numbers, and 500 lists of 50 of them."""
_ENTRY_BYTES = 300
"""Of a cached row, apart from its numbers."""
_KEY_BYTES = 60


class RecurringActions:
    """A bounded cache of encoded actions and of lists of them; several threads may share it."""

    def __init__(self, max_bytes: int = CACHE_BYTES):
        self._cache: LRUCache[tuple[NDArray[Any], ...]] = LRUCache(max_bytes)
        self._lists: LRUCache[Rows] = LRUCache(max_bytes)

    def rows(self, keys: Sequence[bytes], encode: Callable[[list[int]], Rows]) -> Rows:
        """Return the encoded actions [A].

        Args:
            keys: A digest of each action; actions with the same digest have the same id and features.
            encode: Returns the encoded actions at some positions, in this order.

        Raises:
            DataError: What `encode` raises; nothing is cached then.
        """
        together = tuple(keys)
        rows = self._lists.get(together)
        if rows is None:
            rows = self._join(keys, encode)
            self._lists.put(together, rows, _ENTRY_BYTES + _KEY_BYTES * len(together) + _size(rows))
        return rows

    def _join(self, keys: Sequence[bytes], encode: Callable[[list[int]], Rows]) -> Rows:
        """Return the encoded actions [A], those that the cache has from there."""
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

    def _put(self, keys: Sequence[bytes], encoded: Rows) -> list[tuple[NDArray[Any], ...]]:
        rows = _divided(encoded)
        for key, row in zip(keys, rows, strict=True):
            self._cache.put(key, row, _ENTRY_BYTES + sum(part.nbytes for part in row))
        return rows


def _size(rows: Rows) -> int:
    """Return the bytes of encoded actions."""
    parts = (rows.start, rows.index, rows.value) if isinstance(rows, SparseRows) else (rows,)
    return sum(part.nbytes for part in parts)


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
