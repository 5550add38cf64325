"""Online learning of feature policies: the champion learns from ranked events while it serves.

In the mode online it learns the rewards. In the mode apprentice it learns to prefer the baseline, which was chosen, so
that it agrees with the baseline more and more; switched to online, it begins as it is then. From events of the mode
logging_only it learns nothing.

An event is learned once its reward is final: its window is over, and the signals of the last moment are written.
Events are learned in the order of writing, and the same events give the same policy in any batches, except for the
rounding of sums. One process per state folder learns (the holder of a lock); all processes load its checkpoints. The
version itself never changes: it keeps its number, and `policy_digest` identifies the present state.

While there is a challenger, the champion does not learn, so the comparison stays valid; it learns the events of that
time afterwards. Events that were ranked or rewarded without a key are left out, because anybody can send them. A
deferred event that is activated after its window is left out, too; the job `retrain` learns it unless a version has
learned later events.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from sqlalchemy import Connection, func, select

from recpolicy.core.errors import ArtifactError, DataError
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.rank_events import APPRENTICE, ONLINE
from recpolicy.server.db.schema import rank_events, rank_signals
from recpolicy.server.online.learner_thread import LearnerThread
from recpolicy.server.online.rank_checkpoints import (
    RankCheckpoint,
    rank_checkpoint_folder,
    read_learned_policy,
    read_rank_checkpoint,
    write_rank_checkpoint,
)
from recpolicy.server.settings import OnlineConfig

if TYPE_CHECKING:
    from recpolicy.data.feature_log import FeatureLog
    from recpolicy.data.reward_signals import RewardConfig
    from recpolicy.server.deps import AppState

logger = logging.getLogger(__name__)

_AT_ONCE = 2_000
_COMMIT_MS = {"postgresql": 5_000}
"""Events of an open transaction are at most this old. PostgreSQL may commit a later number before an earlier one;
SQLite commits in the order of the numbers."""


class LearnedRanks:
    """A function from a trained feature policy to the same policy with its latest checkpoint."""

    def __init__(self, state: Path):
        self._state = state
        self._served: tuple[str, str, FeaturePolicy] | None = None

    def __call__(self, base: FeaturePolicy) -> FeaturePolicy:
        """Return the policy with its last checkpoint, or unchanged without a valid one."""
        folder = rank_checkpoint_folder(self._state, base.policy_digest)
        try:
            for _ in range(3):  # another process may replace the folder between the two reads
                checkpoint = read_rank_checkpoint(folder)
                if checkpoint is None or not checkpoint.folder:
                    return base
                if self._served is not None and self._served[:2] == (base.policy_digest, checkpoint.folder):
                    return self._served[2]
                if (folder / checkpoint.folder).is_dir():
                    policy = read_learned_policy(folder, checkpoint)
                    self._served = base.policy_digest, checkpoint.folder, policy
                    return policy
            raise ArtifactError(f"{folder}: the policy is missing; remove the folder to start again")
        except ArtifactError as error:
            logger.error("the server ignores a damaged checkpoint of online learning: %s", error)
            return base


class RankLearner(LearnerThread):
    """A learner that updates the feature policy of this process's registry."""

    def __init__(self, state: "AppState"):
        super().__init__("recpolicy-online-ranks", state.settings.online)
        self._state = state
        self._written: tuple[Path, RankCheckpoint, FeaturePolicy] | None = None
        """The last checkpoint of this process, so that the next step need not read its policy."""

    def step(self) -> int:
        """Learn from the events whose rewards have become final; return their number.

        Raises SQLAlchemyError, ArtifactError, ConfigError, DivergedError or OSError.
        """
        live, folder = self._state.models.live, self._state.folder
        version, base = live.champion, live.champion.trained_policy
        if not isinstance(base, FeaturePolicy) or not base.learns_online or folder is None:
            return 0
        if live.challenger is not None:  # the comparison is between the versions as they were when it began
            return 0
        if self._state.rank.current.reset_version == version.number:
            return 0
        folder = rank_checkpoint_folder(folder, base.policy_digest)
        folder.mkdir(parents=True, exist_ok=True)
        with suppress(Timeout), FileLock(folder / ".lock", timeout=0):
            return self._learn(base, folder)
        return 0

    def _learn(self, base: FeaturePolicy, folder: Path) -> int:
        reward, engine = self._state.rank.current.reward, self._state.require_store().engine
        final = now_ms() - final_after_ms(reward, self._state.settings.online, engine.dialect.name)
        with engine.connect() as connection:
            before = read_rank_checkpoint(folder)
            if before is None:
                passed = select(func.max(rank_events.c.seq)).where(rank_events.c.time <= final)
                before = RankCheckpoint(connection.scalar(passed) or 0)
                write_rank_checkpoint(folder, before, None)
            rows = _final_rows(connection, before.last, final)
            if not rows:
                return 0
            parts = _learnable(connection, rows, reward)
        learned, count = self._latest(base, folder, before), 0
        for mode, log in parts:
            learned, several = _learned(learned, mode, log)
            count += several
        after = replace(
            before, last=rows[-1].seq, learned=before.learned + count, passed=before.passed + len(rows) - count,
            folder=str(rows[-1].seq) if count else before.folder,
        )  # fmt: skip
        write_rank_checkpoint(folder, after, learned if count else None)
        self._written = folder, after, learned
        if count:
            self._state.models.refresh()
        return count

    def _latest(self, base: FeaturePolicy, folder: Path, checkpoint: RankCheckpoint) -> FeaturePolicy:
        """Return the policy of the last checkpoint; raises ArtifactError for a damaged one."""
        if not checkpoint.folder:
            return base
        if self._written is not None and self._written[:2] == (folder, checkpoint):
            return self._written[2]
        return read_learned_policy(folder, checkpoint)


