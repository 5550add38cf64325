"""Read arrays from .npz files."""

import threading
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ONE_AT_A_TIME = threading.Lock()
"""NumPy has Python's parser read every array's header, and CPython 3.11 counts that parser's depth once for all
threads: two at a time may end in "SystemError: AST constructor recursion depth mismatch" (CPython issue 106905)."""


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Return all arrays of a .npz file by name; pickled objects are rejected.

    Raises FileNotFoundError, and ValueError, OSError or zipfile.BadZipFile for a file that is not whole.
    """
    with _ONE_AT_A_TIME, path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
        return dict(stored)
