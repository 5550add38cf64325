"""Candidate generation: the M items of the highest expected rating by embeddings, among which a policy ranks.

A arms, D embedding. Blocks of arms bound the memory: of each block only the best M go on,
so the result is exact. 10^5 items of 16 columns are one matrix product per block and one partition.
"""

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.types import Bools

Floats = NDArray[np.floating]
ARMS_AT_ONCE = 1 << 16
"""Arms of one matrix product."""


def top_candidates(
    user: Floats, item: Floats, offset: Floats, allowed: Bools, count: int, at_once: int = ARMS_AT_ONCE
) -> NDArray[np.intp]:
    """Return the allowed arms with the highest offset + item . user, ascending.

    Args:
        user: The user's embedding [D].
        item: Embeddings of the arms [A, D].
        offset: [A].
        allowed: [A].
        count: Number M of candidates; fewer where fewer arms are allowed. Of equal ones at the end any may be taken.
        at_once: Arms per block.
    """
    best, score = np.empty(0, np.intp), np.empty(0, item.dtype)
    for start in range(0, len(item), at_once):
        block = slice(start, start + at_once)
        arms = start + np.flatnonzero(allowed[block])
        rating = item[block] @ user + offset[block]
        best = np.concatenate([best, arms])
        score = np.concatenate([score, rating[arms - start]])
        if len(best) > count:
            kept = np.argpartition(-score, count - 1)[:count]
            best, score = best[kept], score[kept]
    return np.sort(best)
