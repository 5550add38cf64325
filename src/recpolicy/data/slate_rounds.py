"""Turn a slate log into a bandit log: every slot of every slate becomes a round.

N slates of K slots make N K rounds, `EVENT:SLOT` (0 is the first), slot by slot within a slate. A round's candidates
are the items of its shelf, or those that do not stand above it, and its propensity is the one of its slot given those.
This view gives the reward of each slot at its position; it ignores effects of a slot on the others.
"""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.candidates import CandidateSets
from recpolicy.data.log_ingest import IngestConfig, IngestReport, check_default, cut_by_time
from recpolicy.data.reward_signals import summarize_rewards
from recpolicy.data.slate_log import SlateLog, open_to
from recpolicy.data.slate_log_files import SLATES, read_slates


def rounds_from_slates(log: SlateLog, scale: tuple[float, float]) -> BanditLog:
    """Return the slots as rounds whose rewards, 0..1 in the log, are stretched to `scale`.

    Raises DataError where the log does not say what each slot earned, and for a slot that earned less than 0 or more
    than 1.
    """
    if log.slot_reward is None:
        raise DataError(f"{log.name}: no slot_reward; rounds need the reward of each slot")
    wrong = ~((log.slot_reward >= 0) & (log.slot_reward <= 1)).all(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{log.name}: slate {row} ({log.event_id[row]!r}): its slots earned {log.slot_reward[row].tolist()};"
            " expected 0..1 each, which is stretched to the scale of the ratings"
        )
    low, high = scale
    columns: dict[str, Any] = {
        name: np.repeat(getattr(log, name), log.slots) for name in ("time", "user", "policy", "version")
    }
    return BanditLog(
        event_id=np.array([f"{event}:{slot}" for event in log.event_id for slot in range(log.slots)], object),
        item=log.slate.ravel(), log_propensity=log.log_propensity.ravel(),
        reward=low + (high - low) * log.slot_reward.ravel(), action_items=log.action_items, scale=scale, name=log.name,
        candidates=_candidates(log), **columns,
    )  # fmt: skip


def ingest_slates(
    folder: Path, tables: IdVocabulary, config: IngestConfig, name: str = "log"
) -> tuple[BanditLog, BanditLog, IngestReport]:
    """Read and check the slates in `folder`; returns the rounds to learn from, those to evaluate on, the report.

    As log_ingest.ingest; rewards stand with the slates, so that of the settings only `evaluation_share` counts. Raises
    what `read_slates` and `rounds_from_slates` raise, and ConfigError for [reward] or a default reward off the scale.
    """
    check_default(config.default_reward, tables.scale)
    if config.reward is not None:
        raise ConfigError(f"{folder}: a log of slates has the rewards of its slots; leave [reward] out")
    log = read_slates(folder / SLATES, tables)
    rounds = rounds_from_slates(log.taken(np.argsort(log.time, kind="stable")), tables.scale)
    rounds = replace(rounds, slate_digest=log.digest)
    cut = cut_by_time(rounds.time, config.evaluation_share, folder)
    none = dict.fromkeys((field.name for field in fields(IngestReport) if field.name != "rewards"), 0)
    counts = {"events": len(rounds), "joined": len(rounds), "training": cut, "evaluation": len(rounds) - cut}
    parts = rounds.take(0, cut, f"{name}/training"), rounds.take(cut, len(rounds), f"{name}/evaluation")
    rewards = summarize_rewards(rounds.reward, rounds.scale)
    return *parts, IngestReport(**(none | counts), rewards=rewards)


def _candidates(log: SlateLog) -> CandidateSets:
    """Return the candidates of each round [N K]."""
    actions, rounds = len(log.action_items), log.slate.size
    if log.shelves is not None:
        shelves = np.zeros((log.slots, actions), bool)
        for slot, row in enumerate(shelves):
            row[open_to(slot, log.arm, log.shelves, actions)[0]] = True
        return CandidateSets.without_exclusions(
            np.packbits(shelves, axis=1), np.tile(np.arange(log.slots), len(log)), actions
        )
    above = np.tile(np.arange(log.slots), len(log))  # items above each slot
    start = np.concatenate([[0], np.cumsum(above)]).astype(np.int64)
    first = np.repeat(np.arange(len(log)) * log.slots, log.slots)  # place of the first slot of the same slate
    place = np.arange(start[-1]) - np.repeat(start[:-1] - first, above)
    excluded = log.arm.ravel()[place].astype(np.int32)
    return replace(CandidateSets.all_items(rounds, actions), excluded_start=start, excluded=excluded)
