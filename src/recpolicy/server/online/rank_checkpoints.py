"""Checkpoints of a feature policy that learns while it serves.

online_ranks/<policy digest>/current.json   the last event, counts, and the folder of the policy
online_ranks/<policy digest>/<seq>/         the policy as an artifact (inference/feature_artifact.py)

A step writes a new folder and then replaces current.json, so there is always a complete state; former folders go.
"""

import re
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from recpolicy.core.errors import ArtifactError
from recpolicy.core.files import content_digest, read_versioned_json, write_json
from recpolicy.inference.artifact_checks import is_digest
from recpolicy.inference.feature_artifact import read_feature_policy, write_feature_policy
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.server.online.checkpoints import CURRENT

ONLINE_RANKS = "online_ranks"
FORMAT, FORMAT_VERSION = "recpolicy online learning of ranks", 1
_FOLDER = re.compile(r"[0-9]{1,18}")


@dataclass(frozen=True)
class RankCheckpoint:
    """A state of learning."""

    last: int
    """The `seq` of the last event."""
    learned: int = 0
    """Number of events learned."""
    passed: int = 0
    """Number of events left out: without a key, not activated, or not of the policy's features."""
    folder: str = ""
    """Name of the folder of the policy; empty: as trained."""


def rank_checkpoint_folder(state: Path, digest: str) -> Path:
    """Return the folder of a version's checkpoints; raises ArtifactError for a digest that is none."""
    if not is_digest(digest):
        raise ArtifactError(f"the policy's digest is {ascii(digest)[:80]}; expected a SHA-256")
    return state / ONLINE_RANKS / digest


def read_rank_checkpoint(folder: Path) -> RankCheckpoint | None:
    """Return the latest state; None before the first one. Raises ArtifactError for a damaged file."""
    path = folder / CURRENT
    if not path.exists():
        return None
    advice = "remove the folder to start online learning again"
    body = read_versioned_json(path, FORMAT, FORMAT_VERSION, digest_key="digest", advice=advice)
    last, learned, passed, name = (body.get(key) for key in ("last", "learned", "passed", "folder"))
    sound = all(type(count) is int and count >= 0 for count in (last, learned, passed)) and isinstance(name, str)
    if not sound or (name and not _FOLDER.fullmatch(str(name))):
        raise ArtifactError(f"{path}: damaged; {advice}")
    return RankCheckpoint(last, learned, passed, str(name))  # type: ignore[arg-type]


def write_rank_checkpoint(folder: Path, checkpoint: RankCheckpoint, policy: FeaturePolicy | None) -> None:
    """Write a state, with its policy unless the former one stays, and remove former policies."""
    if policy is not None:
        write_feature_policy(policy, folder / checkpoint.folder)
    body = {"format": FORMAT, "version": FORMAT_VERSION, **asdict(checkpoint)}
    write_json(folder / CURRENT, {**body, "digest": content_digest(body)})
    for path in folder.iterdir():
        if _FOLDER.fullmatch(path.name) and path.name != checkpoint.folder:
            shutil.rmtree(path, ignore_errors=True)


def read_learned_policy(folder: Path, checkpoint: RankCheckpoint) -> FeaturePolicy:
    """Return the policy of a state; raises ArtifactError for a damaged one."""
    return read_feature_policy(folder / checkpoint.folder)
