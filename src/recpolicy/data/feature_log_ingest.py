"""Turn a raw feature log into rounds for training and for evaluation: join signals, settle rewards, split by time.

A reward is the one of the row, else that of the event's signals (`[reward]`), else the default once the wait window is
closed. Events whose window is still open wait for a later ingest.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.hashes import text_hashes
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.feature_log_files import read_feature_log
from recpolicy.data.log_ingest import IngestConfig, cut_by_time
from recpolicy.data.log_parts import log_parts
from recpolicy.data.reward_signals import RewardSummary, summarize_rewards
from recpolicy.data.signal_files import SIGNALS, read_signals
from recpolicy.data.user_attributes import with_user_attributes


@dataclass(frozen=True)
class FeatureIngestReport:
    """Counts of events and signals by outcome."""

    events: int
    joined: int
    """Events with a reward of their row or of their signals."""
    defaulted: int
    """Closed without a signal: they have the default."""
    left_out: int
    """Closed without a reward, and there is no default."""
    waiting: int
    """Their window is still open at the end of the log."""
    late_signals: int
    """Signals that came before their event or after its window; not used."""
    unused_signals: int
    """Signals after the one that counts (`combine = "first"`), or of events whose row has a reward."""
    unknown_signals: int
    """Signals of events that the log does not have; not used."""
    training: int
    """Rounds to learn from."""
    evaluation: int
    """Rounds that only evaluation sees, all later."""
    rewards: RewardSummary

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        return asdict(self) | {"rewards": self.rewards.as_dict()}


def ingest_features(
    folder: Path, config: IngestConfig, name: str = "log"
) -> tuple[FeatureLog, FeatureLog | None, FeatureIngestReport]:
    """Read, check and settle the feature log in `folder`.

    Args:
        folder: Folder of a raw feature log, with a file of signals where `config` has the table [reward]; or a file of
            JSON lines.
        config: Settings of the rewards and of the split.
        name: Name of the log.

    Returns:
        The rounds to learn from, the later ones to evaluate on (None without any), and the report.

    Raises:
        DataError: The log is wrong, or nothing is left to learn from.
        ConfigError: The default reward is out of range.
    """
    reward = config.reward
    log = read_feature_log(folder, reward_range=None if reward is None else reward.reward_range)
    if config.users is not None:
        log = with_user_attributes(log, Path(config.users))
    counts = dict.fromkeys(("late_signals", "unused_signals", "unknown_signals"), 0)
    wait = config.wait if reward is None else reward.wait_ms
    default = config.default_reward if reward is None else reward.default_reward
    end, rewards = int(log.time.max()), log.reward.copy()
    known = ~np.isnan(rewards)
    joined = known.copy()
    if reward is not None and (not known.all() or log_parts(folder, SIGNALS)):
        signals = read_signals(folder, reward)
        end = max(end, int(signals.time.max(initial=end)))
        ids = pa.array(log.event_id, pa.large_string())
        combined, late, unused = signals.join(ids, text_hashes(ids), log.time, end)
        rewards = np.where(known, rewards, combined)
        joined = ~np.isnan(rewards)
        doubled = int((known & ~np.isnan(combined)).sum())
        unknown = int((~signals.matched).sum())
        counts = {"late_signals": late, "unused_signals": unused + doubled, "unknown_signals": unknown}
    _check_default(default, log)
    waiting = ~joined & (log.time + wait > end)
    defaulted = ~joined & ~waiting & (default is not None)
    if default is not None:
        rewards[defaulted] = default
    rows = np.flatnonzero(joined | defaulted)
    if not len(rows):
        if waiting.any():
            raise DataError(
                f"{folder}: all windows are open at the end of the log; wait for rewards, or shorten the wait window"
                f" ({wait / 1000:,.0f} s)"
            )
        raise DataError(f"{folder}: no event has a reward yet; wait for rewards, or set default_reward")
    order = rows[np.argsort(log.time[rows], kind="stable")]
    settled = replace(log, reward=rewards).select(order, name)
    if config.unit == "round":
        settled = replace(settled, user=None)
    cut = cut_by_time(settled.time, config.evaluation_share, folder)
    report = FeatureIngestReport(
        events=len(log), joined=int(joined.sum()), defaulted=int(defaulted.sum()), waiting=int(waiting.sum()),
        left_out=len(log) - len(rows) - int(waiting.sum()), training=cut, evaluation=len(settled) - cut,
        rewards=summarize_rewards(settled.reward, settled.reward_range), **counts,
    )  # fmt: skip
    later = settled.take(cut, len(settled), f"{name}/evaluation") if cut < len(settled) else None
    return settled.take(0, cut, f"{name}/training"), later, report


def _check_default(default: float | None, log: FeatureLog) -> None:
    if default is not None and log.reward_range is not None:
        low, high = log.reward_range
        if not low <= default <= high:
            raise ConfigError(f"default_reward is {default:g}; it must be in {low:g}..{high:g}")
