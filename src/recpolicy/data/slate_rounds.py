"""Turn a slate log into a bandit log: every slot of every slate becomes a round.

N slates of K slots make N K rounds, `EVENT:SLOT` (0 is the first), slot by slot within a slate. A round's candidates
are the items of its shelf, or those that do not stand above it, and its propensity is the one of its slot given those.
This view gives the reward of each slot at its position; it ignores effects of a slot on the others.

A log of shelves may have one reward of the whole slate only. Every slot then has this reward. Because the other slots
are filled without regard to it, its mean is the value of a slate in which the policy fills this slot alone.
"""

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.candidates import ALL_ITEMS, CandidateSets, packed_width
from recpolicy.data.log_ingest import IngestConfig, IngestReport, check_default, cut_by_time
from recpolicy.data.reward_signals import summarize_rewards
from recpolicy.data.slate_log import SlateLog, open_to
from recpolicy.data.slate_log_files import SLATES, read_slates


def rounds_from_slates(log: SlateLog, scale: tuple[float, float]) -> BanditLog:
    """Return the slots as rounds whose rewards, on the slot scale of the log, are stretched to `scale`.

    Raises DataError where the log has neither rewards of slots nor shelves, and for a slot whose reward is off the
    slot scale.
    """
    reward, (lowest, highest) = _slot_rewards(log)
    low, high = scale
    stretched = reward if scale == (lowest, highest) else low + (high - low) * (reward - lowest) / (highest - lowest)
    columns: dict[str, Any] = {
        name: np.repeat(getattr(log, name), log.slots) for name in ("time", "user", "policy", "version")
    }
    return BanditLog(
        event_id=np.array([f"{event}:{slot}" for event in log.event_id for slot in range(log.slots)], object),
        item=log.slate.ravel(), log_propensity=log.log_propensity.ravel(),
        reward=np.clip(stretched, low, high).ravel(),
        action_items=log.action_items, scale=scale, name=log.name, candidates=_candidates(log), unit=log.unit,
        **columns,
    )  # fmt: skip


def _slot_rewards(log: SlateLog) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Return the reward [N, K] of each slot, else that of its slate, and the scale."""
    if log.slot_reward is None:
        if log.shelves is None:
            raise DataError(f"{log.name}: no slot_reward; rounds need the reward of each slot")
        return np.repeat(log.reward[:, np.newaxis], log.slots, axis=1), log.scale
    low, high = log.slot_scale
    wrong = ~((log.slot_reward >= low) & (log.slot_reward <= high)).all(axis=1)
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(
            f"{log.name}: slate {row} ({log.event_id[row]!r}): its slots earned {log.slot_reward[row].tolist()};"
            f" expected {low:g}..{high:g} each, which is stretched to the scale of the ratings"
        )
    return log.slot_reward, log.slot_scale


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
    actions = len(log.action_items)
    given = log.candidates or CandidateSets.all_items(len(log), actions)
    if log.shelves is not None:
        shelves = np.zeros((log.slots, actions), bool)
        for slot, row in enumerate(shelves):
            row[open_to(slot, log.arm, log.shelves, actions)[0]] = True
        whole = np.full((1, packed_width(actions)), 0xFF, np.uint8)  # the set of the slates without one
        sets = np.concatenate([given.sets, whole])[:, np.newaxis] & np.packbits(shelves, axis=1)  # [S + 1, K, W]
        which = np.where(given.index == ALL_ITEMS, len(given.sets), given.index)
        place = which[:, np.newaxis] * log.slots + np.arange(log.slots)
        return CandidateSets.without_exclusions(sets.reshape(-1, sets.shape[2]), place.ravel(), actions).compact()
    above = np.tile(np.arange(log.slots), len(log))  # items above each slot
    start = np.concatenate([[0], np.cumsum(above)]).astype(np.int64)
    first = np.repeat(np.arange(len(log)) * log.slots, log.slots)  # place of the first slot of the same slate
    place = np.arange(start[-1]) - np.repeat(start[:-1] - first, above)
    excluded = log.arm.ravel()[place].astype(np.int32)
    return CandidateSets(actions, given.sets, np.repeat(given.index, log.slots), start, excluded)
