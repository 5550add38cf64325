"""Turn raw logs into rounds: join rewards by event id, settle events without a reward, split by time.

The reward of an event is the one in its row, or the first reward within the wait window after it. Without one, the
event waits for a later ingest if its window is still open; otherwise it gets the default reward or is dropped.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
from annotated_types import Interval
from numpy.typing import NDArray

from recpolicy.core.config import NonNegativeNumber, Number, config_dataclass
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.bandit_log import BanditLog, taken_candidates, taken_users
from recpolicy.data.bandit_log_files import (
    EVENTS,
    REWARDS,
    Events,
    IdVocabulary,
    read_action_items,
    read_events,
    read_origin,
    read_rewards,
)

TRAINING, EVALUATION = "training.parquet", "evaluation.parquet"
"""Files of an ingested log: the rounds to learn from, and the later rounds for evaluation."""
RATINGS = "ratings"
"""Folder of the ratings table of a log that has its own users and items; it stands next to the rounds."""

_OF_NO_USE = ("late_rewards", "doubled_rewards", "unknown_rewards")


@config_dataclass
class IngestConfig:
    """Settings of the join with late rewards and of the split."""

    wait_hours: NonNegativeNumber = 24.0
    """Hours after an event within which its reward may arrive."""
    default_reward: Number | None = None
    """Reward of an event whose window closed without one; None leaves such events out."""
    evaluation_share: Annotated[float, Interval(ge=0, lt=1)] = 0.2
    """Share of the rounds, the latest, that only evaluation sees."""
    contexts: bool = True
    """True keeps events with a context vector; only policies of the same features can use it."""

    @property
    def wait(self) -> int:
        """The wait window in milliseconds."""
        return round(self.wait_hours * 3_600_000)


@dataclass(frozen=True)
class IngestReport:
    """Counts of events and rewards by outcome."""

    events: int
    joined: int
    """Events with a reward in the log."""
    defaulted: int
    """Closed without a reward: they have the default."""
    left_out: int
    """Closed without a reward, and there is no default."""
    waiting: int
    """Their window is still open at the end of the log."""
    late_rewards: int
    """Rewards that came before their event or after its window; not used."""
    doubled_rewards: int
    """Rewards of an event that has one already; not used."""
    unknown_rewards: int
    """Rewards of events that the log does not have; not used."""
    with_context: int
    """Events left out for their context vector, where such are not wanted."""
    training: int
    """Rounds to learn from."""
    evaluation: int
    """Rounds that only evaluation sees, all later."""

    def as_dict(self) -> dict[str, int]:
        """Return plain JSON-able values."""
        return asdict(self)


def ingest(
    folder: Path, tables: IdVocabulary, config: IngestConfig, name: str = "log"
) -> tuple[BanditLog, BanditLog, IngestReport]:
    """Read, check and join the log in `folder`; returns the rounds to learn from, those to evaluate on, the report.

    All rounds to evaluate on are later than all to learn from. Raises DataError that names file and row for anything
    wrong, and when nothing is left to learn from; ConfigError for a default reward that is not on the scale.
    """
    check_default(config.default_reward, tables.scale)
    if folder.is_file():
        raise DataError(f"{folder}: this is a file; expected the folder of a log")
    action_items = read_action_items(folder / EVENTS, tables)
    events = read_events(folder / EVENTS, tables, action_items)
    columns, end, counts = events.columns, int(events.columns["time"].max()), dict.fromkeys(_OF_NO_USE, 0)
    if (folder / REWARDS).exists():
        came = read_rewards(folder / REWARDS, tables.scale)
        end = int(came[1].max(initial=end))
        counts = _join(columns, *came, config.wait)
    unwanted = _with_context(events) & (not config.contexts)
    known = np.isfinite(columns["reward"]) & ~unwanted
    waiting = ~(known | unwanted) & (columns["time"] + config.wait > end)
    default = ~(known | waiting | unwanted) & (config.default_reward is not None)
    columns["reward"][default] = config.default_reward
    order = np.flatnonzero(known | default)
    order = order[np.argsort(columns["time"][order], kind="stable")]
    if not len(order):
        why = "no event has a reward yet; wait for rewards, or set default_reward"
        if unwanted.all():
            why = "every event has a context vector, and contexts = false excludes those events"
        raise DataError(f"{folder}: {why}")
    rounds = replace(_chosen(events, order, action_items, tables.scale, name), **read_origin(folder / EVENTS))
    cut = cut_by_time(rounds.time, config.evaluation_share, folder)
    if rounds.exporter is not None and waiting.any():
        # The next training reads only rounds after the last one learned, so no earlier round may be left out.
        cut = int(np.searchsorted(rounds.time[:cut], columns["time"][waiting].min())) or cut
    report = IngestReport(
        events=len(known), joined=int(known.sum()), defaulted=int(default.sum()), waiting=int(waiting.sum()),
        left_out=int((~(known | waiting | default | unwanted)).sum()), with_context=int(unwanted.sum()),
        training=cut, evaluation=len(rounds) - cut, **counts,
    )  # fmt: skip
    return rounds.take(0, cut, f"{name}/training"), rounds.take(cut, len(rounds), f"{name}/evaluation"), report


def read_complete_rounds(path: Path, tables: IdVocabulary) -> BanditLog:
    """Return the rounds of an events file whose every event has its reward; raises DataError where one has none."""
    action_items = read_action_items(path, tables)
    events = read_events(path, tables, action_items)
    unknown = ~np.isfinite(events.columns["reward"])
    if unknown.any():
        raise DataError(f"{path}: row {int(unknown.argmax()) + 1}: no reward; ingest the log first")
    columns: dict[str, Any] = {**events.columns, **read_origin(path)}
    return BanditLog(
        action_items=action_items, scale=tables.scale, name=str(path), candidate_start=events.candidate_start,
        candidate=events.candidate, context=events.context, cold_start_users=events.cold_start_users, **columns,
    )  # fmt: skip


def _with_context(events: Events) -> NDArray[np.bool_]:
    """Return a mask [N] of the events with a context vector."""
    if events.context is None:
        return np.zeros(len(events.columns["user"]), bool)
    return ~np.isnan(events.context[:, 0])


def check_default(reward: float | None, scale: tuple[float, float]) -> None:
    """Raise ConfigError for a default reward that is not on the scale."""
    if reward is not None and not scale[0] <= reward <= scale[1]:
        raise ConfigError(f"IngestConfig.default_reward is {reward!r}; it must be in {scale[0]:g}..{scale[1]:g}")


def _join(
    columns: Mapping[str, NDArray[Any]], event_id: NDArray[Any], time: NDArray[np.int64],
    reward: NDArray[np.float64], wait: int,
) -> dict[str, int]:  # fmt: skip
    """Put rewards into columns["reward"]; returns how many were of no use, and why."""
    order = np.argsort(time, kind="stable")
    event = pd.Index(columns["event_id"]).get_indexer(pd.Index(event_id[order]))  # -1 where unknown
    unknown = event < 0
    delay = time[order] - columns["time"][event]
    late = ~unknown & ((delay < 0) | (delay > wait))
    within = np.flatnonzero(~unknown & ~late)
    free = within[np.isnan(columns["reward"][event[within]])]
    _, first = np.unique(event[free], return_index=True)
    chosen = free[first]
    columns["reward"][event[chosen]] = reward[order][chosen]
    of_no_use = int(late.sum()), len(within) - len(chosen), int(unknown.sum())
    return dict(zip(_OF_NO_USE, of_no_use, strict=True))


def cut_by_time(time: NDArray[np.int64], share: float, folder: Path) -> int:
    """Return the number of training rounds, in order of time [N]; rounds of one moment stay together."""
    cut = len(time) - round(len(time) * share)
    if cut < len(time):
        cut = int(np.searchsorted(time, time[cut]))
    if not cut:
        raise DataError(
            f"{folder}: {len(time)} rounds, the latest {share:.0%} of them for evaluation: none is left for training;"
            " lower evaluation_share"
        )
    return cut


def _chosen(
    events: Events, order: NDArray[np.int64], action_items: NDArray[np.int32], scale: tuple[float, float], name: str
) -> BanditLog:
    """Return the chosen events, in this order, with their candidates."""
    columns: dict[str, Any] = {key: value[order] for key, value in events.columns.items()}
    columns |= taken_candidates(events.candidate_start, events.candidate, order)
    columns |= taken_users(events.columns["user"], events.context, events.cold_start_users, order)
    return BanditLog(action_items=action_items, scale=scale, name=name, **columns)
