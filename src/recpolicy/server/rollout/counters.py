"""How the variants of the rollout under way answer: counted here, written to the store every few seconds."""

import os
import secrets
import socket
import threading
from collections import defaultdict

from sqlalchemy import Engine

from recpolicy.server.db import rollouts
from recpolicy.server.db.engine import transaction
from recpolicy.server.rollout.stage_metrics import VariantHealth

Key = tuple[int, str]
"""Rollout and variant."""


class VariantCounts:
    """Counts of one process since they were last written; safe to use from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counted: defaultdict[Key, VariantHealth] = defaultdict(VariantHealth)
        self.worker = f"{socket.gethostname()[:40]}/{os.getpid()}/{secrets.token_hex(4)}"

    def add(self, rollout: int, variant: str, health: VariantHealth) -> None:
        """Count what is told."""
        with self._lock:
            self._counted[rollout, variant] += health

    def flush(self, engine: Engine) -> None:
        """Write and forget; what the database does not take is kept, and the database's error raised."""
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
