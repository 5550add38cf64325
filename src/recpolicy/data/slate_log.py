"""The log of slates of K items shown at once, with the propensity of each slot and the reward.

N slates. Users and items are row numbers, as in BanditLog; ids appear only in files (slate_log_files.py). Either
each slot has a separate shelf, items that no other slot can show, and is filled without regard to the others; or all
slots are filled from the catalog, one after the other from the first, and no item comes twice in a slate.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.files import content_digest

COLUMNS = ("event_id", "time", "user", "slate", "log_propensity", "reward", "policy", "version")
_TOLERANCE = 1e-6  # of slot rewards that should add up, times their size


@dataclass(frozen=True)
class SlateLog:
    """N checked slates of K slots."""

    event_id: NDArray[np.object_]  # [N] str, unique
    time: NDArray[np.int64]  # [N], milliseconds since 1970
    user: NDArray[np.int32]  # [N], row of the user table
    slate: NDArray[np.int32]  # [N, K], rows of the item table, first slot first
    log_propensity: NDArray[np.float64]  # [N, K], <= 0 and finite; of each slot, given the slots before it
    reward: NDArray[np.float64]  # [N], of the whole slate; finite and within scale
    slot_reward: NDArray[np.float64] | None  # [N, K], adds up to `reward`; None where only the whole was seen
    policy: NDArray[np.object_]  # [N] str, who chose
    version: NDArray[np.object_]  # [N] str, content digest of who chose
    action_items: NDArray[np.int32]  # [A], item rows, ascending
    shelves: NDArray[np.int16] | None
    """[A], the slot 0..K-1 that each item of the catalog may stand in; None: any slot, no item twice on a page."""
    scale: tuple[float, float]
    """Lowest and highest reward of a slate."""
    name: str

    def __post_init__(self) -> None:
        lengths = {len(getattr(self, column)) for column in COLUMNS}
        if len(lengths) != 1:
            raise DataError(f"{self.name}: columns of different lengths: {sorted(lengths)}")
        if self.slate.ndim != 2 or self.slate.shape[1] == 0 or self.log_propensity.shape != self.slate.shape:
            raise DataError(f"{self.name}: slates {self.slate.shape} and log-propensities {self.log_propensity.shape}")
        if not (np.diff(self.action_items) > 0).all():
            raise DataError(f"{self.name}: the catalog must list item rows in ascending order, each once")
        if self.shelves is not None and self.shelves.shape != self.action_items.shape:
            raise DataError(f"{self.name}: shelves {self.shelves.shape}; expected one per item of the catalog")
        for wrong, what in self._faults():
            if wrong.any():
                row = int(wrong.argmax())
                raise DataError(f"{self.name}: slate {row} ({self.event_id[row]!r}): {what}")

    def _faults(self) -> Iterator[tuple[NDArray[np.bool_], str]]:
        possible = np.isfinite(self.log_propensity) & (self.log_propensity <= 0)
        yield ~np.all(possible, axis=1), "a log-propensity that is not the logarithm of a probability in (0, 1]"
        low, high = self.scale
        yield ~((self.reward >= low) & (self.reward <= high)), f"its reward is not within {low:g}..{high:g}"
        yield from slate_faults(self.slate, self.action_items, self.shelves)
        if self.slot_reward is not None:
            yield sum_fault(self.slot_reward, self.reward), "its reward is not the sum of its slots' rewards"

    def __len__(self) -> int:
        """Return N."""
        return len(self.slate)

    @property
    def slots(self) -> int:
        """K."""
        return int(self.slate.shape[1])

    @property
    def arm(self) -> NDArray[np.intp]:
        """The items shown as places in the catalog [N, K]."""
        return np.searchsorted(self.action_items, self.slate)

    def taken(self, rows: NDArray[np.integer]) -> "SlateLog":
        """Return the slates of these rows, in this order."""
        columns = {column: getattr(self, column)[rows] for column in COLUMNS}
        return replace(self, slot_reward=None if self.slot_reward is None else self.slot_reward[rows], **columns)

    @property
    def digest(self) -> str:
        """SHA-256 of all that was logged, in order; the name plays no part."""
        columns = [getattr(self, column) for column in COLUMNS]
        return content_digest(*columns, self.slot_reward, self.action_items, self.shelves, list(self.scale))


def slate_faults(
    slate: NDArray[np.int32], action_items: NDArray[np.int32], shelves: NDArray[np.int16] | None
) -> Iterator[tuple[NDArray[np.bool_], str]]:
    """Yield the possible faults of the items of slates [N, K]: a mask [N] and a message."""
    unknown = ~np.isin(slate, action_items)
    yield np.any(unknown, axis=1), "an item that is not in the catalog of this log"
    if shelves is None:
        ordered = np.sort(slate, axis=1)
        yield np.any(np.diff(ordered, axis=1) == 0, axis=1), "an item that occurs twice in the slate"
        return
    place = np.minimum(np.searchsorted(action_items, slate), len(action_items) - 1)
    misplaced = shelves[place] != np.arange(slate.shape[1])
    yield np.any(misplaced, axis=1), "an item that does not belong to its slot's shelf"


def sum_fault(slot_reward: NDArray[np.float64], reward: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return a mask [N] of slates whose slot rewards [N, K] do not add up to the slate reward, or are NaN."""
    room = _TOLERANCE * (1 + np.abs(slot_reward).sum(axis=1))
    return np.asarray(~(np.abs(slot_reward.sum(axis=1) - reward) <= room))


def open_to(
    slot: int, above: NDArray[np.integer], shelves: NDArray[np.int16] | None, actions: int
) -> tuple[NDArray[np.intp], NDArray[np.bool_] | None]:
    """Return the arms [M] of a slot, and a mask [n, M] of those that each slate can still show; None: all.

    above [n, >= slot]: the arms in the slots before it.
    """
    if shelves is not None:
        return np.flatnonzero(shelves == slot), None
    fresh = np.ones((len(above), actions), bool)
    np.put_along_axis(fresh, above[:, :slot], False, axis=1)
    return np.arange(actions), fresh
