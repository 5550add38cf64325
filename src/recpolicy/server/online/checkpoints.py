"""Checkpoints of online learning: a small file with the state, and a file to which the changed arms are appended.

online/<policy digest>/current.json   the last reward, counts, and the file of the arms with its valid length
online/<policy digest>/<seq>.arms     blocks of arms that have learned, each with its SHA-256

A block holds M arms: M and D as 32-bit numbers, arm [M] int64, theta [M, D] and covariance [M, D, D] float64, all
little-endian, and the SHA-256 of these bytes. A later block replaces the arms of an earlier one. A step appends one
block and then replaces current.json, so the folder always has a complete state. A killed step leaves bytes behind the
valid length, which the next step overwrites. A file with twice the bytes that its arms need is written anew.

Format version 1 wrote all arms at each step, into `<seq>.npz`; it is still read.
"""

import hashlib
import os
import re
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.arrays import read_arrays
from recpolicy.core.errors import ArtifactError
from recpolicy.core.files import Migration, content_digest, read_versioned_json, write_json
from recpolicy.core.types import Array
from recpolicy.inference.artifact import PolicyParts
from recpolicy.inference.artifact_checks import is_digest
from recpolicy.inference.reward_estimators import unpack_symmetric
from recpolicy.server.online.posterior import ArmPosterior, Posterior, find_fault

CURRENT = "current.json"
FORMAT, FORMAT_VERSION = "recpolicy online learning", 2
_MIGRATIONS: Mapping[int, Migration] = {1: lambda body: {**body, "length": 0}}
_COUNTS = ("first", "last", "learnt", "passed")
_SPARE = 1 << 20
"""A file of the arms may exceed twice its needed size by this."""
_HEAD, _DIGEST = 8, 32
_OWN_FILE = re.compile(r"[0-9]+\.(npz|arms)")
"""Names of the files of arms; no other file is ever removed."""
_ADVICE = "remove the folder to start online learning again"


@dataclass(frozen=True)
class Checkpoint:
    """A state of learning."""

    posterior: Posterior
    first: int
    """Rewards up to this `seq` are older than this version's learning: part of its training, or unused."""
    last: int
    """The `seq` of the last reward."""
    learnt: int
    """Number of rewards learnt."""
    passed: int
    """Number of rewards skipped because the version does not know the item or user."""


@dataclass(frozen=True)
class ArmBlock:
    """The posteriors of M arms."""

    arm: NDArray[np.int64]  # [M]
    theta: Array  # [M, D]
    covariance: Array  # [M, D, D]

    @classmethod
    def from_posteriors(cls, learned: Mapping[int, ArmPosterior]) -> "ArmBlock":
        """Return the block of these arms, in the order of their numbers."""
        arms = sorted(learned)
        theta = np.array([learned[arm].theta for arm in arms])
        return cls(np.array(arms, np.int64), theta, np.array([learned[arm].covariance for arm in arms]))

    def posteriors(self) -> dict[int, ArmPosterior]:
        """Return the posteriors by arm; each has its own memory, so a replaced arm is freed."""
        rows = zip(self.arm.tolist(), self.theta, self.covariance, strict=True)
        return {arm: ArmPosterior(theta.copy(), covariance.copy()) for arm, theta, covariance in rows}

    def to_bytes(self) -> bytes:
        """Return the block as it is written."""
        sizes = np.array(self.theta.shape, "<u4").tobytes()
        body = b"".join(
            [sizes, self.arm.astype("<i8").tobytes(), self.theta.astype("<f8").tobytes(),
             self.covariance.astype("<f8").tobytes()]
        )  # fmt: skip
        return body + hashlib.sha256(body).digest()


@dataclass(frozen=True)
class CurrentState:
    """The content of current.json."""

    file: str
    """Name of the file of the arms; empty before the first reward."""
    length: int
    """Valid bytes of that file."""
    digest: str
    """Digest of the posterior."""
    counts: Mapping[str, int]

    @property
    def is_old(self) -> bool:
        """True for a state of format version 1."""
        return self.file.endswith(".npz")

    def extends(self, older: "CurrentState") -> bool:
        """Return True if this state appends blocks to those of an older one, or equals it."""
        return not older.is_old and older.file == self.file and older.length <= self.length


