"""Read arrays from .npz files, and check that their numbers are plausible."""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LARGEST = 1e15
"""Largest plausible size of a number in a learner, a policy or a rating model; float32 loses all small ones there."""
_ONE_AT_A_TIME = threading.Lock()
"""NumPy has Python's parser read every array's header, and CPython 3.11 counts that parser's depth once for all
threads: two at a time may end in "SystemError: AST constructor recursion depth mismatch" (CPython issue 106905)."""


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return all arrays of a .npz file by name; pickled objects are rejected.

    Raises FileNotFoundError, and ValueError, OSError or zipfile.BadZipFile for a file that is not whole.
    """
    with _ONE_AT_A_TIME, path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        return dict(stored)


def find_implausible(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Return the first array with a number that is not finite or exceeds LARGEST; an empty text if there is none."""
    for name, array in arrays.items():
        if array.dtype.kind != "f" or not array.size:
            continue
        low, high = float(array.min()), float(array.max())  # NaN if any number is
        if not np.isfinite(low) or not np.isfinite(high):
            return f"{name} holds numbers that are not finite"
        if max(-low, high) > LARGEST:
            return f"{name} holds absurd numbers, {low:.3g} to {high:.3g}"
    return ""
