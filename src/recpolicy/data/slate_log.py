"""The log of slates of K items shown at once, with the propensity of each slot and the reward.

N slates. Users and items are row numbers, as in BanditLog; ids appear only in files (slate_log_files.py). Either
each slot has a separate shelf, items that no other slot can show, and is filled without regard to the others; or all
slots are filled from the catalog, one after the other from the first, and no item comes twice in a slate. Each slate
may have had its own part of the catalog to choose from.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.files import content_digest
from recpolicy.data.candidates import CandidateSets, digest_parts

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
    candidates: CandidateSets | None = None
    """Of N slates: the items that their slots could show; None: the whole catalog in every slate."""
    slot_scale: tuple[float, float] = (0.0, 1.0)
    """Lowest and highest reward of a slot."""
    unit: str | None = None
    """slate: every slate is of another person, and users are contexts; None: the slates of a user belong together."""

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
        sets = self.candidates
        if sets is not None and (len(sets), sets.actions) != (len(self), len(self.action_items)):
            raise DataError(f"{self.name}: candidates of {len(sets)} slates and {sets.actions} items")
        for wrong, what in self._faults():
            if wrong.any():
                row = int(wrong.argmax())
                raise DataError(f"{self.name}: slate {row} ({self.event_id[row]!r}): {what}")

    def _faults(self) -> Iterator[tuple[NDArray[np.bool_], str]]:
        possible = np.isfinite(self.log_propensity) & (self.log_propensity <= 0)
        yield ~np.all(possible, axis=1), "a log-propensity that is not the logarithm of a probability in (0, 1]"
        low, high = self.scale
        yield ~((self.reward >= low) & (self.reward <= high)), f"its reward is not within {low:g}..{high:g}"
        yield from slate_faults(self.slate, self.action_items, self.shelves, self.candidates)
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

    @property
    def units(self) -> NDArray[np.integer]:
        """Numbers [N] of the independent parts that the slates belong to: users, or the slates themselves."""
        return np.arange(len(self)) if self.unit == "slate" else self.user

    def taken(self, rows: NDArray[np.integer]) -> "SlateLog":
        """Return the slates of these rows, in this order."""
        columns = {column: getattr(self, column)[rows] for column in COLUMNS}
        return replace(
            self, slot_reward=None if self.slot_reward is None else self.slot_reward[rows],
            candidates=None if self.candidates is None else self.candidates.take(rows), **columns,
        )  # fmt: skip

    @property
    def digest(self) -> str:
        """SHA-256 of all that was logged, in order; the name plays no part."""
        columns = [getattr(self, column) for column in COLUMNS]
        sets = () if self.candidates is None else digest_parts(self.candidates, self.action_items)
        return content_digest(*columns, self.slot_reward, self.action_items, self.shelves, list(self.scale), *sets)


def slate_faults(
    slate: NDArray[np.int32], action_items: NDArray[np.int32], shelves: NDArray[np.int16] | None,
    candidates: CandidateSets | None = None,
) -> Iterator[tuple[NDArray[np.bool_], str]]:  # fmt: skip
    """Yield the possible faults of the items of slates [N, K]: a mask [N] and a message."""
    unknown = ~np.isin(slate, action_items)
    yield np.any(unknown, axis=1), "an item that is not in the catalog of this log"
    if candidates is not None and not unknown.any():
        arm = np.searchsorted(action_items, slate)
        eligible = [candidates.contain(column) for column in arm.T]
        yield ~np.all(eligible, axis=0), "an item that is not among the candidates of the slate"
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
    slot: int, above: NDArray[np.integer], shelves: NDArray[np.int16] | None, actions: int,
    candidates: NDArray[np.bool_] | None = None,
) -> tuple[NDArray[np.intp], NDArray[np.bool_] | None]:  # fmt: skip
    """Return the arms [M] of a slot, and a mask [n, M] of those that each slate can still show; None: all.

    above [n, >= slot]: the arms in the slots before it. candidates [n, A]: the arms of each slate; None: all.
    """
    if shelves is not None:
        arms = np.flatnonzero(shelves == slot)
        return arms, None if candidates is None else candidates[:, arms]
    fresh = np.ones((len(above), actions), bool) if candidates is None else candidates.copy()
    np.put_along_axis(fresh, above[:, :slot], False, axis=1)
    return np.arange(actions), fresh