def checkpoint_folder(state: Path, digest: str) -> Path:
    """Return the folder of a version's checkpoints; raises ArtifactError for a digest that is none."""
    if not is_digest(digest):
        raise ArtifactError(f"the policy's digest is {ascii(digest)[:80]}; expected a SHA-256")
    return state / "online" / digest


def read_current(folder: Path) -> CurrentState | None:
    """Return the latest state; None before the first one. Raises ArtifactError for a damaged file."""
    path = folder / CURRENT
    if not path.exists():
        return None
    body = read_versioned_json(path, FORMAT, FORMAT_VERSION, _MIGRATIONS, advice=_ADVICE)
    try:
        state = CurrentState(str(body["file"]), int(body["length"]), str(body["digest"]),
                             {name: int(body[name]) for name in _COUNTS})  # fmt: skip
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path}: not a complete state of online learning: {error!r}; {_ADVICE}") from None
    if state.file and not _OWN_FILE.fullmatch(state.file):
        raise ArtifactError(f"{path}: {state.file!r} is not the name of a file in this folder; {_ADVICE}")
    return state


def read_blocks(folder: Path, state: CurrentState, trained: PolicyParts, start: int = 0) -> Iterator[ArmBlock]:
    """Yield the blocks from byte `start` on.

    Raises FileNotFoundError if a newer state has replaced the file, ArtifactError for a damaged file.
    """
    if not state.file:
        return
    path = folder / state.file
    try:
        if state.is_old:
            yield _read_old(path, state, trained)
            return
        with path.open("rb") as stream:
            stream.seek(start)
            while stream.tell() < state.length:
                yield _read_block(stream, trained)
    except FileNotFoundError:
        raise
    except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
        raise ArtifactError(f"{path}: the posterior cannot be read: {error}; {_ADVICE}") from None


class CheckpointJournal:
    """The checkpoints of one version, with the latest one in memory; the process that learns writes them."""

    def __init__(self, folder: Path, trained: PolicyParts):
        self._folder, self._trained = folder, trained
        self._state: CurrentState | None = None
        self._checkpoint: Checkpoint | None = None

    def read(self) -> Checkpoint | None:
        """Return the latest checkpoint; None before the first one. Reads only the bytes that are new.

        Raises ArtifactError for a damaged one.
        """
        for _ in range(3):  # another process may replace the file between the two reads
            state = read_current(self._folder)
            if state is None:  # or an operator removed the folder
                self._state = self._checkpoint = None
            if state is None or state == self._state:
                return self._checkpoint
            before, start = self._continued(state)
            learned = dict(before)
            try:
                for block in read_blocks(self._folder, state, self._trained, start):
                    learned |= block.posteriors()
            except FileNotFoundError:
                continue
            posterior = Posterior(self._trained, learned)
            if not state.is_old and posterior.digest != state.digest:
                raise ArtifactError(f"{self._folder}: the posterior does not match its digest; {_ADVICE}")
            self._state, self._checkpoint = state, Checkpoint(posterior, **state.counts)
            return self._checkpoint
        raise ArtifactError(f"{self._folder / CURRENT}: the file of the posterior is missing; {_ADVICE}")

    def write(self, checkpoint: Checkpoint) -> int:
        """Write the arms that changed since the last checkpoint; return the number of bytes of arms."""
        self._folder.mkdir(parents=True, exist_ok=True)
        learned, old = checkpoint.posterior.learned, self._state
        known = {} if self._checkpoint is None else self._checkpoint.posterior.learned
        changed: Mapping[int, ArmPosterior] = {
            arm: posterior for arm, posterior in learned.items() if known.get(arm) is not posterior
        }
        state = CurrentState("", 0, checkpoint.posterior.digest, {name: getattr(checkpoint, name) for name in _COUNTS})
        if old is not None and not old.is_old:
            state = replace(state, file=old.file, length=old.length)
        size = _block_bytes(len(changed), self._trained)
        if learned and (not state.file or state.length + size > 2 * _block_bytes(len(learned), self._trained) + _SPARE):
            changed, state = learned, replace(state, file=f"{checkpoint.last}.arms", length=0)
        written = ArmBlock.from_posteriors(changed).to_bytes() if changed else b""
        if written:
            _append(self._folder / state.file, state.length, written)
            state = replace(state, length=state.length + len(written))
        body = {"file": state.file, "length": state.length, "digest": state.digest, **state.counts}
        write_json(self._folder / CURRENT, {"format": FORMAT, "version": FORMAT_VERSION, **body})
        self._state, self._checkpoint = state, checkpoint
        if old is None or old.file != state.file:
            for path in self._folder.iterdir():
                if _OWN_FILE.fullmatch(path.name) and path.name != state.file:
                    path.unlink(missing_ok=True)
        return len(written)

    def _continued(self, state: CurrentState) -> tuple[Mapping[int, ArmPosterior], int]:
        """Return the arms in memory, and the byte from which a state continues them."""
        known, old = self._checkpoint, self._state
        if known is None or old is None or not state.extends(old):
            return {}, 0
        return known.posterior.learned, old.length


