"""The filter of an export: only events of versions with the users, items and catalog of the log's policy.

If a version did not identify a user by a known id, the event has the context vector that the version used. The log
accepts it unless the type of the id differs from that of the policy's ids, or the version had other features: there,
the same vector would mean another user. The filter also rejects vectors far longer than those of the policy's training.
"""

import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.data.bandit_log import features_digest
from recpolicy.data.bandit_log_files import FORMAT, FORMAT_VERSION
from recpolicy.inference.artifact import InferenceArtifact, read_inference_artifact
from recpolicy.registry.model_registry import Registry
from recpolicy.server.online.posterior import is_plausible_context, max_context_norm

NEW_USER, OTHER_POLICY, NO_PROPENSITY = "new_user", "other_policy", "no_propensity"


class LogPolicy:
    """The users and items of a log, and a check of the versions whose events it accepts."""

    def __init__(self, registry: Registry, version: int | str = "champion"):
        self._registry = registry
        self._known: dict[int, InferenceArtifact | None] = {}
        self._alike: dict[int, bool] = {}
        number = registry.version(version).number
        artifact = self._artifact(number)
        if artifact is None:
            raise ArtifactError(f"{registry.folder}: version {number} cannot be read; export for another version")
        self.artifact = artifact
        self.item_id = _column(artifact.tables.item_ids)
        self.id_types = _id_type(artifact.tables.user_ids), _id_type(artifact.tables.item_ids)

    @property
    def metadata(self) -> dict[str, Any]:
        """Return the metadata of the events file."""
        action_items = self.item_id[self.artifact.action_items].tolist()
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "scale": list(self.artifact.scale),
            "action_items": action_items,
            "features": features_digest(self.artifact.context),
            "exporter": "recpolicy server",
        }

    def takes(self, version: int) -> bool:
        """Return True if events of this version are rounds of this log."""
        other, mine = self._artifact(version), self.artifact
        return other is mine or (
            other is not None
            and np.array_equal(other.action_items, mine.action_items)
            and other.tables.user_ids == mine.tables.user_ids
            and other.tables.item_ids == mine.tables.item_ids
        )

    def reads(self, version: int, vector: bytes, user_key: str) -> bool:
        """Return True if the log accepts a context vector that this version used, and the id of its user."""
        width = self.artifact.context.shape[1]
        return (
            self._same_features(version)
            and is_plausible_context(np.frombuffer(vector, np.float32), width, self._longest)
            and _id_type([json.loads(user_key)]) == self.id_types[0]
        )

    @cached_property
    def _longest(self) -> float:
        return max_context_norm(self.artifact.context)

    def _same_features(self, version: int) -> bool:
        if version not in self._alike:
            other = self._artifact(version)
            self._alike[version] = other is not None and np.array_equal(other.context, self.artifact.context)
        return self._alike[version]

    def _artifact(self, version: int) -> InferenceArtifact | None:
        if version not in self._known:
            try:
                self._known[version] = read_inference_artifact(self._registry.resolve(version))
            except (ArtifactError, ConfigError):  # an event of a version that was deleted
                self._known[version] = None
        return self._known[version]


def refusal(policy: LogPolicy, row: Mapping[str, Any]) -> str | None:
    """Return the reason why an event is left out; None if the log accepts it."""
    if not policy.takes(row["version"]):
        return OTHER_POLICY
    if row["context"] is not None and not policy.reads(row["version"], row["context"], row["user_key"]):
        return NEW_USER
    return None if all(propensity > 0 for propensity in json.loads(row["propensities"])) else NO_PROPENSITY


def candidates_by_position(policy: LogPolicy, allowed: bytes | None, items: list[Any]) -> list[NDArray[Any]]:
    """Return the item ids that were possible at each position of an event: allowed, and not at an earlier position."""
    ids = policy.item_id[policy.artifact.action_items]
    if allowed is not None:
        ids = ids[np.unpackbits(np.frombuffer(allowed, np.uint8), count=len(ids)).astype(bool)]
    candidates = [ids]
    for item in items[:-1]:
        candidates.append(candidates[-1][candidates[-1] != item])
    return candidates


def _id_type(ids: list[Any]) -> Any:
    return pa.int64() if all(isinstance(identifier, int) for identifier in ids) else pa.string()


def _column(ids: list[Any]) -> NDArray[Any]:
    return np.array(ids, np.int64 if _id_type(ids) == pa.int64() else object)
