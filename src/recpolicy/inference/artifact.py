"""Read and write a policy artifact: the folder with everything that predicting, evaluating and serving need.

    recpolicy.json     format, agent, config, split and digests, seeds, versions, digests of the files below
    arrays.npz         arrays of the predictor (no pickle)
    users.parquet      user ids and attributes        items.parquet   the catalog
    learned_events.npy hashes of the logged events that it, or an ancestor, learned from (data/learned_events.py)
    tables.json        ids, titles, genres and years of both, for a server without pandas (lookup_tables.py)
    metrics.csv        metrics of the training       tensorboard/     the same metrics for TensorBoard
    snapshots/         the policy at several times of an online training (training/snapshots.py)
    checkpoint/        the learner's variables, to train on from (agents of single rounds)
    policy/            SavedModel by TF-Agents' PolicySaver (needs tf_agents to load)
    action/            SavedModel with `action` and `greedy` only (plain tf.saved_model.load)

The folder appears complete or not at all. A truncated, changed or foreign one raises ArtifactError. `read_artifact`
gives all of it; `read_inference_artifact` only what predictions need, without importing pandas or pyarrow.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.arrays import read_arrays
from recpolicy.core.errors import ArtifactError
from recpolicy.core.files import rename_keys
from recpolicy.core.hashes import Hashes, read_hashes, write_hashes
from recpolicy.inference import artifact_checks as checks
from recpolicy.inference.action_distributions import HEADS
from recpolicy.inference.artifact_files import (
    ITEM_POLICY,
    MANIFEST,
    ArtifactFormat,
    artifact_errors,
    check_digests,
    check_policy_digest,
    read_manifest_file,
    write_manifest_file,
)
from recpolicy.inference.lookup_tables import (
    TABLES,
    LookupTables,
    check_lookup_tables,
    lookup_tables,
    read_tables,
    write_tables,
)
from recpolicy.inference.old_settings import migrate_agent, migrate_train
from recpolicy.inference.reward_estimators import ESTIMATORS
from recpolicy.models.rating_levels import RatingLevels
from recpolicy.models.rating_model_io import migrate_model_name, migrate_model_settings

if TYPE_CHECKING:
    import pandas as pd

FORMAT, FORMAT_VERSION = ITEM_POLICY, 3
ARRAYS, USERS, ITEMS, LEARNED = "arrays.npz", "users.parquet", "items.parquet", "learned_events.npy"
_POLICY_PREFIX = "policy/"
TRAINED_ITEMS, RETIRED_ITEMS = "trained_items", "retired_items"
"""Arrays of a policy whose catalog was changed (catalog_changes.py)."""
REAL_REWARDS = "real"
"""Value of `rewards` in the metadata of a training on logged rewards of real users."""


@dataclass(frozen=True)
class PolicyParts:
    """Arrays and settings of a policy. U users, I items, A arms, D embedding."""

    agent: str
    estimator: str
    head: str
    settings: Mapping[str, float]
    uniform_mix: float
    policy: Mapping[str, NDArray[np.generic]]
    """The learner's arrays (agents.learner.ExportedPolicy); covariances of arms packed."""
    context: NDArray[np.float32]  # [U, >= D], the embedding first
    item: NDArray[np.float32]  # [I, D]
    offset: NDArray[np.float32]  # [I]
    rating_std: NDArray[np.float32]  # [U, I] the rating model's posterior std
    action_items: NDArray[np.int32]  # [A], item rows
    rated_user: NDArray[np.int32]  # [N] rows of the training ratings
    rated_item: NDArray[np.int32]  # [N]
    scale: tuple[float, float]
    noise_std: float
    metadata: Mapping[str, Any]
    """Origin of the policy: ratings source, split and digests, config, seed, versions, figures of the training."""
    rating_mean: NDArray[np.float32] | None = field(default=None, kw_only=True)
    """[U, I] the rating model's expected ratings; None: those of the embeddings."""
    levels: RatingLevels | None = field(default=None, kw_only=True)
    """The distribution of one rating over the levels of the scale; None: Gaussian noise of `noise_std`."""

    @cached_property
    def has_all_items(self) -> bool:
        """True if the catalog is all items in row order."""
        return np.array_equal(self.action_items, np.arange(len(self.item)))

    @cached_property
    def arm_by_row(self) -> NDArray[np.int32]:
        """The arm of each item row [I]; -1 outside of the catalog."""
        arm = np.full(len(self.item), -1, np.int32)
        arm[self.action_items] = np.arange(len(self.action_items))
        return arm

    @property
    def trained_items(self) -> int:
        """The number of items of the training, which have the first rows; all others were added later."""
        return int(self.policy.get(TRAINED_ITEMS, len(self.item)))

    @property
    def retired_items(self) -> NDArray[np.int32]:
        """Rows of the items that the policy, or an ancestor, retired."""
        return np.asarray(self.policy.get(RETIRED_ITEMS, ()), np.int32)

    @property
    def catalog_changed(self) -> bool:
        """True if items were added or retired after the training."""
        return TRAINED_ITEMS in self.policy or RETIRED_ITEMS in self.policy

    @property
    def learned_real_rewards(self) -> bool:
        """True if all rewards that the policy learned from, its ancestors' included, were real and new."""
        return bool(self.metadata.get("training", {}).get("rewards") == REAL_REWARDS)

    @property
    def posterior_contexts(self) -> bool:
        """True if contexts are posteriors of users' vectors: the mean, then the upper triangle of the covariance."""
        return self.estimator == "user"

    @property
    def sequential(self) -> bool:
        """True if the policy recommends in sessions and sees the history of each."""
        return "view" in self.policy


