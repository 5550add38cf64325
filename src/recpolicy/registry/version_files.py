"""Files of a registered version: read-only copies and a record with digests that reveal changes.

policy/         the artifact: every file that its manifest names
version.json    the record: number, digests, time, lineage, gate record
"""

import json
import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from recpolicy.core.errors import ArtifactError, DataError
from recpolicy.core.files import Migration, content_digest, read_versioned_json, rename_keys, write_json
from recpolicy.core.text import is_word
from recpolicy.inference.artifact import migrate_digests, migrate_metadata
from recpolicy.inference.artifact_checks import MAX_AGENT, check_plain, is_digest
from recpolicy.inference.artifact_files import artifact_errors
from recpolicy.inference.tuned_scorer import LAYER
from recpolicy.registry.artifact_kinds import check_answers, manifest_digest, read_manifest, verify

POLICY, RECORD = "policy", "version.json"
_FORMAT, _FORMAT_VERSION = "recpolicy registered version", 3
_MAX_RECORD_BYTES = 16 << 20


@dataclass(frozen=True, kw_only=True)
class Version:
    """One registered policy."""

    number: int
    digest: str
    """SHA-256 of the artifact's manifest, and so of all its files."""
    agent: str
    policy_digest: str
    """SHA-256 of everything that determines the policy's actions, as logs and the server name it."""
    registered_at: str
    """ISO 8601, UTC."""
    lineage: Mapping[str, Any]
    """Origin: data and split digests, config, metrics; by default the metadata of the artifact."""
    gate: Mapping[str, Any] | None
    """The record of its gate; None without one."""
    note: Mapping[str, Any] | None = None
    """Author and reason of the registration, if given."""

    @property
    def layer(self) -> Mapping[str, Any] | None:
        """Its tuned layer: the digests of the policy below and of the layer; None without one."""
        layer = self.lineage.get(LAYER)
        return layer if isinstance(layer, Mapping) else None

    @property
    def verdict(self) -> str | None:
        """Verdict of the gate record: pass, fail or no_verdict; None without a record."""
        verdict = (self.gate or {}).get("verdict")
        return None if verdict is None else str(verdict)


