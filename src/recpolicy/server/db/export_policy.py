"""The filter of an export: only events of versions whose users and items the log's policy knows.

A version may have a smaller catalog than the log, such as the one before items were added (registry/add_items.py); the
log has the items that its policy retired, too. The candidates of its events are then translated, item by item, so that
they are exactly those among which that version chose.

If a version did not identify a user by a known id, the event has the context vector that the version used. The log
accepts it unless the type of the id differs from that of the policy's ids, or the version had other features: there,
the same vector would mean another user. The filter also rejects vectors far longer than those of the policy's training.
"""

from collections.abc import Iterator, Sequence
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
from recpolicy.server.online.posterior import are_plausible_contexts, max_context_norm

NEW_USER, OTHER_POLICY, NO_PROPENSITY = "new_user", "other_policy", "no_propensity"


class LogPolicy:
    """The users and items of a log, and a check of the versions whose events it accepts."""

    def __init__(self, registry: Registry, version: int | str = "champion"):
        self._registry = registry
        self._known: dict[int, InferenceArtifact | None] = {}
        self._alike: dict[int, bool] = {}
        self._taken: dict[int, bool] = {}
        self._actions: dict[int, NDArray[np.intp] | None] = {}
        number = registry.version(version).number
        artifact = self._artifact(number)
        if artifact is None:
            raise ArtifactError(f"{registry.folder}: version {number} cannot be read; export for another version")
        self.artifact = artifact
        self.catalog: NDArray[np.int32] = np.union1d(artifact.action_items, artifact.retired_items).astype(np.int32)
        """Item rows [A] of the log's actions."""
        self.item_id = _column(artifact.tables.item_ids)
        self.id_types = _id_type(artifact.tables.user_ids), _id_type(artifact.tables.item_ids)

    @property
    def metadata(self) -> dict[str, Any]:
        """Return the metadata of the events file."""
        action_items = self.item_id[self.catalog].tolist()
        return {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "scale": list(self.artifact.scale),
            "action_items": action_items,
            "features": features_digest(self.artifact.context),
            "exporter": "recpolicy server",
        }

    def refusals(self, rows: Sequence[Any], propensities: Sequence[Sequence[float]]) -> list[str | None]:
        """Return the reason why the log leaves out each event; None if it accepts the event.

        Args:
            rows: [n], with version, context and user_key.
            propensities: [n], of the items of each event.
        """
        unreadable = self._unreadable([row for row in rows if row.context is not None])
        reasons: list[str | None] = []
        for row, values in zip(rows, propensities, strict=True):
            readable = row.context is None or not next(unreadable)
            if not self.takes(row.version):
                reasons.append(OTHER_POLICY)
            elif not readable:
                reasons.append(NEW_USER)
            else:
                reasons.append(None if min(values, default=1.0) > 0 else NO_PROPENSITY)
        return reasons

    def takes(self, version: int) -> bool:
        """Return True if events of this version are rounds of this log."""
        if version not in self._taken:
            other, mine = self._artifact(version), self.artifact
            self._taken[version] = other is mine or (
                other is not None
                and other.tables.user_ids == mine.tables.user_ids
                and other.tables.item_ids == mine.tables.item_ids[: len(other.tables.item_ids)]
                and bool(np.isin(other.action_items, self.catalog).all())
            )
        return self._taken[version]

    def actions(self, version: int) -> NDArray[np.intp] | None:
        """Return the log's action of each arm of an accepted version; None if they are the same."""
        if version not in self._actions:
            other = self._artifact(version)
            assert other is not None, "only accepted versions have actions"
            same = np.array_equal(other.action_items, self.catalog)
            self._actions[version] = None if same else np.searchsorted(self.catalog, other.action_items)
        return self._actions[version]

    def _unreadable(self, rows: Sequence[Any]) -> Iterator[bool]:
        """Yield True for each row [n] whose context vector or whose user's id the log does not accept."""
        width, text = self.artifact.context.shape[1], self.id_types[0] == pa.string()
        whole = [len(row.context) == 4 * width for row in rows]
        vectors = np.frombuffer(b"".join(row.context for row in rows if len(row.context) == 4 * width), np.float32)
        plausible = iter(are_plausible_contexts(vectors.reshape(-1, width), self._longest).tolist())
        for row, right in zip(rows, whole, strict=True):
            vector_fits = right and next(plausible)
            yield not (vector_fits and row.user_key.startswith('"') == text and self._same_features(row.version))

    @cached_property
    def user_rows(self) -> dict[Any, int]:
        """The row of each known user by id."""
        return {user: row for row, user in enumerate(self.artifact.tables.user_ids)}

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


def _id_type(ids: list[Any]) -> Any:
    return pa.int64() if all(isinstance(identifier, int) for identifier in ids) else pa.string()


def _column(ids: list[Any]) -> NDArray[Any]:
    return np.array(ids, np.int64 if _id_type(ids) == pa.int64() else object)
