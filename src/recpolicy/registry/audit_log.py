"""Keep the audit log of a registry: audit.jsonl, one line a change, derived from the files that changes wrote.

A version or the state in aliases.json implies a line. If a writer is killed before it adds the line, the next writer
adds it.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from recpolicy.core.errors import ArtifactError
from recpolicy.registry.aliases import migrate_change
from recpolicy.registry.version_files import Version

AUDIT = "audit.jsonl"


def read_audit(folder: Path) -> list[dict[str, Any]]:
    """Return all changes in order; an incomplete last line is ignored."""
    path = folder / AUDIT
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    try:
        return [migrate_change(json.loads(line)) for line in lines]
    except (TypeError, ValueError) as error:
        raise ArtifactError(
            f"{path}: a line is not a JSON object ({error}); repair the line or move the file away"
        ) from None


def due_lines(folder: Path, versions: Iterable[Version], change: Mapping[str, Any] | None) -> str:
    """Return the missing lines that the versions and the last change of the aliases imply; may be empty."""
    noted = read_audit(folder)
    registered = {line.get("number") for line in noted if line.get("change") == "register"}
    due = [_registered(version) for version in versions if version.number not in registered]
    due += [dict(change)] if change is not None and change not in noted else []
    return "".join(json.dumps(line, sort_keys=True) + "\n" for line in due)


def _registered(version: Version) -> dict[str, Any]:
    line = {"time": version.registered_at, "change": "register", "number": version.number, "digest": version.digest}
    return line if version.note is None else {**line, "note": version.note}
