"""Convert logs of several slots a line (CCB and slates) to slate logs.

N lines of K slots. Each slot is first a round with exact candidates and propensity, `EVENT:SLOT`. If all lines have K
slots, the rounds are a slate log, too: of CCB with rewards of the slots, of slates with shelves and one reward of the
slate. A line of CCB may have another number of slots, or slots with their own lists of actions (`_inc`). A slate log
cannot hold such lines; their rounds can be imported.
"""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.candidates import CandidateSets, blocks, unique_rows
from recpolicy.data.slate_log import SlateLog
from recpolicy.data.vw_reader import SlateDecision


@dataclass
class SlotCounts:
    """Numbers of slots of the lines so far."""

    fewest: int = 0
    most: int = 0
    restricted: bool = False
    """True if a slot had its own list of actions."""

    def add(self, decision: SlateDecision) -> None:
        """Count the slots of a line."""
        count = len(decision.slots)
        self.fewest, self.most = min(self.fewest or count, count), max(self.most, count)
        self.restricted |= any(slot.restricted for slot in decision.slots)

    @property
    def regular(self) -> bool:
        """True if a slate log can hold the lines."""
        return self.fewest == self.most and not self.restricted


def slates_from_rounds(rounds: BanditLog, slots: int, tables: IdVocabulary, shelf: dict[str, int] | None) -> SlateLog:
    """Return rounds [N K] of K slots each, slot by slot, as slates.

    Args:
        rounds: The rounds `EVENT:SLOT`; their candidates are those of the slot, without the items above it.
        slots: K.
        tables: Ids of the items.
        shelf: For slates, the slot of each item id; all rounds of a slate have its reward. None for CCB.
    """
    first = slice(None, None, slots)
    event_id = np.array([event.rpartition(":")[0] for event in rounds.event_id[first]], object)
    reward, (low, high) = rounds.reward.reshape(-1, slots), rounds.scale
    shelves = None
    if shelf is not None:
        ids = tables.items["item_id"].to_numpy()[rounds.action_items]
        shelves = np.array([shelf[str(identifier)] for identifier in ids], np.int16)
    return SlateLog(
        event_id=event_id, time=rounds.time[first], user=rounds.user[first], slate=rounds.item.reshape(-1, slots),
        log_propensity=rounds.log_propensity.reshape(-1, slots),
        reward=reward[:, 0] if shelf is not None else reward.sum(axis=1),
        slot_reward=None if shelf is not None else reward, policy=rounds.policy[first], version=rounds.version[first],
        action_items=rounds.action_items, shelves=shelves,
        scale=rounds.scale if shelf is not None else (slots * low, slots * high), name=rounds.name,
        candidates=_candidates(rounds, slots, whole=shelf is None), slot_scale=rounds.scale,
        unit="slate" if rounds.unit == "slate" else None,
    )  # fmt: skip


def with_slate_unit(rounds: BanditLog) -> BanditLog:
    """Return rounds of slots whose independent parts, if they were single rounds, are lines."""
    return replace(rounds, unit="slate") if rounds.unit == "round" else rounds


def check_regular(counts: SlotCounts, name: str) -> None:
    """Raise DataError for slates of different numbers of slots."""
    if not counts.regular:
        raise DataError(
            f"{name}: lines of slates have {counts.fewest} to {counts.most} slots; a slate log has one number of slots."
            " Import the lines of each number apart, or give --keep-features, which makes a round of each slot"
        )


def _candidates(rounds: BanditLog, slots: int, *, whole: bool) -> CandidateSets | None:
    """Return the candidates of N slates: of their first slots (`whole`), or of all their slots together."""
    sets = rounds.candidates
    if sets is None:
        return None
    actions, count = sets.actions, len(sets) // slots
    sets = sets.take(np.arange(count) * slots).compact() if whole else _united(sets, slots, count)
    return None if _is_full(sets.sets, actions) else sets


def _united(sets: CandidateSets, slots: int, slates: int) -> CandidateSets:
    """Return the union of the sets of the slots of each slate; the rounds exclude nothing."""
    parts, index, before = [], [], 0
    for rows in blocks(slates, sets.actions * slots):
        of_slots = sets.sets[sets.index[rows.start * slots : rows.stop * slots]]
        united = np.bitwise_or.reduce(of_slots.reshape(-1, slots, sets.sets.shape[1]), axis=1)
        distinct, place = unique_rows(united)
        parts.append(distinct)
        index.append(before + place)
        before += len(distinct)
    return CandidateSets.without_exclusions(np.concatenate(parts), np.concatenate(index), sets.actions)


def _is_full(sets: NDArray[np.uint8], actions: int) -> bool:
    return bool(np.unpackbits(sets, axis=1, count=actions).all())
