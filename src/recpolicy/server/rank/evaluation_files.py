"""The files of an evaluation's candidates: a folder for each, with the policy, its lineage and the record of its gate.

They lie in the state folder of the server that computed the evaluation, until the evaluation is deleted. An evaluation
with the id of a deleted one has other files, because another process may still train the deleted one's candidates.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recpolicy.registry.version_files import Version
from recpolicy.server.db.rollouts import ConflictError
from recpolicy.server.deps import AppState
from recpolicy.server.jobs.subprocess_jobs import FOLDER

POLICY, GATE, LINEAGE = "policy", "gate.json", "lineage.json"


def candidates_folder(state: AppState, identity: str, created: int) -> Path:
    """Return the folder of an evaluation's candidates, by its id and its time of creation in milliseconds.

    Raises ConflictError for a server without a state folder.
    """
    if state.folder is None:
        raise ConflictError("this server has no state folder for trained policies")
    name = hashlib.blake2b(identity.encode(), digest_size=16).hexdigest()  # an id may have any letters
    return state.folder / FOLDER / "evaluations" / f"{name}-{created}"


def remove_candidates(state: AppState, identity: str, created: int) -> None:
    """Delete the files of an evaluation."""
    if state.folder is not None:
        shutil.rmtree(candidates_folder(state, identity, created), ignore_errors=True)


def register_candidate(
    state: AppState, record: Mapping[str, Any], policy: Mapping[str, Any], note: Mapping[str, Any]
) -> Version:
    """Register a candidate of an evaluation with the record of its gate; raises ConflictError if its files are gone."""
    from recpolicy.workflows.gating import read_gate

    home = candidates_folder(state, record["id"], record["created_at"]) / policy["folder"]
    registry = state.require_registry()
    if not (home / LINEAGE).is_file():
        raise ConflictError("the files of this evaluation are not on this server; evaluate again with another id")
    gate = read_gate(home / GATE) if (home / GATE).is_file() else None
    lineage = json.loads((home / LINEAGE).read_text(encoding="utf-8"))
    return registry.register(home / POLICY, gate=gate, lineage=lineage, note=note)
