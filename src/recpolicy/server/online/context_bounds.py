"""Which context vectors a server learns from: anybody may send one, and an enormous one would outweigh all others."""

import numpy as np
from numpy.typing import NDArray

FARTHEST = 2.0
"""Times the length of the longest context that the policy was trained with."""


def max_context_norm(contexts: NDArray[np.floating]) -> float:
    """The length up to which a vector is believed, of a policy trained with contexts [U, C]."""
    return FARTHEST * float(np.linalg.norm(contexts.astype(np.float64), axis=1).max())


def is_plausible_context(vector: NDArray[np.floating], width: int, longest: float) -> bool:
    """Whether a vector has `width` numbers, all finite, and is no longer than `longest`."""
    return vector.shape == (width,) and bool(np.linalg.norm(vector.astype(np.float64)) <= longest)  # not so for NaN
