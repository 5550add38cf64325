"""Limits on context vectors for learning: clients may send any vector, and a long one would outweigh all others."""

import numpy as np
from numpy.typing import NDArray

FARTHEST = 2.0
"""Multiple of the longest context of the policy's training."""


def max_context_norm(contexts: NDArray[np.floating]) -> float:
    """Return the greatest accepted length of a vector, for a policy trained with contexts [U, C]."""
    return FARTHEST * float(np.linalg.norm(contexts.astype(np.float64), axis=1).max())


def is_plausible_context(vector: NDArray[np.floating], width: int, longest: float) -> bool:
    """Return True if a vector has `width` numbers, all finite, and is no longer than `longest`."""
    return vector.shape == (width,) and bool(np.linalg.norm(vector.astype(np.float64)) <= longest)  # false for NaN
