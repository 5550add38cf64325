"""Turn raw logs into rounds: join rewards by event id, settle events without a reward, split by time.

The reward of an event is the one in its row, or the first reward within the wait window after it. Without one, the
event waits for a later ingest if its window is still open; otherwise it gets the default reward or is dropped.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import pyarrow as pa
from annotated_types import Interval
from numpy.typing import NDArray

from recpolicy.core.config import NonNegativeNumber, Number, config_dataclass
from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.bandit_log import BanditLog, some_guardrails, taken_users
from recpolicy.data.bandit_log_files import IdVocabulary, read_origin
from recpolicy.data.event_reader import (
    EventCollector,
    EventPiece,
    EventReader,
    Events,
    LateRewards,
    check_rounds,
    read_events,
    read_late_rewards,
)
from recpolicy.data.log_parts import EVENTS, REWARDS, log_parts
from recpolicy.data.reward_signals import RewardConfig, RewardSummary, summarize_rewards
from recpolicy.data.signal_files import SignalTable, read_signals

TRAINING, EVALUATION = "training.parquet", "evaluation.parquet"
"""Files of an ingested log: the rounds to learn from, and the later rounds for evaluation."""
RATINGS = "ratings"
"""Folder of the ratings table of a log that has its own users and items; it stands next to the rounds."""


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

    unit: Literal["user", "round"] | None = None
    """Unit of intervals: user, or round if every round is of another person; None keeps that of the log."""
    reward: RewardConfig | None = None
    """The table [reward]: rewards come from signals.parquet, and its window and default replace those above."""
    users: str | None = None
    """Logs with features: a table of users whose columns join the contexts by the column user_id."""

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
    rewards: RewardSummary | None = None
    """The distribution of the rewards of all rounds."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        return asdict(self) | {"rewards": None if self.rewards is None else self.rewards.as_dict()}


_OF_ROUNDS = ("training", "evaluation", "rewards")
_COUNTS = tuple(column.name for column in fields(IngestReport) if column.name not in _OF_ROUNDS)


def ingest(
    folder: Path, tables: IdVocabulary, config: IngestConfig, name: str = "log"
) -> tuple[BanditLog, BanditLog, IngestReport]:
    """Read, check and join the log in `folder`; returns the rounds to learn from, those to evaluate on, the report.

    All rounds to evaluate on are later than all to learn from. Events are read in pieces, and only those that become
    rounds stay in memory. Raises DataError that names file and row for anything wrong, and when nothing is left to
    learn from; ConfigError for a default reward that is not on the scale; MemoryLimitError for too many rounds.
    """
    reward = config.reward
    if config.users is not None:
        raise ConfigError(f"{folder}: a log of items has no contexts that a table of users could join; leave users out")
    if reward is not None and reward.normalize:
        raise ConfigError("[reward] normalize is for policies of features; agents of items learn on the scale")
    if reward is not None:
        config = replace(config, wait_hours=reward.wait_seconds / 3600, default_reward=reward.default_reward)
    check_default(config.default_reward, tables.scale)
    if folder.is_file():
        raise DataError(f"{folder}: this is a file; expected the folder of a log")
    files = log_parts(folder, EVENTS)
    reader = EventReader(files or [folder / EVENTS], tables)
    rewards: LateRewards | LateSignals
    if reward is None:
        rewards = read_late_rewards(log_parts(folder, REWARDS), tables.scale)
    else:
        rewards = LateSignals(read_signals(folder, reward), reader.latest_time(), tables.scale, str(folder))
    rounds_at_most = min(reader.rows, len(rewards) + reader.known_rewards())
    check_rounds(
        rounds_at_most if config.default_reward is None else reader.rows, len(reader.catalog.action_items), str(folder)
    )
    settled = _settle(reader, rewards, config)
    if settled.rounds is None:
        why = "no event has a reward yet; wait for rewards, or set default_reward"
        if settled.counts["with_context"] == settled.counts["events"]:
            why = "every event has a context vector, and contexts = false excludes those events"
        raise DataError(f"{folder}: {why}")
    events = settled.rounds
    order = np.argsort(events.columns["time"], kind="stable")
    origin = read_origin(reader.paths[0])
    rounds = _chosen(events, order, reader.catalog.action_items, tables.scale, name, origin)
    del events
    cut = cut_by_time(rounds.time, config.evaluation_share, folder)
    if rounds.exporter is not None and settled.counts["waiting"]:
        # The next training reads only rounds after the last one learned, so no earlier round may be left out.
        cut = int(np.searchsorted(rounds.time[:cut], settled.first_waiting)) or cut
    counts = {**settled.counts, "training": cut, "evaluation": len(rounds) - cut}
    report = IngestReport(**counts, rewards=summarize_rewards(rounds.reward, rounds.scale))
    return rounds.take(0, cut, f"{name}/training"), rounds.take(cut, len(rounds), f"{name}/evaluation"), report