@dataclass(frozen=True)
class Artifact(PolicyParts):
    """A trained policy with the full tables of users and items."""

    users: "pd.DataFrame"
    items: "pd.DataFrame"
    learned_events: Hashes = field(default_factory=lambda: np.empty(0, np.uint64))
    """[n], ascending: the logged events that the policy and its ancestors learned from."""

    @cached_property
    def tables(self) -> LookupTables:
        """The columns that answers need."""
        return lookup_tables(self.users, self.items)


@dataclass(frozen=True)
class InferenceArtifact(PolicyParts):
    """A trained policy with the columns of users and items that predictions need."""

    tables: LookupTables


_ARRAYS = ("context", "item", "offset", "rating_std", "action_items", "rated_user", "rated_item")
_RATING_MEAN, _LEVELS = "rating_mean", "levels"
"""Parts that an artifact may lack: those of a rating model without levels, or written before there were any."""
_WORDS = ("agent", "estimator", "head", "settings", "uniform_mix", "scale", "noise_std", "metadata")


def migrate_metadata(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of an artifact of format version 1 with the current names; also for the lineage of versions.

    Version 1 was written before 0.1.0. It called items movies, and the train part of a split fit.
    """
    return _migrate_parts(metadata, _METADATA)


def _migrate_parts(
    parts: Mapping[str, Any], migrations: Mapping[str, Callable[[Mapping[str, Any]], Any]]
) -> dict[str, Any]:
    """Return the parts, each migrated; those that are not mappings stay, for a lineage may hold anything."""
    return {
        name: migrations[name](part) if name in migrations and isinstance(part, Mapping) else part
        for name, part in parts.items()
    }


def _migrate_model(described: Mapping[str, Any]) -> dict[str, Any]:
    return {**described, "name": migrate_model_name(described["name"])} if "name" in described else dict(described)


_CONFIG = {"train": migrate_train, "agent": migrate_agent, "rating_model": migrate_model_settings}
_METADATA: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "source": lambda source: rename_keys(source, {"name_or_path": "source"}),
    "split": lambda split: rename_keys(split, {"fit": "train"}),
    "rating_model": _migrate_model,
    "training": lambda training: rename_keys(training, {"interactions": "total_timesteps"}),
    "config": lambda config: _migrate_parts(config, _CONFIG),
}


def _from_version_1(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest with current names; paths, columns and arrays say how the other files call what we read."""
    return {
        **{key: value for key, value in manifest.items() if key not in ("about", "exploration_floor")},
        "uniform_mix": manifest["exploration_floor"],
        "metadata": migrate_metadata(manifest["about"]),
        "paths": {ITEMS: "movies.parquet"},
        "columns": {"movie_id": "item_id"},
        "arrays": {"movie": "item", "rated_movie": "rated_item"},
    }


_VERSION_2 = {"content": "policy_digest", "pages": "slate_digest"}


def migrate_digests(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """Return the metadata of version 2, or a lineage, with the current names of digests; also those of the parents."""
    renamed = dict(rename_keys(metadata, _VERSION_2))
    if isinstance(renamed.get("parents"), list):
        renamed["parents"] = [rename_keys(parent, _VERSION_2) for parent in renamed["parents"]]
    return renamed


def _from_version_2(manifest: dict[str, Any]) -> dict[str, Any]:
    arrays = {**manifest.get("arrays", {}), "catalogue": "action_items"}
    return {**manifest, "metadata": migrate_digests(manifest["metadata"]), "arrays": arrays}


POLICY_FORMAT = ArtifactFormat(FORMAT, FORMAT_VERSION, _WORDS, {1: _from_version_1, 2: _from_version_2})


def policy_digest(parts: PolicyParts) -> str:
    """Return the SHA-256 of everything that determines the policy's actions; equal policies have equal digests."""
    policy = {name: np.asarray(value) for name, value in parts.policy.items()}  # as they are after reading
    return checks.policy_digest(vars(parts), policy, vars(parts))


def write_arrays(artifact: Artifact, folder: Path) -> None:
    """Write the parts that the predictor reads to `folder` (see `write_manifest`).

    Raises ArtifactError for a policy that could not be read again, such as one that diverged.
    """
    arrays: dict[str, Any] = {name: getattr(artifact, name) for name in _ARRAYS}
    if artifact.rating_mean is not None:
        arrays[_RATING_MEAN] = artifact.rating_mean
    with artifact_errors(folder / ARRAYS):
        checks.check_arrays(arrays, {name: np.asarray(value) for name, value in artifact.policy.items()})
    arrays |= {_POLICY_PREFIX + name: value for name, value in artifact.policy.items()}
    np.savez(folder / ARRAYS, **arrays)
    artifact.users.to_parquet(folder / USERS, index=False)
    artifact.items.to_parquet(folder / ITEMS, index=False)
    write_tables(artifact.tables, folder)
    if len(artifact.learned_events):
        write_hashes(folder / LEARNED, artifact.learned_events)


def write_manifest(artifact: Artifact, folder: Path) -> None:
    """Write the manifest, with a digest of every file in `folder`: the last step, after which the artifact is whole.

    The policy's digest is that of the arrays, whatever the metadata say. Raises ArtifactError for words that could not
    be read again.
    """
    words = {name: getattr(artifact, name) for name in _WORDS}
    words["metadata"] = {**artifact.metadata, "policy_digest": policy_digest(artifact)}
    words[_LEVELS] = None if artifact.levels is None else artifact.levels.as_dict()
    with artifact_errors(folder / MANIFEST):
        plain = json.loads(json.dumps(words))
        checks.check_words(plain, ESTIMATORS, HEADS)
        checks.check_metadata(plain["metadata"])
    write_manifest_file(folder, POLICY_FORMAT, words)


def read_artifact(folder: Path) -> Artifact:
    """Read an artifact back; raises ArtifactError when the folder is not one, or holds what no training writes."""
    import pandas as pd

    with artifact_errors(folder):
        manifest = read_manifest(folder)
        items = manifest.get("paths", {}).get(ITEMS, ITEMS)
        learned = (LEARNED,) if LEARNED in manifest["files"] else ()
        parts = _read_parts(folder, manifest, (ARRAYS, USERS, items, *learned))
        if learned:
            parts["learned_events"] = read_hashes(folder / LEARNED)
        users_and_items = parts["rating_std"].shape
        for name, rows in zip((USERS, items), users_and_items, strict=True):
            _check_parquet(folder / name, rows)
        artifact = Artifact(
            users=pd.read_parquet(folder / USERS),
            items=pd.read_parquet(folder / items).rename(columns=manifest.get("columns", {})),
            **parts,
        )
        check_lookup_tables(artifact.tables)
        _check_rows(artifact, f"{USERS} and {items}")
        return artifact


def read_users(folder: Path, rows: int) -> "pd.DataFrame":
    """Return the user table of an artifact, in the order of its arrays; raises ArtifactError unless it has U rows."""
    import pandas as pd

    with artifact_errors(folder):
        _check_parquet(folder / USERS, rows)
        return pd.read_parquet(folder / USERS)


def read_inference_artifact(folder: Path) -> InferenceArtifact:
    """Read what answering needs; raises what `read_artifact` raises.

    pandas is imported only for an artifact that was written before there was a tables.json.
    """
    with artifact_errors(folder):
        manifest = read_manifest(folder)
        if TABLES in manifest["files"]:
            parts = _read_parts(folder, manifest, (ARRAYS, TABLES))
            lean = InferenceArtifact(tables=read_tables(folder, *parts["rating_std"].shape), **parts)
            _check_rows(lean, TABLES)
            return lean
        whole = read_artifact(folder)
        names = (*_ARRAYS, *_WORDS, "policy", _RATING_MEAN, _LEVELS)
        return InferenceArtifact(tables=whole.tables, **{name: getattr(whole, name) for name in names})


def _check_rows(artifact: Artifact | InferenceArtifact, place: str) -> None:
    """Raise ArtifactError unless the tables have the users and items of the arrays."""
    rows, shape = (len(artifact.tables.user_ids), len(artifact.tables.item_ids)), artifact.rating_std.shape
    if rows != shape:
        raise ArtifactError(f"{place} has {rows} users and items, {ARRAYS} {shape}: train it again")


def _check_parquet(path: Path, rows: int) -> None:
    """Raise ArtifactError for a table of other rows, or one that unpacks to more than a table of these rows has."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    limit = checks.max_tables_bytes(rows, 0)
    with pq.ParquetFile(path) as file:
        described, schema = file.metadata, file.schema_arrow
        groups = [described.row_group(group) for group in range(described.num_row_groups)]
        codecs = {group.column(column).compression for group in groups for column in range(group.num_columns)}
    if described.num_rows != rows or path.stat().st_size > limit or codecs - _CODECS:
        raise ArtifactError(
            f"{path}: {described.num_rows} rows, {path.stat().st_size:,} bytes, {', '.join(sorted(codecs))}; expected"
            f" {rows} rows, at most {limit:,} bytes, {' or '.join(_CODECS)}"
        )
    # Rows may share one long text, so the texts are looked at as dictionaries, before each row gets its own.
    texts = [field.name for field in schema if pa.types.is_string(field.type) or pa.types.is_large_string(field.type)]
    with pq.ParquetFile(path, read_dictionary=texts) as file:
        for column in file.read(columns=texts).columns:
            for chunk in column.chunks:
                longest = pa.compute.max(pa.compute.utf8_length(chunk.dictionary)).as_py() or 0
                if longest > checks.MAX_TITLE:
                    raise ArtifactError(f"{path}: a text of {longest:,} characters; at most {checks.MAX_TITLE:,}")


_CODECS = {"SNAPPY", "UNCOMPRESSED"}
"""Compressions that pandas writes; they cannot shrink a table a thousandfold."""


def _read_parts(folder: Path, manifest: dict[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    """Return the fields of PolicyParts, after a check of the digests of the named files and of the content."""
    check_digests(folder, manifest, names)
    words: dict[str, Any] = {name: manifest.get(name) for name in (*_WORDS, _LEVELS)}
    with artifact_errors(folder / MANIFEST):
        checks.check_words(words, ESTIMATORS, HEADS)
        words[_LEVELS] = None if words[_LEVELS] is None else RatingLevels.from_dict(words[_LEVELS])
        words["scale"] = tuple(words["scale"])
    with artifact_errors(folder / ARRAYS):
        stored = rename_keys(read_arrays(folder / ARRAYS), manifest.get("arrays", {}))
        lacking = [name for name in _ARRAYS if name not in stored]
        if lacking:
            raise ArtifactError(f"lacks {', '.join(lacking)}, which this version of recpolicy needs")
        arrays = {name: stored[name] for name in _ARRAYS} | {_RATING_MEAN: stored.get(_RATING_MEAN)}
        policy = {name.removeprefix(_POLICY_PREFIX): stored[name] for name in stored if name.startswith(_POLICY_PREFIX)}
        checks.check_arrays(arrays, policy)
        check_policy_digest(words["metadata"], checks.policy_digest(words, policy, arrays))
    return {"policy": policy, **arrays, **words}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read recpolicy.json; raises ArtifactError for a folder that is not an artifact of a version we read."""
    manifest = read_manifest_file(folder, POLICY_FORMAT)
    with artifact_errors(folder / MANIFEST):
        checks.check_names(manifest.get(key, {}) for key in ("paths", "columns", "arrays"))
    return manifest
