"""What was learnt while serving, on disk: which rewards it rests on, and the beliefs after them.

    online/<version content>/current.json   the last reward taken in, counts, and which file holds the beliefs
    online/<version content>/<seq>.npz      theta and covariance, float64

The file is written first, then current.json is renamed into its place: there is always a whole state to go on from.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recpolicy.core.arrays import read_arrays
from recpolicy.core.errors import ArtifactError
from recpolicy.core.files import atomic_path, read_versioned_json, write_json
from recpolicy.server.online.posterior import Posterior

CURRENT = "current.json"
_FORMAT, _FORMAT_VERSION = "recpolicy online learning", 1


@dataclass(frozen=True)
class Checkpoint:
    """A state of learning."""

    beliefs: Posterior
    first: int
    """Rewards up to this `seq` came before this version learnt; they are in its training or in nobody's."""
    last: int
    """The `seq` of the last reward that was looked at."""
    learnt: int
    """Rewards taken in."""
    passed: int
    """Rewards passed over: of items or users that the version does not know."""


def checkpoint_folder(state: Path, content: str) -> Path:
    """Where the checkpoints of a version lie."""
    return state / "online" / content


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a state; the one before it is removed."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{checkpoint.last}.npz"
    with atomic_path(folder / name) as beside, beside.open("wb") as stream:
        np.savez(stream, theta=checkpoint.beliefs.theta, covariance=checkpoint.beliefs.covariance)
    counts = {part: getattr(checkpoint, part) for part in ("first", "last", "learnt", "passed")}
    body = {"format": _FORMAT, "version": _FORMAT_VERSION, "file": name, "digest": checkpoint.beliefs.digest, **counts}
    write_json(folder / CURRENT, body)
    for old in folder.glob("*.npz"):
        if old.name != name:
            old.unlink(missing_ok=True)


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """The state there is; None where nothing was learnt yet. Raises ArtifactError for a damaged one."""
    path = folder / CURRENT
    for _ in range(3):  # another process may write a new one, and remove the old, between the two reads
        if not path.exists():
            return None
        body = read_versioned_json(path, _FORMAT, _FORMAT_VERSION)
        try:
            stored = read_arrays(folder / str(body["file"]))
            beliefs = Posterior(stored["theta"], stored["covariance"])
        except FileNotFoundError:
            continue
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise ArtifactError(
                f"{path}: its beliefs cannot be read: {error}; remove the folder to learn anew"
            ) from None
        if beliefs.digest != body["digest"]:
            raise ArtifactError(f"{path}: its beliefs changed since they were written; remove the folder to learn anew")
        return Checkpoint(beliefs, *(int(body[part]) for part in ("first", "last", "learnt", "passed")))
    raise ArtifactError(f"{path}: names a file that is not there; remove the folder to learn anew")
