"""Artifacts of any kind: policies of rated items, feature policies and strategy policies.

The manifest's format tells the kind.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recpolicy.core.errors import ArtifactError
from recpolicy.core.files import content_digest, file_digest
from recpolicy.inference import artifact, feature_artifact
from recpolicy.inference.artifact_files import MANIFEST, format_name
from recpolicy.inference.feature_artifact import read_feature_policy
from recpolicy.inference.load_scorer import load_scorer
from recpolicy.strategies import artifact as strategy_artifact
from recpolicy.strategies.artifact import read_strategy_policy


@dataclass(frozen=True)
class ArtifactKind:
    """The readers of one kind of artifact."""

    read_manifest: Callable[[Path], dict[str, Any]]
    load: Callable[[Path], Any]
    """Read it and let it answer; raise ArtifactError if it cannot."""


KINDS: Mapping[str, ArtifactKind] = {
    artifact.FORMAT: ArtifactKind(artifact.read_manifest, load_scorer),
    feature_artifact.FORMAT: ArtifactKind(feature_artifact.read_manifest, read_feature_policy),
    strategy_artifact.FORMAT: ArtifactKind(strategy_artifact.read_manifest, read_strategy_policy),
}


def kind_of(folder: Path) -> ArtifactKind:
    """Return the kind of the artifact in a folder; a manifest that names no known format counts as an item policy's."""
    return KINDS.get(format_name(folder), KINDS[artifact.FORMAT])


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read recpolicy.json; raises ArtifactError for a folder that is not an artifact of a version we read."""
    return kind_of(folder).read_manifest(folder)


def check_answers(folder: Path) -> None:
    """Raise ArtifactError unless the policy in a folder can be loaded and answers."""
    kind_of(folder).load(folder)


def manifest_digest(folder: Path) -> str:
    """Return a digest of the manifest as it was written, and so of all files that it names; see `read_manifest`."""
    read_manifest(folder)
    return content_digest(json.loads((folder / MANIFEST).read_text(encoding="utf-8")))


def verify(folder: Path) -> None:
    """Check every file of the artifact against its digest; raises ArtifactError that names the first difference."""
    for name, digest in read_manifest(folder)["files"].items():
        path = folder / name
        if not path.is_file() or file_digest(path) != digest:
            raise ArtifactError(f"{path}: missing or changed since it was written")
