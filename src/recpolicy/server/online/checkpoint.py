"""Checkpoints of online learning: the last reward and the posterior after it.

online/<policy digest>/current.json   the last reward, counts, and the name of the posterior's file
online/<policy digest>/<seq>.npz      theta and covariance, float64

The .npz file is written first, then current.json is replaced, so the folder always has a complete state.
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
    """Rewards up to this `seq` are older than this version's learning: part of its training, or unused."""
    last: int
    """The `seq` of the last reward."""
    learnt: int
    """Number of rewards learnt."""
    passed: int
    """Number of rewards skipped because the version does not know the item or user."""


def checkpoint_folder(state: Path, content: str) -> Path:
    """Return the folder of a version's checkpoints."""
    return state / "online" / content


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a state; remove the one before it."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"{checkpoint.last}.npz"
    with atomic_path(folder / name) as temporary, temporary.open("wb") as stream:
        np.savez(stream, theta=checkpoint.beliefs.theta, covariance=checkpoint.beliefs.covariance)
    counts = {part: getattr(checkpoint, part) for part in ("first", "last", "learnt", "passed")}
    body = {"format": _FORMAT, "version": _FORMAT_VERSION, "file": name, "digest": checkpoint.beliefs.digest, **counts}
    write_json(folder / CURRENT, body)
    for old in folder.glob("*.npz"):
        if old.name != name:
            old.unlink(missing_ok=True)


def read_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the latest state; None before the first one. Raises ArtifactError for a damaged one."""
    path = folder / CURRENT
    for _ in range(3):  # another process may write a new one, and remove the old one, between the two reads
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
