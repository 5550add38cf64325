"""The account of a registry: audit.jsonl, one line a change, derived from what the changes left behind.

A line is due when a version or the state in aliases.json calls for it and it is not there: what a killed writer could
not note is noted by the next one.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recpolicy.core.errors import ArtifactError
from recpolicy.registry.version_files import Version

AUDIT = "audit.jsonl"


def read_audit(folder: Path) -> list[dict[str, Any]]:
    """All changes in order; a last line that was cut short does not count."""
    path = folder / AUDIT
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise ArtifactError(f"{path}: a line is not JSON ({error}); mend it or move the file away") from None


def due_lines(folder: Path, versions: Iterable[Version], change: Mapping[str, Any] | None) -> str:
    """The lines that the versions and the last change of the aliases call for and that are not there; may be empty."""
    noted = read_audit(folder)
    registered = {line.get("number") for line in noted if line.get("change") == "register"}
    due = [_registered(version) for version in versions if version.number not in registered]
    due += [dict(change)] if change is not None and change not in noted else []
    return "".join(json.dumps(line, sort_keys=True) + "\n" for line in due)


def _registered(version: Version) -> dict[str, Any]:
    line = {"time": version.registered_at, "change": "register", "number": version.number, "digest": version.digest}
    return line if version.note is None else {**line, "note": version.note}
