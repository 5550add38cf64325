"""The cursor of an export through a table whose numbers may be committed out of order.

PostgreSQL may commit a later number before an earlier one. The cursor therefore remembers skipped numbers and looks for
them again for an hour: no transaction takes that long.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import or_

Numbers = NDArray[np.int64]
_GAP_MS = 3_600_000
_GAP_NUMBERS = 10_000  # an older gap belongs to no open transaction


@dataclass(frozen=True)
class Cursor:
    """The progress of an export through a table."""

    seq: int = 0
    gaps: tuple[tuple[int, int, int], ...] = ()
    """Skipped numbers: first, last, and the time when they were first missing."""
    left_out: Mapping[str, int] = field(default_factory=dict)

    def fresh(self, seq: Any) -> Any:
        """Return the condition that a row is new."""
        return or_(seq > self.seq, *(seq.between(first, last) for first, last, _ in self.gaps))

    def after(self, found: Numbers, left_out: Mapping[str, int], now: int) -> "Cursor":
        """Return the cursor after the rows of these numbers (ascending)."""
        gaps = []
        for first, last, at in self.gaps:
            if now - at < _GAP_MS:
                inside = found[(found >= first) & (found <= last)]
                gaps += [(*gap, at) for gap in _between(np.array([first - 1, *inside, last + 1]))]
        later = found[found > self.seq]
        gaps += [(*gap, now) for gap in _between(np.array([self.seq, *later]))]
        short = tuple((first, last, at) for first, last, at in gaps if last - first < _GAP_NUMBERS)
        return Cursor(int(later[-1]) if len(later) else self.seq, short, left_out)


def _between(numbers: Numbers) -> list[tuple[int, int]]:
    """Return first and last of the missing numbers between neighbors."""
    jumps = np.flatnonzero(np.diff(numbers) > 1)
    return [(int(numbers[at]) + 1, int(numbers[at + 1]) - 1) for at in jumps]
