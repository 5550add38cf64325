"""Counts of a rollout in one process: answers per variant, and requests that wait for a shadow comparison."""

import os
import queue
import random
import secrets
import socket
import threading
from collections import defaultdict
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from sqlalchemy import Engine

from recpolicy.server.db import rollouts
from recpolicy.server.db.engine import transaction
from recpolicy.server.live_models import CHALLENGER, LiveState
from recpolicy.server.rollout.stage_metrics import VariantHealth
from recpolicy.server.users.service import NO_USERS, RequestUsers

Key = tuple[int, str]
"""Rollout and variant."""
MAX_WAITING = 32
"""Comparisons that may wait."""


class ComparableAnswer(Protocol):
    """A served answer (recommend.ServedList, or rank.slot_decisions.DecidedRank), as far as the queue reads it."""

    @property
    def explored(self) -> bool:
        """True for an answer that was drawn to explore; it is not compared."""


class VariantCounts:
    """Counts since they were last written; safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: defaultdict[Key, VariantHealth] = defaultdict(VariantHealth)
        self.worker = f"{socket.gethostname()[:40]}/{os.getpid()}/{secrets.token_hex(4)}"

    def add(self, rollout: int, variant: str, health: VariantHealth) -> None:
        """Add the counts of a variant."""
        with self._lock:
            self._counted[rollout, variant] += health

    def flush(self, engine: Engine) -> None:
        """Write the counts; if the database raises an error, keep them and raise it."""
        with self._lock:
            counted, self._counted = self._counted, defaultdict(VariantHealth)
        if not counted:
            return
        try:
            with transaction(engine) as connection:
                rollouts.add_health(connection, self.worker, counted)
        except BaseException:
            for (rollout, variant), health in counted.items():
                self.add(rollout, variant, health)
            raise


@dataclass(frozen=True)
class ShadowPair:
    """A request and the champion's answer to it: RecommendRequest and ServedList, or PreparedRank and DecidedRank."""

    live: LiveState
    request: Any
    served: Any
    users: RequestUsers = NO_USERS
    """The user of a request for a list, as far as a posterior describes the user."""


class ShadowQueue:
    """Requests that wait for a shadow comparison in one process; safe for several threads.

    Nobody waits for a comparison and no user sees it. If MAX_WAITING requests wait, further ones are counted as
    dropped.
    """

    def __init__(self, counts: VariantCounts):
        self._counts = counts
        self._waiting: queue.Queue[ShadowPair] = queue.Queue(MAX_WAITING)

    def offer(
        self, live: LiveState, request: Any, served: ComparableAnswer, sample: float, users: RequestUsers = NO_USERS
    ) -> None:
        """Queue a fraction `sample` of the requests; never waits and never raises.

        Answers that the champion drew to explore are not compared.
        """
        if not live.shadow or live.challenger is None or served.explored or random.random() >= sample:
            return
        try:
            self._waiting.put_nowait(ShadowPair(live, request, served, users))
        except queue.Full:
            if live.rollout is not None:
                self._counts.add(live.rollout, CHALLENGER, VariantHealth(dropped=1))

    def next(self) -> ShadowPair | None:
        """Return the oldest waiting pair, or None."""
        with suppress(queue.Empty):
            return self._waiting.get_nowait()
        return None


class RolloutCounters:
    """Counts of both variants, and the queue of shadow comparisons; one instance per process."""

    def __init__(self) -> None:
        self.counts = VariantCounts()
        self.shadow = ShadowQueue(self.counts)
