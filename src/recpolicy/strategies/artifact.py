"""Read and write the artifact of a strategy policy.

    recpolicy.json     format, agent, config, sessions, lineage, digests of the files below
    arrays.npz         states, q and visits of the Q-table (no pickle)
    learned_events.npy hashes of the events that it, or an ancestor, learned from (data/learned_events.py)

The folder appears complete or not at all. A truncated, changed or foreign one raises ArtifactError.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.arrays import read_arrays
from recpolicy.core.errors import ArtifactError
from recpolicy.core.files import atomic_directory
from recpolicy.core.hashes import Hashes, read_hashes, write_hashes
from recpolicy.inference import artifact_checks as checks
from recpolicy.inference.artifact_files import (
    STRATEGY_POLICY,
    ArtifactFormat,
    artifact_errors,
    check_digests,
    check_policy_digest,
    format_name,
    read_manifest_file,
    write_manifest_file,
)
from recpolicy.strategies.config import ACTIONS, StrategyConfig
from recpolicy.strategies.policy import StrategyPolicy
from recpolicy.strategies.q_table import QTable

FORMAT, FORMAT_VERSION = STRATEGY_POLICY, 1
ARRAYS, LEARNED = "arrays.npz", "learned_events.npy"
AGENT = "strategy_q_learning"
_NAMES = ("states", "q", "visits")
_KIND = ArtifactFormat(FORMAT, FORMAT_VERSION, ("agent", "config", "sessions", "metadata"))


def is_strategy_policy(folder: Path) -> bool:
    """Return True if the folder holds the artifact of a strategy policy, whole or damaged."""
    try:
        return format_name(folder) == FORMAT
    except ArtifactError:
        return False


def write_strategy_policy(policy: StrategyPolicy, folder: Path) -> None:
    """Write the artifact, which replaces a former one in `folder`.

    Raises ArtifactError for a policy that could not be read again, such as one that diverged; nothing is written then.
    """
    table = policy.table
    arrays = {name: getattr(table, name) for name in _NAMES}
    words = {
        "agent": AGENT, "config": policy.config.as_dict(), "sessions": policy.sessions,
        "metadata": {**policy.metadata, "policy_digest": policy.policy_digest},
    }  # fmt: skip
    with artifact_errors(folder):
        plain = json.loads(json.dumps(words, allow_nan=False))
        checks.check_metadata(plain["metadata"])
        _policy(plain, arrays, policy.learned_events)
    with atomic_directory(folder) as temporary:
        np.savez(temporary / ARRAYS, **arrays)
        write_hashes(temporary / LEARNED, policy.learned_events)
        write_manifest_file(temporary, _KIND, plain)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the checked manifest; raise ArtifactError for a folder that is no artifact of a strategy policy."""
    return read_manifest_file(folder, _KIND)


def read_strategy_policy(folder: str | Path) -> StrategyPolicy:
    """Read a strategy policy; raise ArtifactError for one that is damaged or foreign."""
    folder = Path(folder)
    with artifact_errors(folder):
        manifest = read_manifest(folder)
        check_digests(folder, manifest, (ARRAYS, LEARNED))
        with artifact_errors(folder / ARRAYS):
            arrays = read_arrays(folder / ARRAYS)
        policy = _policy(manifest, arrays, read_hashes(folder / LEARNED))
        check_policy_digest(manifest["metadata"], policy.policy_digest)
        return policy


def _policy(words: Mapping[str, Any], arrays: Mapping[str, Any], learned_events: Hashes) -> StrategyPolicy:
    """Return the policy of a manifest and its arrays, after a check of all their values."""
    config = StrategyConfig.from_dict(words["config"], "config")
    sessions = words["sessions"]
    if type(sessions) is not int or not 0 <= sessions <= 2**53:
        raise ArtifactError(f"sessions is {str(sessions)[:80]}; expected a count: train it again")
    if lacking := [name for name in _NAMES if name not in arrays]:
        raise ArtifactError(f"{ARRAYS} lacks {lacking[0]}: copy or train it again")
    table = QTable(*(arrays[name] for name in _NAMES))
    check_table(table, config)
    return StrategyPolicy(config, table, sessions, words["metadata"], learned_events)


def check_table(table: QTable, config: StrategyConfig) -> None:
    """Raise ArtifactError for a table that no training with the config wrote."""
    states, q, visits = table.states, table.q, table.visits
    if states.dtype != np.int64 or visits.dtype != np.int64 or q.dtype != np.float64 or states.ndim != 1:
        raise ArtifactError("the Q-table: states and visits must be 64-bit whole numbers and q 64-bit numbers")
    if q.shape != (len(states), ACTIONS) or visits.shape != q.shape:
        raise ArtifactError(f"the Q-table: q has shape {q.shape}; expected {len(states)} states and {ACTIONS} actions")
    if len(states) and not (states[0] >= 0 and (np.diff(states) > 0).all() and states[-1] < config.states):
        raise ArtifactError(f"the Q-table: its states are not ascending numbers below {config.states:,}")
    checks.check_numbers({"q": q})
    if (visits < 0).any() or visits.sum(dtype=np.float64) > 2**53 or q[visits == 0].any():
        raise ArtifactError("the Q-table: visits must be counts, and cells without a visit 0")
