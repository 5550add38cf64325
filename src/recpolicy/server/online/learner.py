"""Online learning: the champion learns from new rewards while it serves.

Every few seconds one process per state folder (the holder of its lock) reads the new rewards in the order of writing.
It then checkpoints the arms that have changed; all processes load checkpoints in the same way as versions. The version
itself never changes: it keeps its number, and `policy_digest` identifies the posterior of an answer. While there is a
challenger, the champion does not learn, so the comparison stays valid. The same rewards give the same bits, in any
batches.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from sqlalchemy import Engine, func, select

from recpolicy.inference.scorer import Scorer
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.schema import events, rewards
from recpolicy.server.live_models import ModelManager
from recpolicy.server.online.checkpoints import Checkpoint, CheckpointJournal, checkpoint_folder
from recpolicy.server.online.learner_thread import LearnerThread
from recpolicy.server.online.posterior import (
    can_learn,
    get_forgetting,
    initial_posterior,
    is_plausible_context,
    learn,
    make_regressors,
    max_context_norm,
)
from recpolicy.server.settings import OnlineConfig

if TYPE_CHECKING:
    from recpolicy.server.deps import AppState

_AT_ONCE = 5_000
MAX_REWARD = 1e6
"""Larger rewards, and those that are not finite, are skipped."""


class OnlineLearner(LearnerThread):
    """A learner that updates the champion of this process's registry."""

    def __init__(self, engine: Engine, policies: ModelManager, folder: Path, config: OnlineConfig):
        super().__init__("recpolicy-online", config)
        self._engine, self._policies, self._folder, self._config = engine, policies, folder, config
        self._version: LearningVersion | None = None

    def step(self) -> int:
        """Learn from the new rewards; return their number.

        Without new rewards it only looks at the database and at a file of 300 bytes. Raises SQLAlchemyError,
        ArtifactError, DivergedError or OSError.
        """
        live = self._policies.live
        if live.champion.ranks:
            return 0
        base = live.champion.trained
        if live.challenger is not None or not can_learn(base.artifact):
            return 0
        folder = checkpoint_folder(self._folder, str(base.metadata["policy_digest"]))
        if self._version is None or self._version.base is not base:
            self._version = LearningVersion(base, CheckpointJournal(folder, base.artifact))
        known = self._version.journal.read()
        if known is not None and not self._rewards(known.last):
            return 0
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(Timeout), FileLock(folder / ".lock", timeout=0):
            return self._learn(self._version)
        return 0

    def _learn(self, version: "LearningVersion") -> int:
        """Learn and write the checkpoint, while this process holds the lock of the version."""
        known = version.journal.read()
        before = known or self._first(version.base)
        after = apply_rewards(version, before, self._rewards(before.last))
        if after.last != before.last or known is None:
            version.journal.write(after)
            self._policies.refresh()
        return after.learnt - before.learnt

    def _first(self, base: Scorer) -> Checkpoint:
        with self._engine.connect() as connection:
            last = connection.scalar(select(func.max(rewards.c.seq))) or 0
        return Checkpoint(initial_posterior(base.artifact), last, last, 0, 0)

    def _rewards(self, last: int) -> list[Any]:
        """Return the rewards after `last`, in order, each with its event."""
        columns = (
            rewards.c.seq,
            rewards.c.position,
            rewards.c.reward,
            rewards.c.online,
            events.c.user_key,
            events.c.item_ids,
            events.c.context,
        )
        until = now_ms() - int(1000 * self._config.grace_seconds)
        wanted = select(*columns).join(events, events.c.id == rewards.c.event_id).where(rewards.c.seq > last)
        with self._engine.connect() as connection:
            rows = connection.execute(wanted.add_columns(rewards.c.time).order_by(rewards.c.seq).limit(_AT_ONCE)).all()
        young = next((place for place, row in enumerate(rows) if row.time > until), len(rows))
        return list(rows[:young])


@contextmanager
def learning(state: "AppState") -> Iterator[None]:
    """Let the champion learn from new rewards until the end of the context."""
    if state.store is None or state.folder is None:
        yield
        return
    learner = OnlineLearner(state.store.engine, state.models, state.folder, state.settings.online)
    learner.start()
    state.background.add("online_learning", learner.is_alive)
    try:
        yield
    finally:
        learner.close()


class LearningVersion:
    """A trained version that learns: its checkpoints, and the limit on its contexts."""

    def __init__(self, base: Scorer, journal: CheckpointJournal):
        self.base, self.journal = base, journal
        self.longest = max_context_norm(base.artifact.context)

    def context(self, row: Any) -> NDArray[np.float32] | None:
        """Return the context [C] that the policy used; None if it is unknown or implausible."""
        known = self.base.artifact.context
        if row.context is not None:
            vector = np.frombuffer(bytes(row.context), np.float32)
            return vector if is_plausible_context(vector, known.shape[1], self.longest) else None
        user = self.base.user_row(json.loads(row.user_key))
        return None if user is None else known[user]


def apply_rewards(version: LearningVersion, before: Checkpoint, rows: Iterable[Any]) -> Checkpoint:
    """Return the checkpoint after rows (the columns of `OnlineLearner._rewards`) in their order; pure."""
    artifact = version.base.artifact
    arms, features, values, last, passed = [], [], [], before.last, 0
    for row in rows:
        last = row.seq
        arm = version.base.arm(json.loads(row.item_ids)[row.position])
        context = version.context(row)
        if not row.online or arm is None or context is None or not abs(row.reward) <= MAX_REWARD:
            passed += 1
            continue
        arms.append(arm)
        features.append(make_regressors(artifact, context))
        values.append(row.reward)
    posterior = before.posterior
    if arms:
        rewards_at = np.array(arms), np.stack(features), np.array(values, np.float64)
        posterior = learn(posterior, *rewards_at, *get_forgetting(artifact.metadata))
    counts = {"learnt": before.learnt + len(arms), "passed": before.passed + passed}
    return replace(before, posterior=posterior, last=last, **counts)
