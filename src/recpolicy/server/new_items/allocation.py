"""The allocation of new items: a file in the state folder that the daily job replaces, and that every process reads.

I items. The file has the belief about each new item and its share of the lists that show a new item.
"""

import json
import logging
import math
from collections.abc import Hashable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.errors import ArtifactError
from recpolicy.core.files import content_digest, read_versioned_json, write_text
from recpolicy.inference.new_item_slot import NewItemSlot, slot_of
from recpolicy.inference.scorer import Scorer
from recpolicy.server.db.events import now_ms
from recpolicy.server.settings import NewItemsConfig

logger = logging.getLogger(__name__)

FOLDER, FILE = "new_items", "allocation.json"
FORMAT, VERSION = "recpolicy new item allocation", 1
_MAX_BYTES = 16 << 20
_DAY_MS = 86_400_000
MAX_AGE = 3
"""Days after which an allocation is no longer served: the job that renews it does not run."""
_ADVICE = "run the job allocate_new_items again"


@dataclass(frozen=True)
class NewItem:
    """One new item: the belief about it, and its share."""

    item_id: int | str
    mean: float
    """Expected active days of a user within the horizon."""
    lo: float
    """Lower end of the 95 % interval of the expectation."""
    hi: float
    days: int
    """Days since the first list that showed it; 0 before one."""
    traces: int
    """Users who were shown it and have at least one observed day."""
    probability: float
    """Share of the lists with a new item that show this one."""


@dataclass(frozen=True)
class NewItemAllocation:
    """The allocation of a day."""

    day: str
    """The last day that the beliefs know, in UTC."""
    version: int
    """The version whose new items these are."""
    prior: str
    """Digest of the prior."""
    horizon: int
    """Days of a trace."""
    settings: str
    """Digest of the settings of the job."""
    items: tuple[NewItem, ...]
    first_days: Mapping[str, int] = field(default_factory=dict)
    """Day (since 1970) of the first list with each item that was added, also of those that are new no longer: the store
    may have deleted that list."""

    @property
    def age(self) -> int:
        """Return the number of days since the allocation was due to be renewed; 0 on its day."""
        return _age(self.day)

    @property
    def shares(self) -> Mapping[Hashable, float]:
        """Return the probabilities by item id."""
        return {item.item_id: item.probability for item in self.items}


def _age(day: str) -> int:
    return int(now_ms() // _DAY_MS) - 1 - int(np.datetime64(day, "D").astype(np.int64))


def allocation_path(state_folder: Path) -> Path:
    """Return the file of the allocation."""
    return state_folder / FOLDER / FILE


def write_allocation(path: Path, allocation: NewItemAllocation) -> None:
    """Replace the allocation, atomically."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    body = {"format": FORMAT, "version": VERSION, "allocation": asdict(allocation)}
    write_text(path, json.dumps({**body, "digest": content_digest(body)}, allow_nan=False) + "\n")


def read_allocation(path: Path) -> NewItemAllocation | None:
    """Return the allocation; None before the first one. Raises ArtifactError for a file that is damaged or foreign."""
    if not path.exists():
        return None
    body = read_versioned_json(path, FORMAT, VERSION, digest_key="digest", advice=_ADVICE, max_bytes=_MAX_BYTES)
    try:
        parts: dict[str, Any] = body["allocation"]
        allocation = NewItemAllocation(**{**parts, "items": tuple(NewItem(**item) for item in parts["items"])})
        total = math.fsum(allocation.shares.values())
        valid = all(0 <= share <= 1 for share in allocation.shares.values())
        _age(allocation.day)
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: not a whole allocation: {error}; {_ADVICE}") from None
    if not valid or (allocation.items and not math.isclose(total, 1.0, abs_tol=1e-6)):
        raise ArtifactError(f"{path}: the shares of new items sum to {total:g}; expected 1; {_ADVICE}")
    return allocation


class NewItemPlaces:
    """Finds the place for new items in the lists of a version, from the allocation in a state folder."""

    def __init__(self, path: Path, config: NewItemsConfig):
        self.path = path
        self._config = config
        self._day: str | None = None

    def is_due(self) -> bool:
        """Return True once the allocation that was read last is too old."""
        return self._day is not None and _age(self._day) > MAX_AGE

    def __call__(self, policy: Any) -> NewItemSlot | None:
        """Return the place; None for policies of features, and without an allocation of items of this version.

        A damaged allocation is logged, and lists have no new items then.
        """
        if not isinstance(policy, Scorer):
            return None
        try:
            allocation = read_allocation(self.path)
        except ArtifactError as error:
            logger.error("lists show no new items: %s", error)
            return None
        self._day = None if allocation is None else allocation.day
        if allocation is None or not allocation.items:
            return None
        if self.is_due():
            logger.error(
                "lists show no new items: the allocation until %s is %d days old; %s", allocation.day, allocation.age,
                _ADVICE,
            )  # fmt: skip
            return None
        lacking = [item for item in allocation.shares if policy.arm(item) is None]
        if lacking:
            logger.warning(
                "the allocation of new items names %d items that a serving version lacks, such as %r; their share goes"
                " to the others", len(lacking), lacking[0],
            )  # fmt: skip
        return slot_of(allocation.shares, policy, self._config.share, self._config.place)
