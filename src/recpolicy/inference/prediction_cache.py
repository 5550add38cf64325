"""The answers given last, up to a bound in bytes. A version of a policy never changes, so they stay true."""

from collections import OrderedDict
from collections.abc import Hashable
from threading import Lock
from typing import Generic, TypeVar

Value = TypeVar("Value")


class AnswerCache(Generic[Value]):
    """Least recently used goes first; safe to use from several threads."""

    def __init__(self, most: int):
        self._most, self._used = most, 0
        self._kept: OrderedDict[Hashable, tuple[Value, int]] = OrderedDict()
        self._lock = Lock()

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def used(self) -> int:
        """Bytes held, at most the bound."""
        return self._used

    def get(self, key: Hashable) -> Value | None:
        """The value kept for the key, None where there is none."""
        with self._lock:
            if key not in self._kept:
                return None
            self._kept.move_to_end(key)
            return self._kept[key][0]

    def put(self, key: Hashable, value: Value, size: int) -> None:
        """Keep a value of `size` bytes, in place of the oldest ones; one larger than the bound is not kept."""
        if size > self._most:
            return
        with self._lock:
            if key in self._kept:
                self._used -= self._kept.pop(key)[1]
            while self._kept and self._used + size > self._most:
                self._used -= self._kept.popitem(last=False)[1][1]
            self._kept[key] = value, size
            self._used += size
