"""Lists that are ready to be shown: what a version answers to plain requests, kept as JSON.

A version never changes, so a list stays true as long as its version serves; they go together.
"""

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Any

MAX_BYTES = 16 << 20
"""About 4,000 lists of 10 items."""
_OVERHEAD = 1_000


@dataclass(frozen=True)
class ReadinessResponse:
    """A list of items, without what is new at each request."""

    items: str
    """What is shown, as JSON."""
    row: Mapping[str, Any]
    """The part of the event's row that stays the same."""

    @property
    def size(self) -> int:
        """About how many bytes it holds."""
        parts = [self.items, *(value for value in self.row.values() if value is not None)]
        return _OVERHEAD + sum(map(len, parts))


class ReadyLists:
    """The lists of a version that were asked for last; safe to use from several threads."""

    def __init__(self, max_bytes: int = MAX_BYTES):
        self._max, self._bytes = max_bytes, 0
        self._lists: OrderedDict[Hashable, ReadinessResponse] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> ReadinessResponse | None:
        """The list of a key; None where it is not kept."""
        with self._lock:
            found = self._lists.get(key)
            if found is not None:
                self._lists.move_to_end(key)
            return found

    def put(self, key: Hashable, ready: ReadinessResponse) -> None:
        """Keep a list; those that were not asked for longest go."""
        with self._lock:
            old = self._lists.pop(key, None)
            self._bytes += ready.size - (old.size if old else 0)
            self._lists[key] = ready
            while self._bytes > self._max and len(self._lists) > 1:
                self._bytes -= self._lists.popitem(last=False)[1].size
