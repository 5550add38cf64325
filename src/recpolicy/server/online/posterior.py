"""The state of a linear policy that learns online: its posterior, the checkpoints of it, and limits on contexts.

A arms, D features. The posterior is one linear model per arm, updated reward by reward in float64. P [A, D, D] is the
posterior covariance over the noise variance. One reward r of arm a at features x is the step of
agents/linear_posterior.py: P <- f P + (1 - f) I / precision, if f < 1; then g = P x / (1 + x'Px);
theta += g (r - x.theta); P <- P - g (Px)'. Rewards are learned one at a time, in their order, so batches do not change
a bit of the result.

online/<policy digest>/current.json   the last reward, counts, and the name of the posterior's file
online/<policy digest>/<seq>.npz      theta and covariance, float64

The .npz file is written first, then current.json is replaced, so the folder always has a complete state.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.arrays import find_implausible, read_arrays
from recpolicy.core.errors import ArtifactError, ConfigError, DivergedError
from recpolicy.core.files import atomic_path, content_digest, read_versioned_json, write_json
from recpolicy.core.types import Array
from recpolicy.inference.artifact import PolicyParts
from recpolicy.inference.reward_estimators import pack_symmetric

CURRENT = "current.json"
_FORMAT, _FORMAT_VERSION = "recpolicy online learning", 1
_MAX_NORM_RATIO = 2.0
"""Longest accepted context, as a multiple of the longest one of the policy's training."""


@dataclass(frozen=True)
class Posterior:
    """The posterior of a linear policy."""

    theta: Array  # [A, D]
    covariance: Array  # [A, D, D]

    @property
    def digest(self) -> str:
        """SHA-256 of all bits."""
        return content_digest(self.theta, self.covariance)

    def check(self) -> None:
        """Raise ValueError if a number is not finite or absurdly large, or a covariance has a negative variance."""
        fault = find_implausible({"theta": self.theta, "covariance": self.covariance})
        if not fault and not (np.diagonal(self.covariance, axis1=1, axis2=2) >= 0).all():
            fault = "covariance holds negative variances"
        if fault:
            raise ValueError(fault)

    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the arrays of the policy in the format of its artifact."""
        covariance = pack_symmetric(self.covariance.astype(np.float32))
        return {"theta": self.theta.astype(np.float32), "covariance": covariance}


def can_learn(artifact: PolicyParts) -> bool:
    """Return True if the policy is one linear model per arm."""
    return artifact.estimator == "linear"


def initial_posterior(artifact: PolicyParts) -> Posterior:
    """Return the posterior of a policy after training; raises ConfigError for a policy that is not linear per arm."""
    if not can_learn(artifact):
        raise ConfigError(f"{artifact.agent} cannot learn online; linucb and lints can")
    theta = np.asarray(artifact.policy["theta"], np.float64)
    return Posterior(theta, unpack_symmetric(np.asarray(artifact.policy["covariance"], np.float64), theta.shape[1]))


def get_forgetting(metadata: Mapping[str, Any]) -> tuple[float, float]:
    """Return the forgetting factor and the prior precision of the policy's training; 1 and 1 if it does not forget."""
    settings = metadata.get("config", {}).get("agent", {})
    forgetting = float(settings.get("forgetting", 1.0))
    return (forgetting, float(settings["precision"])) if forgetting < 1 else (1.0, 1.0)


def make_regressors(artifact: PolicyParts, context: NDArray[np.floating]) -> Array:
    """Return the regressors [D] of a context [C]."""
    x = np.asarray(context, np.float64)
    return np.append(x, 1.0) if bool(artifact.policy["bias"]) else x


def learn(
    beliefs: Posterior, arm: NDArray[np.integer], features: Array, reward: Array, forgetting: float, precision: float
) -> Posterior:
    """Learn from N rewards [N] of arms [N] at features [N, D], in their order; raises DivergedError."""
    theta, covariance = beliefs.theta.copy(), beliefs.covariance.copy()
    prior = np.eye(theta.shape[1]) / precision  # [D, D]
    for a, x, r in zip(arm.tolist(), features, reward.tolist(), strict=True):
        before = covariance[a] if forgetting == 1 else forgetting * covariance[a] + (1 - forgetting) * prior
        direction = before @ x
        gain = direction / (1.0 + x @ direction)
        theta[a] += gain * (r - x @ theta[a])
        covariance[a] = before - np.outer(gain, direction)
    learnt = Posterior(theta, covariance)
    try:
        learnt.check()
    except ValueError as error:
        raise DivergedError(f"learning from {len(arm)} rewards diverged: {error}; the posterior before stays") from None
    return learnt


def unpack_symmetric(packed: Array, size: int) -> Array:
    """Return the matrices [A, D, D] of triangles [A, D (D + 1) / 2] whose off-diagonals are doubled."""
    rows, columns = np.triu_indices(size)
    matrices = np.empty((len(packed), size, size), packed.dtype)
    matrices[:, rows, columns] = matrices[:, columns, rows] = packed / np.where(rows == columns, 1.0, 2.0)
    return matrices


def max_context_norm(contexts: NDArray[np.floating]) -> float:
    """Return the greatest accepted length of a vector, for a policy trained with contexts [U, C].

    Clients may send any vector, and a very long one would outweigh all others in learning.
    """
    return _MAX_NORM_RATIO * float(np.linalg.norm(contexts.astype(np.float64), axis=1).max())


def is_plausible_context(vector: NDArray[np.floating], width: int, longest: float) -> bool:
    """Return True if a vector has `width` numbers, all finite, and is no longer than `longest`."""
    return vector.shape == (width,) and bool(np.linalg.norm(vector.astype(np.float64)) <= longest)  # false for NaN


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
            beliefs.check()
        except FileNotFoundError:
            continue
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise ArtifactError(
                f"{path}: the posterior cannot be read: {error}; remove the folder to start online learning again"
            ) from None
        if beliefs.digest != body["digest"]:
            raise ArtifactError(
                f"{path}: the posterior does not match its digest; remove the folder to start online learning again"
            )
        return Checkpoint(beliefs, *(int(body[part]) for part in ("first", "last", "learnt", "passed")))
    raise ArtifactError(
        f"{path}: the file of the posterior is missing; remove the folder to start online learning again"
    )
