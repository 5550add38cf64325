"""Feedback without a key, from which online learning learns nothing, or only so much.

Anybody can send such feedback, and the champion's lists for all users move with what it learns. The store keeps all of
it; `rewards.online` says from which rewards the learner may learn.
"""

import time
from collections.abc import Callable

from recpolicy.server.rate_limit import TokenBuckets

_HOUR = 3600.0


class KeylessBound:
    """A bound on the learned rewards of feedback without a key, an hour, for each client and for each item.

    Each process has its own; only the thread that writes feedback uses `admits`.
    """

    def __init__(self, per_hour: int, clock: Callable[[], float] = time.monotonic):
        self._per_hour, self._clock = per_hour, clock
        self._clients, self._items = (TokenBuckets(per_hour / _HOUR, per_hour, clock) for _ in range(2))
        self._alert_at = float("-inf")

    def admits(self, client: str, item: str) -> bool:
        """Return True if online learning may learn from one more reward of this client for this item."""
        return bool(self._per_hour) and not self._clients.take(client) and not self._items.take(item)

    def must_alert(self) -> bool:
        """Return True if the bound was reached and nobody was told for an hour; without a bound there is no alert."""
        now = self._clock()
        if not self._per_hour or now < self._alert_at:
            return False
        self._alert_at = now + _HOUR
        return True
