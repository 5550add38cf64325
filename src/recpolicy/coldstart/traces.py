"""Traces: on which days users were active after an item was shown to them, as far as these days are over.

N traces of I items, J days. A trace starts on the day on which the item was shown. Its day j, from 1, is the j-th day
after that. Day j is observed once it is over: if start + j <= until, the last day that is over.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.coldstart.filter import ItemStatistics, Whitening
from recpolicy.coldstart.prior import ItemMoments
from recpolicy.core.errors import DataError
from recpolicy.data.feature_columns import object_array

MAX_DAYS = 366
"""Longest horizon; the filter solves a system of as many equations for each item."""
_EPOCH = date(1970, 1, 1)


@dataclass(frozen=True)
class Traces:
    """N traces of I items with a horizon of J days."""

    items: NDArray[np.object_]  # [I], ids
    item: NDArray[np.int64]  # [N], rows of the items
    start: NDArray[np.int64]  # [N], day on which the item was shown
    active: NDArray[np.bool_]  # [N, J], False where a day is not over
    count: NDArray[np.int64]  # [N], number of equal traces that a row stands for
    until: int
    """The last day that is over."""
    dated: bool = False
    """Days are dates, counted from 1970-01-01."""

    def __len__(self) -> int:
        return int(self.count.sum())

    @property
    def days(self) -> int:
        """Return the horizon J."""
        return self.active.shape[1]

    @property
    def observed_days(self) -> NDArray[np.int64]:
        """Return the number of observed days [N]."""
        return np.clip(self.until - self.start, 0, self.days)

    @property
    def finished(self) -> NDArray[np.bool_]:
        """Return True [I] for items whose traces are all observed to the horizon."""
        waiting = np.zeros(len(self.items), bool)
        waiting[self.item[self.observed_days < self.days]] = True
        return ~waiting

    def format_day(self, day: int) -> str:
        """Return a day as a date if the file had dates, else as a number."""
        return (_EPOCH + timedelta(days=int(day))).isoformat() if self.dated else str(int(day))

    def statistics(self, whitening: Whitening, items: Sequence[Any] | None = None) -> ItemStatistics:
        """Return the statistics of the items, or of other items of which some have traces.

        Args:
            whitening: The factors of the prior's trace covariance.
            items: Ids of items; traces of others do not count.
        """
        place = np.arange(len(self.items))
        if items is not None:
            row_of = {str(item): row for row, item in enumerate(items)}
            place = np.array([row_of.get(str(item), -1) for item in self.items], np.int64)
        rows = place[self.item] >= 0
        return ItemStatistics.from_traces(
            place[self.item[rows]], self.active[rows].astype(np.float64), self.observed_days[rows],
            len(self.items if items is None else items), whitening, self.count[rows].astype(np.float64),
        )  # fmt: skip

    def moments(self) -> ItemMoments:
        """Return the moments of finished traces; raise DataError if an item has unfinished ones."""
        if not self.finished.all():
            row = int(np.argmax(self.observed_days < self.days))
            first, last, today = map(self.format_day, (self.start[row], self.start[row] + self.days, self.until))
            raise DataError(
                f"item {self.items[self.item[row]]!r} is not finished: its trace from {first} ends on {last}, after"
                f" {today}; leave out such items with --finished-only"
            )
        weight = self.count.astype(np.float64)
        return ItemMoments.from_traces(self.item, self.active.astype(np.float64), len(self.items), weight)

    def select(self, keep: NDArray[np.bool_]) -> "Traces":
        """Return the traces of some items, given as [I]."""
        rows, row = keep[self.item], np.cumsum(keep) - 1
        return replace(
            self, items=self.items[keep], item=row[self.item[rows]], start=self.start[rows],
            active=self.active[rows], count=self.count[rows],
        )  # fmt: skip

    def as_of(self, until: int) -> "Traces":
        """Return what was known when day `until` was over: traces from before that day, with the days over by then."""
        rows = self.start < until
        start = self.start[rows]
        over = start[:, np.newaxis] + np.arange(1, self.days + 1) <= until
        return replace(
            self, item=self.item[rows], start=start, active=self.active[rows] & over, count=self.count[rows],
            until=until,
        )  # fmt: skip


def concatenate(parts: Sequence[Traces]) -> Traces:
    """Return the traces of several files; raise DataError unless all have one horizon and one kind of days."""
    first = parts[0]
    if len(parts) == 1:
        return first
    for part in parts[1:]:
        if part.days != first.days or part.dated != first.dated:
            raise DataError("traces with dates and traces with numbered days; write all in one of the two ways")
    ids: dict[str, Any] = {}
    for part in parts:
        for item in part.items:
            ids.setdefault(str(item), item)
    row_of = {text: row for row, text in enumerate(ids)}
    item = [np.array([row_of[str(item)] for item in part.items], np.int64)[part.item] for part in parts]
    return Traces(
        object_array(list(ids.values())), np.concatenate(item), np.concatenate([part.start for part in parts]),
        np.concatenate([part.active for part in parts]), np.concatenate([part.count for part in parts]),
        max(part.until for part in parts), first.dated,
    )  # fmt: skip