def final_after_ms(reward: "RewardConfig", online: OnlineConfig, dialect: str) -> int:
    """Return the age in milliseconds from which events are learned.

    A signal that came within the window may need `grace_seconds` until it is committed.
    """
    return max(reward.wait_ms + round(1000 * online.grace_seconds), _COMMIT_MS.get(dialect, 0))


@contextmanager
def rank_learning(state: "AppState") -> Iterator[None]:
    """Let a feature policy learn from ranked events until the end of the context."""
    if state.store is None or state.folder is None:
        yield
        return
    learner = RankLearner(state)
    learner.start()
    state.background.add("online_learning_of_ranks", learner.is_alive)
    try:
        yield
    finally:
        learner.close()


def _final_rows(connection: Connection, last: int, final: int) -> Sequence[Any]:
    """Return the events after `last` up to the first one whose window is open."""
    query = select(rank_events).where(rank_events.c.seq > last).order_by(rank_events.c.seq).limit(_AT_ONCE)
    rows = connection.execute(query).all()
    return rows[: next((place for place, row in enumerate(rows) if row.time > final), len(rows))]


def _learnable(connection: Connection, rows: Sequence[Any], reward: "RewardConfig") -> list[tuple[str, "FeatureLog"]]:
    """Return the events that may be learned, as logs of consecutive events of one mode: online or apprentice."""
    from recpolicy.server.db.feature_export import log_of_rows  # loads pandas, which other servers do without

    ids = [row.id for row in rows]
    keyless: set[tuple[str, int]] = set()
    for start in range(0, len(ids), 500):
        some = rank_signals.c.event_id.in_(ids[start : start + 500])
        query = select(rank_signals.c.event_id, rank_signals.c.slot).where(some, rank_signals.c.online.is_(False))
        keyless |= {(row.event_id, row.slot) for row in connection.execute(query)}
    usable = [
        row for row in rows
        if row.online and row.activated_at is not None and row.mode in _TEACHERS and row.task is None
        and (row.id, row.slot) not in keyless
    ]  # fmt: skip
    parts = []
    for mode, several in groupby(usable, key=lambda row: str(row.mode)):
        log = log_of_rows(connection, list(several), reward, "ranks of the server")
        if log is not None:
            parts.append((mode, log))
    return parts


_TEACHERS: Mapping[str, Callable[[FeaturePolicy, "FeatureLog"], FeaturePolicy]] = {
    ONLINE: FeaturePolicy.updated, APPRENTICE: FeaturePolicy.imitating
}  # fmt: skip
"""Functions with which a policy learns the events of a mode."""


def _learned(policy: FeaturePolicy, mode: str, log: "FeatureLog") -> tuple[FeaturePolicy, int]:
    """Return the policy after the rounds of a log, and their number; rounds that it cannot read are left out."""
    log = _with_all_features(policy, log)
    try:
        return _TEACHERS[mode](policy, log), len(log) if mode == APPRENTICE else int(log.has_reward.sum())
    except DataError:
        if len(log) == 1:
            return policy, 0
    count = 0
    for row in range(len(log)):
        policy, learned = _learned(policy, mode, log.take(row, row + 1, log.name))
        count += learned
    return policy, count


def _with_all_features(policy: FeaturePolicy, log: "FeatureLog") -> "FeatureLog":
    """Return the log with a column without values for each feature of the policy that none of its rounds has."""
    import numpy as np

    def complete(part: str, columns: Any, rows: int) -> dict[str, Any]:
        names = policy.encoder.names(part)
        absent = [name for name in names if name not in columns and name.split(".")[0] not in columns]
        return {**columns, **{name: np.full(rows, None, object) for name in absent}}

    context = complete("context", log.context, len(log))
    return replace(log, context=context, actions=complete("action", log.actions, len(log.action_id)))
