"""A cache that drops the least recently used values once their total size exceeds a bound."""

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class LRUCache(Generic[Value]):
    """A size-bounded cache for several threads.

    The size of a value is in the caller's unit: bytes, or 1 for a cache that counts entries.
    """

    def __init__(self, max_size: int):
        self.max_size, self._size = max_size, 0
        self._entries: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries

    def clear(self) -> None:
        """Drop all values."""
        with self._lock:
            self._entries.clear()
            self._size = 0

    @property
    def size(self) -> int:
        """Total size of the cached values, at most the bound."""
        return self._size

    def get(self, key: Hashable) -> Value | None:
        """Return the cached value, or None."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                return None
            self._entries.move_to_end(key)
            return entry[0]

    def remove(self, key: Hashable) -> None:
        """Drop a value, if it is cached."""
        with self._lock:
            entry = self._entries.pop(key, None)
            if entry is not None:
                self._size -= entry[1]

    def put(self, key: Hashable, value: Value, size: int = 1) -> None:
        """Cache the value and drop the oldest ones that no longer fit; a value larger than the bound is not
        cached."""
        if size > self.max_size:
            return
        with self._lock:
            if key in self._entries:
                self._size -= self._entries.pop(key)[1]
            while self._entries and self._size + size > self.max_size:
                self._size -= self._entries.popitem(last=False)[1][1]
            self._entries[key] = value, size
            self._size += size
