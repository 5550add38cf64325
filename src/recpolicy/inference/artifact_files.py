"""Files that policy artifacts of every kind share: the manifest recpolicy.json, with a digest of every other file.

A truncated, changed or foreign folder raises ArtifactError with one line that names it.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recpolicy.core.errors import ArtifactError, MissingExtraError
from recpolicy.core.files import (
    Migration,
    file_digest,
    read_versioned_json,
    write_json,
)
from recpolicy.inference import artifact_checks as checks

MANIFEST = "recpolicy.json"
ITEM_POLICY, FEATURE_POLICY, STRATEGY_POLICY = (
    "recpolicy policy",
    "recpolicy feature policy",
    "recpolicy strategy policy",
)
"""Names of the formats."""
_USES = {
    ITEM_POLICY: "`recpolicy recommend` and `recpolicy predict` use it",
    FEATURE_POLICY: "`recpolicy rank` uses it",
    STRATEGY_POLICY: "`recpolicy strategy` uses it",
}
_MAX_MESSAGE = 1_000
"""Characters of a message; a hostile name must not fill the log."""


@dataclass(frozen=True)
class ArtifactFormat:
    """One kind of artifact."""

    name: str
    """Value of "format" in its manifest."""
    version: int
    words: tuple[str, ...]
    """Keys of the manifest that must be there, next to those of all kinds."""
    migrations: Mapping[int, Migration] = field(default_factory=dict)


@contextmanager
def artifact_errors(place: Path) -> Iterator[None]:
    """Raise ArtifactError, with the place, for every error within: an artifact may hold anything."""
    try:
        yield
    except MissingExtraError:
        raise
    except Exception as error:
        text = str(error)[:_MAX_MESSAGE] or type(error).__name__
        if isinstance(error, ArtifactError) and text.startswith(str(place)):
            raise
        raise ArtifactError(text if text.startswith(str(place)) else f"{place}: {text}") from error


def unfinished(folder: Path) -> Path:
    """Return the folder of an unfinished training whose policy goes to `folder`."""
    return folder.with_name(f"{folder.name}.incomplete")


def write_manifest_file(folder: Path, kind: ArtifactFormat, words: Mapping[str, Any]) -> None:
    """Write the manifest, with a digest of every file in `folder`: the last step, after which the artifact is whole."""
    files = {str(path.relative_to(folder)): file_digest(path) for path in sorted(folder.rglob("*")) if path.is_file()}
    write_json(folder / MANIFEST, {"format": kind.name, "version": kind.version, "files": files, **words})


def read_manifest_file(folder: Path, kind: ArtifactFormat) -> dict[str, Any]:
    """Return the checked manifest of an artifact of one kind; raise ArtifactError for any other folder."""
    path = folder / MANIFEST
    found = format_name(folder)
    if found != kind.name and found in _USES:
        raise ArtifactError(f"{folder}: holds a {found}, not a {kind.name}; {_USES[found]}")
    manifest = read_versioned_json(path, kind.name, kind.version, kind.migrations, max_bytes=checks.MAX_MANIFEST_BYTES)
    lacking = [name for name in ("files", *kind.words) if name not in manifest]
    if lacking:
        raise ArtifactError(f"{path}: lacks {', '.join(lacking)}: copy the whole artifact or train it again")
    with artifact_errors(path):
        checks.check_files(manifest["files"])
        checks.check_metadata(manifest["metadata"])
    return manifest


def format_name(folder: Path) -> str:
    """Return the format that the manifest names, "" if it names none; raise ArtifactError without a manifest."""
    path = folder / MANIFEST
    if not folder.is_dir() and unfinished(folder).is_dir():
        raise ArtifactError(
            f"{folder}: its training is unfinished ({unfinished(folder)}); the same `recpolicy train` finishes it, and"
            " `recpolicy evaluate --checkpoint last` evaluates it as it is"
        )
    if not folder.is_dir():
        raise ArtifactError(f"{folder}: no such folder; expected a policy that `recpolicy train --out` wrote")
    if not path.is_file():
        raise ArtifactError(f"{folder}: not a policy artifact: it has no {MANIFEST}")
    if path.stat().st_size > checks.MAX_MANIFEST_BYTES:
        return ""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""  # the reader of the manifest says what is wrong
    found = body.get("format") if isinstance(body, dict) else None
    return found if isinstance(found, str) else ""


def check_digests(folder: Path, manifest: Mapping[str, Any], names: Iterable[str]) -> None:
    """Raise ArtifactError unless the named files are there and unchanged."""
    for name in names:
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{path}: missing; the artifact is incomplete: copy all of it or train it again")
        if file_digest(path) != manifest["files"].get(name):
            raise ArtifactError(f"{path}: changed since it was written (its digest differs): copy or train it again")


def check_policy_digest(metadata: Mapping[str, Any], digest: str) -> None:
    """Raise ArtifactError unless the metadata names the digest of the policy that was read."""
    if metadata.get("policy_digest") != digest:
        raise ArtifactError(f"the policy's digest in {MANIFEST} is not that of the arrays: copy or train it again")
