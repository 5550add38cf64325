"""Snapshots of a policy during a training, from which its curve on held-out ratings can be made afterwards.

A training must not see held-out ratings, so it only writes what an evaluation needs: the exported arrays that determine
the greedy choice, before the first round and each time the number of rounds has doubled.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.arrays import read_arrays
from recpolicy.core.files import atomic_path

if TYPE_CHECKING:
    from recpolicy.agents.learner import ExportedPolicy

SNAPSHOTS = "snapshots"
"""Folder of the snapshots, in the folder of a training and in its artifact."""
ESTIMATOR = "estimator"
_HALVINGS = 6
"""Number of snapshots after the first round: at 1/64, ..., 1/4 and 1/2 of the training."""
_WIDTHS = ("covariance", "shared_covariance")
"""Arrays that only exploration reads."""
MAX_BYTES = 16 << 20
"""Bytes of a snapshot; a larger policy gets none."""


class Snapshots:
    """The snapshots of a training of `total` rounds, of `unit` interactions each.

    A resumed training writes the same ones again: which of them are due depends on the numbers of rounds only.
    """

    def __init__(self, folder: Path, total: int, unit: int, export: "Callable[[], ExportedPolicy]"):
        self._folder, self._unit, self._export = folder / SNAPSHOTS, unit, export
        self._due = [total / 2**halvings for halvings in range(1, _HALVINGS + 1)]

    def start(self) -> None:
        """Write the snapshot of the untrained policy."""
        self._write(0)

    def look(self, before: int, done: int) -> None:
        """Write a snapshot if one became due between these numbers of rounds."""
        if any(before < due <= done for due in self._due):
            self._write(done)

    def _write(self, done: int) -> None:
        policy = self._export()
        arrays: dict[str, Any] = {name: values for name, values in policy.arrays.items() if name not in _WIDTHS}
        if sum(values.nbytes for values in arrays.values()) > MAX_BYTES:
            return
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{done * self._unit}.npz"
        with atomic_path(path) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **(arrays | {ESTIMATOR: np.array(policy.estimator)}))


def read_snapshots(folder: Path) -> dict[int, tuple[str, dict[str, NDArray[Any]]]]:
    """Return (estimator, arrays) by number of interactions, fewest first; empty if the artifact has no snapshots.

    Raises ValueError, OSError or zipfile.BadZipFile for a file that is not whole.
    """
    steps = sorted(int(path.stem) for path in (folder / SNAPSHOTS).glob("*.npz") if re.fullmatch(r"\d+", path.stem))
    snapshots = {}
    for step in steps:
        arrays = read_arrays(folder / SNAPSHOTS / f"{step}.npz")
        snapshots[step] = str(arrays.pop(ESTIMATOR)), arrays
    return snapshots