@dataclass
class _Settled:
    """The events that became rounds, in file order, and the counts of all."""

    rounds: Events | None
    counts: dict[str, int]
    first_waiting: int
    """Time of the first event whose window is still open."""


class LateSignals:
    """Signals in the place of a file of rewards."""

    def __init__(self, signals: SignalTable, latest_event: int, scale: tuple[float, float], where: str):
        self.signals, self.scale, self.where = signals, scale, where
        self._end = max(latest_event, int(signals.time.max(initial=latest_event)))

    def __len__(self) -> int:
        return len(self.signals)

    @property
    def time(self) -> NDArray[np.int64]:
        """Times of the signals."""
        return self.signals.time

    @property
    def matched(self) -> NDArray[np.bool_]:
        """Mask of the signals whose event was read."""
        return self.signals.matched

    def join(self, piece: EventPiece, reward: NDArray[np.float64], _: int) -> tuple[int, int]:
        """Put the combined rewards into reward [n], where it is NaN; return the numbers of late and unused signals."""
        event_id = piece.event_id
        if pa.types.is_dictionary(event_id.type):
            event_id = event_id.dictionary_decode()
        combined, late, unused = self.signals.join(event_id, piece.hashes, piece.columns["time"], self._end)
        low, high = self.scale
        outside = (combined < low) | (combined > high)
        if outside.any():
            raise DataError(
                f"{self.where}: a combined reward is {combined[int(outside.argmax())]:g}; the scale of the items is"
                f" {low:g}..{high:g}: change the weights of [reward], or set clip"
            )
        known = np.isfinite(reward)
        reward[~known] = combined[~known]
        return late, unused + int((known & np.isfinite(combined)).sum())


def _settle(reader: EventReader, rewards: LateRewards | LateSignals, config: IngestConfig) -> _Settled:
    """Join the events with their rewards; collect those that become rounds."""
    end = int(max(reader.latest_time(), rewards.time.max(initial=np.iinfo(np.int64).min)))
    counts, first_waiting = Counter[str](), np.iinfo(np.int64).max
    collected = EventCollector(len(reader.tables.users), len(reader.catalog.action_items))
    for piece in reader.pieces():
        reward, time = piece.columns["reward"], piece.columns["time"]
        late, doubled = rewards.join(piece, reward, config.wait)
        unwanted = piece.with_context & (not config.contexts)
        known = np.isfinite(reward) & ~unwanted
        waiting = ~(known | unwanted) & (time + config.wait > end)
        default = ~(known | waiting | unwanted) & (config.default_reward is not None)
        reward[default] = config.default_reward
        left_out = ~(known | waiting | default | unwanted)
        counts.update(
            events=len(piece), joined=known.sum(), defaulted=default.sum(), left_out=left_out.sum(),
            waiting=waiting.sum(), late_rewards=late, doubled_rewards=doubled, with_context=unwanted.sum(),
        )  # fmt: skip
        first_waiting = min(first_waiting, int(time[waiting].min(initial=first_waiting)))
        rows = np.flatnonzero(known | default)
        if len(rows):
            collected.add(piece, rows)
    counts["unknown_rewards"] = int((~rewards.matched).sum())
    rounds = collected.events() if len(collected) else None
    return _Settled(rounds, {name: int(counts[name]) for name in _COUNTS}, first_waiting)


def read_complete_rounds(path: Path, tables: IdVocabulary) -> BanditLog:
    """Return the rounds of an events file whose every event has its reward; raises DataError where one has none."""
    events, catalog = read_events([path], tables)
    unknown = ~np.isfinite(events.columns["reward"])
    if unknown.any():
        raise DataError(f"{path}: row {int(unknown.argmax()) + 1}: no reward; ingest the log first")
    columns: dict[str, Any] = {**events.columns, **read_origin(path)}
    columns["guardrails"] = some_guardrails(columns["guardrails"])
    return BanditLog(
        action_items=catalog.action_items, scale=tables.scale, name=str(path), candidates=events.candidates,
        context=events.context, cold_start_users=events.cold_start_users, **columns,
    )  # fmt: skip


def check_default(reward: float | None, scale: tuple[float, float]) -> None:
    """Raise ConfigError for a default reward that is not on the scale."""
    if reward is not None and not scale[0] <= reward <= scale[1]:
        raise ConfigError(f"IngestConfig.default_reward is {reward!r}; it must be in {scale[0]:g}..{scale[1]:g}")


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
    events: Events,
    order: NDArray[np.int64],
    action_items: NDArray[np.int32],
    scale: tuple[float, float],
    name: str,
    origin: Mapping[str, Any],
) -> BanditLog:
    """Return the chosen events, in this order, with their candidates and the origin of the log."""
    columns: dict[str, Any] = {key: value[order] for key, value in events.columns.items()}
    columns["candidates"] = None if events.candidates is None else events.candidates.take(order)
    columns["guardrails"] = some_guardrails(columns["guardrails"])
    columns |= taken_users(events.columns["user"], events.context, events.cold_start_users, order)
    return BanditLog(action_items=action_items, scale=scale, name=name, **columns, **origin)