def migrate_gate(gate: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return a gate record of any format version with the current names."""
    if gate is None:
        return None
    limits = {
        "least_effective_rounds": "min_effective_sample_size", "weight_error": "max_mean_weight_z",
        "least_coverage": "min_coverage", "least_diversity": "min_diversity",
    }  # fmt: skip
    record = {**gate, "config": rename_keys(gate["config"], limits)} if "config" in gate else dict(gate)
    if "inputs" in gate:
        record["inputs"] = rename_keys(gate["inputs"], {"fit": "train"})
    if "policy" in gate:
        record["policy"] = rename_keys(gate["policy"], {"content": "policy_digest"})
    if "criteria" in gate:
        record["criteria"] = [rename_keys(criterion, {"figure": "value"}) for criterion in gate["criteria"]]
    return record


def _from_version_1(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "lineage": migrate_metadata(body["lineage"]), "gate": migrate_gate(body["gate"])}


def _from_version_2(body: dict[str, Any]) -> dict[str, Any]:
    renamed = rename_keys(body, {"content": "policy_digest"})
    return {**renamed, "lineage": migrate_digests(body["lineage"]), "gate": migrate_gate(body["gate"])}


_MIGRATIONS: Mapping[int, Migration] = {1: _from_version_1, 2: _from_version_2}


def sound_manifest(artifact: Path) -> dict[str, Any]:
    """Return the manifest of an artifact whose files are all there, unchanged and inside its folder.

    Raises ArtifactError for any other, whatever is wrong with it.
    """
    with artifact_errors(artifact):
        manifest = read_manifest(artifact)
        verify(artifact)
        return manifest


def copy_artifact(source: Path, target: Path, names: tuple[str, ...]) -> None:
    """Copy the named files; the copies are read-only. Their modes do not depend on the umask."""
    for name in names:
        copy = target / name
        for folder in reversed(copy.relative_to(target).parents):
            (target / folder).mkdir(parents=True, exist_ok=True)
            (target / folder).chmod(0o755)
        shutil.copyfile(source / name, copy)
        copy.chmod(0o444)


def write_record(version: Version, home: Path) -> None:
    """Write version.json into the version's folder, with a digest over itself, read-only."""
    path = home / RECORD
    body = {"format": _FORMAT, "version": _FORMAT_VERSION, **asdict(version)}
    write_json(path, {**body, "record_digest": content_digest(body)})
    path.chmod(0o444)


def read_record(home: Path) -> Version:
    """Read version.json; raises ArtifactError where it is missing, changed or of another number than its folder."""
    path = home / RECORD
    body = read_versioned_json(
        path, _FORMAT, _FORMAT_VERSION, _MIGRATIONS, digest_key="record_digest", advice="restore it from a copy",
        max_bytes=_MAX_RECORD_BYTES,
    )  # fmt: skip
    if str(body.get("number")) != home.name:
        raise ArtifactError(f"{path}: describes version {body.get('number')!r}; expected version {home.name}")
    del body["format"], body["version"]
    try:
        version = Version(**body)
    except TypeError as error:
        raise ArtifactError(f"{path}: not a record that this recpolicy can read: {error}") from None
    with artifact_errors(path):
        _check_record(version)
    return version


def _check_record(version: Version) -> None:
    """Raise ArtifactError for a record that lists, logs and databases cannot hold."""
    if not is_word(version.agent, MAX_AGENT) or not is_word(version.registered_at, MAX_AGENT):
        raise ArtifactError(f"agent or time is not a text of 1 to {MAX_AGENT} printable characters")
    if not is_digest(version.digest) or not is_digest(version.policy_digest):
        raise ArtifactError("digest or policy_digest is not a SHA-256")
    for name in ("lineage", "gate", "note"):
        if getattr(version, name) is not None:
            check_plain(name, getattr(version, name))


def records_in(homes: Iterable[Path]) -> list[Version | ArtifactError]:
    """Return the record of every version, or its fault."""
    records: list[Version | ArtifactError] = []
    for home in homes:
        try:
            records.append(read_record(home))
        except ArtifactError as error:
            records.append(error)
    return records


def find_damage(home: Path) -> str | None:
    """Return the fault of the version in a folder, or None."""
    try:
        sound_manifest(home / POLICY)
        if manifest_digest(home / POLICY) != read_record(home).digest:
            return f"{home}: its policy does not match {RECORD}"
    except ArtifactError as error:
        return str(error)
    return None


def find_fault(home: Path) -> str | None:
    """Return why the version in a folder may not serve, "is damaged: ..." or "cannot serve: ..."; or None."""
    damage = find_damage(home)
    if damage is not None:
        return f"is damaged: {damage}"
    try:
        check_answers(home / POLICY)
    except ArtifactError as error:
        return f"cannot serve: {error}"
    return None


def plain(record: Mapping[str, Any] | None, what: str) -> Any:
    """Return the record after a round trip through JSON; raises DataError where it is not JSON, as NaN is not."""
    if record is None:
        return None
    try:
        read = json.loads(json.dumps(dict(record), allow_nan=False))
        check_plain(what, read)
    except (TypeError, ValueError, RecursionError) as error:
        raise DataError(f"{what}: not JSON: {error}") from None
    return read


def append_lines(path: Path, lines: str) -> None:
    """Append lines durably; an incomplete last line is removed first."""
    with path.open("a+b") as stream:
        stream.seek(0)
        stream.truncate(stream.read().rfind(b"\n") + 1)
        stream.write(lines.encode())
        stream.flush()
        os.fsync(stream.fileno())


def now() -> str:
    """Return the time in UTC, ISO 8601 with microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