def _block_bytes(count: int, trained: PolicyParts) -> int:
    """Return the bytes of a block of `count` arms."""
    size = trained.policy["theta"].shape[1]
    return _HEAD + int(8 * count * (1 + size + size * size)) + _DIGEST


def _append(path: Path, length: int, data: bytes) -> None:
    """Write bytes durably behind the valid ones."""
    with path.open("r+b" if length else "wb") as stream:
        stream.truncate(length)
        stream.seek(length)
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def _read_block(stream: Any, trained: PolicyParts) -> ArmBlock:
    """Return the next block; raises ValueError for one that is damaged or of another policy."""
    head = stream.read(_HEAD)
    count, size = np.frombuffer(head, "<u4").tolist() if len(head) == _HEAD else (0, 0)
    arms, features = trained.policy["theta"].shape
    if not 0 < count <= arms or size != features:
        raise ValueError(f"found a block of {count} arms and {size} features; expected at most {arms}, and {features}")
    body = stream.read(_block_bytes(count, trained) - _HEAD - _DIGEST)
    if hashlib.sha256(head + body).digest() != stream.read(_DIGEST):
        raise ValueError("a block does not match its digest")
    arm = np.frombuffer(body, "<i8", count)
    theta = np.frombuffer(body, "<f8", count * size, 8 * count).reshape(count, size)
    covariance = np.frombuffer(body, "<f8", -1, 8 * count * (1 + size)).reshape(count, size, size)
    return _checked(ArmBlock(arm, theta, covariance), trained)


def _read_old(path: Path, state: CurrentState, trained: PolicyParts) -> ArmBlock:
    """Return the arms of a state of format version 1 that differ from the trained ones."""
    stored = read_arrays(path)
    theta, covariance = stored["theta"], stored["covariance"]
    if content_digest(theta, covariance) != state.digest:
        raise ValueError("the posterior does not match its digest")
    before = np.asarray(trained.policy["theta"], np.float64)
    if theta.shape != before.shape or covariance.shape != (*before.shape, before.shape[1]):
        raise ValueError(f"found theta of shape {theta.shape}; expected {before.shape}")
    packed = np.asarray(trained.policy["covariance"], np.float64)
    differs = (covariance != unpack_symmetric(packed, before.shape[1])).any(axis=(1, 2))
    arm = np.flatnonzero((theta != before).any(axis=1) | differs)
    return _checked(ArmBlock(arm, theta[arm], covariance[arm]), trained)


def _checked(block: ArmBlock, trained: PolicyParts) -> ArmBlock:
    fault = find_fault(block.theta, block.covariance)
    if not fault and block.arm.size and not 0 <= block.arm.min() <= block.arm.max() < len(trained.policy["theta"]):
        fault = "an arm is not in the catalog"
    if fault:
        raise ValueError(fault)
    return block
