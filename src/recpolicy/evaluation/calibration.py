"""Whether rating estimates mean what they say: over N held-out ratings, in rating units.

- bias: mean estimate - mean rating.
- error: mean distance between the two within bins of equal mass of the estimate, the expected calibration error of
  classifiers (Naeini, Cooper & Hauskrecht 2015) carried over to ratings. At least |bias|, and above 0 by chance alone:
  a bin of n ratings has a mean that is off by about 1/sqrt(n) stars.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError

BINS = 10


@dataclass(frozen=True)
class Calibration:
    """How far estimates are from ratings on average, over all of them and bin by bin."""

    bias: float
    error: float


def rating_calibration(predicted: NDArray[np.floating], actual: NDArray[np.floating], bins: int = BINS) -> Calibration:
    """Compare estimates with ratings, both [N]; raises DataError when they are empty, unequal in length, not finite."""
    if predicted.shape != actual.shape or not predicted.size:
        raise DataError(f"calibration: {predicted.shape} estimates for {actual.shape} ratings; expected one each")
    off = predicted.astype(np.float64) - actual.astype(np.float64)  # [N]
    if not np.isfinite(off).all():
        raise DataError(f"calibration: {np.count_nonzero(~np.isfinite(off))} estimates or ratings are not finite")
    order = np.argsort(predicted, kind="stable")
    start = np.unique(np.linspace(0, len(order), min(bins, len(order)), endpoint=False).astype(int))
    return Calibration(float(off.mean()), float(np.abs(np.add.reduceat(off[order], start)).sum() / len(order)))
