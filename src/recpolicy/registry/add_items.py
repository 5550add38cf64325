"""Register a version with new items, without retired ones, or with restored ones: a copy with another catalog.

The version before stays as it is. The new one knows it as its parent, has the hashes of the same learned events, and
says in its metadata, under `catalog_change`, which items were added, retired and restored. What the parent has learned
online is not in its version and so not in the new one; the next retraining learns it from the log.
"""

import shutil
import tempfile
from collections.abc import Hashable, Mapping, Sequence, Set
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.ids import type_hint
from recpolicy.core.text import is_utf8
from recpolicy.data.column_names import ITEM_COLUMNS, possible_names
from recpolicy.data.joined_tables import open_joined, read_items
from recpolicy.data.ratings import GENRE_SEPARATOR
from recpolicy.inference import artifact as item_policy
from recpolicy.inference.artifact import Artifact, read_artifact, write_arrays, write_manifest
from recpolicy.inference.artifact_checks import MAX_ID, MAX_TITLE, MAX_YEAR
from recpolicy.inference.artifact_files import format_name
from recpolicy.inference.catalog_changes import (
    CATALOG_CHANGE,
    arms_are_separate,
    retired_rows,
    with_items,
    with_restored,
    without_items,
)
from recpolicy.inference.tuned_scorer import layer_record
from recpolicy.registry.model_registry import Note, Registry
from recpolicy.registry.version_files import Version, sound_manifest

MAX_CHANGED = 10_000
"""Items that one change may add, retire or restore; the manifest names them all."""
_LEARNER_STATE = ("checkpoint/", "learner/")


def change_items(
    registry: Registry,
    name: int | str,
    add: pd.DataFrame | Path | str | None = None,
    retire: Sequence[Hashable] = (),
    restore: Sequence[Hashable] = (),
    *,
    note: Note = None,
) -> Version:
    """Register a copy of a version with another catalog; the same change again is the same version.

    Args:
        registry: The registry.
        name: Number or alias of the version.
        add: New items: a file, or a table with the columns item_id, title, year and genres.
        retire: Ids of items that no answer may recommend any more.
        restore: Ids of retired items that answers may recommend again.
        note: Author and reason, for the audit.

    Returns:
        The new version. It has no gate record.

    Raises:
        ConfigError: The version is unknown or of another kind, its agent cannot take new items, a genre is unknown, or
            no registered version has the arm of an item to restore.
        DataError: An item is known already, missing or repeated, or the file cannot be read.
        ArtifactError: The version is damaged.
    """
    parent = registry.version(name)
    folder = registry.resolve(parent.number)
    if format_name(folder) != item_policy.FORMAT:
        raise ConfigError(f"version {parent.number} is not a policy of items; only those have a catalog")
    manifest = sound_manifest(folder)
    if layer_record(manifest) is not None:
        raise ConfigError(
            f"version {parent.number} has a tuned layer, whose heads know its items; change the items of the policy"
            " below it, and tune again"
        )
    before = read_artifact(folder)
    if add is None and not retire and not restore:
        raise DataError("no items to add, to retire or to restore")
    for verb, ids in (("retire", retire), ("restore", restore)):
        if len(ids) > MAX_CHANGED:
            raise DataError(f"{len(ids):,} items to {verb}; at most {MAX_CHANGED:,} at a time")
    items = None if add is None else _new_items(add, before)
    changed = before if items is None else with_items(before, items)
    changed = _with_restored(registry, changed, restore) if restore else changed
    changed = without_items(changed, retire) if retire else changed
    added = [] if items is None else items["item_id"].tolist()
    metadata = _metadata(before, added, list(retire), list(restore))
    with tempfile.TemporaryDirectory(prefix="recpolicy-items-") as scratch:
        target = Path(scratch) / "policy"
        target.mkdir()
        write_arrays(changed, target)
        if _keeps_state(changed):
            _copy_state(folder, target, manifest["files"])
        write_manifest(replace(changed, metadata=metadata), target)
        stored = sound_manifest(target)["metadata"]
        return registry.register(target, lineage={**stored, "changed_from": parent.number}, note=note)


def read_new_items(path: Path | str) -> pd.DataFrame:
    """Return the items of a file, as `read_items` does; raises DataError for an empty one or an unknown column."""
    table = open_joined(Path(path), "items", "item", None, None)
    known = {name for meaning in ITEM_COLUMNS for name in possible_names(meaning, None)}
    for column in table.names:
        if column not in known:
            raise DataError(f"{path}: column {column!r} is no attribute of an item; expected {', '.join(ITEM_COLUMNS)}")
    return read_items(path, {}, GENRE_SEPARATOR)


def _new_items(add: pd.DataFrame | Path | str, before: Artifact) -> pd.DataFrame:
    """Return the checked table of new items, with ids of the policy's type."""
    place = "items" if isinstance(add, pd.DataFrame) else str(add)
    items = add if isinstance(add, pd.DataFrame) else read_new_items(add)
    if items.empty:
        raise DataError(f"{place}: no items; expected a line for each")
    if len(items) > MAX_CHANGED:
        raise DataError(f"{place}: {len(items):,} items; at most {MAX_CHANGED:,} at a time")
    known = before.tables.item_ids
    ids = items["item_id"].tolist()
    if isinstance(known[0], str) and not isinstance(add, pd.DataFrame):
        ids = [str(identifier) for identifier in ids]  # a text file has no types
    retired = {known[row] for row in before.retired_items.tolist()}
    _check_ids(place, ids, known, retired)
    _check_texts(place, items)
    return items.assign(item_id=ids)


def _check_ids(place: str, ids: list[Any], known: Sequence[Hashable], retired: Set[Hashable]) -> None:
    """Raise DataError for ids of another type, known ones and repeated ones."""
    kind, expected = (str, "text") if isinstance(known[0], str) else (int, "whole numbers")
    seen: set[Any] = set()
    rows = set(known)
    for identifier in ids:
        if type(identifier) is not kind:
            hint = type_hint([identifier], rows) or f"; the policy's ids are {expected}"
            raise DataError(f"{place}: item id {identifier!r}{hint}")
        if identifier in retired:
            raise DataError(f"{place}: item {identifier} is retired; `recpolicy registry restore-items` brings it back")
        if identifier in rows:
            raise DataError(f"{place}: item {identifier} is in the policy already; leave it out")
        if identifier in seen:
            raise DataError(f"{place}: item {identifier} occurs twice")
        seen.add(identifier)
        if isinstance(identifier, str) and not (1 <= len(identifier) <= MAX_ID and is_utf8([identifier])):
            raise DataError(f"{place}: an item id of {len(identifier)} characters; expected 1 to {MAX_ID:,} in UTF-8")
        if isinstance(identifier, int) and not -(2**63) <= identifier < 2**63:
            raise DataError(f"{place}: item id {identifier} has more than 64 bits; write such ids as text")


def _check_texts(place: str, items: pd.DataFrame) -> None:
    """Raise DataError for titles and years that no policy may have."""
    for identifier, title, year in zip(items["item_id"], items["title"], items["year"], strict=True):
        if isinstance(title, str) and not (len(title) <= MAX_TITLE and is_utf8([title])):
            raise DataError(f"{place}: the title of item {identifier} is not UTF-8 of at most {MAX_TITLE:,} characters")
        if not pd.isna(year) and abs(int(year)) > MAX_YEAR:
            raise DataError(f"{place}: the year of item {identifier} is {year}")


def _with_restored(registry: Registry, artifact: Artifact, item_ids: Sequence[Hashable]) -> Artifact:
    """Return the policy with the arms that retired items had in their latest versions in the registry."""
    waiting = dict(zip(retired_rows(artifact, item_ids).tolist(), item_ids, strict=True))
    versions = {version.policy_digest: version for version in registry.versions()}
    child, learned = artifact.metadata, False
    for parent in reversed(artifact.metadata.get("parents", [])):
        learned = learned or child.get(CATALOG_CHANGE, {}).get("parent") != parent["policy_digest"]
        version = versions.get(parent["policy_digest"])
        if version is None:
            child = {}  # its own parent is unknown
            continue
        before = read_artifact(registry.resolve(version.number))
        child = before.metadata
        chosen = [row for row in waiting if row in before.action_items]
        if not chosen:
            continue
        if learned and not arms_are_separate(artifact):
            raise ConfigError(
                f"item {waiting[chosen[0]]} was retired before the last training, and {artifact.agent} learns all items"
                f" together; roll back to version {version.number}, or train again with the item"
            )
        artifact = with_restored(artifact, before, [waiting.pop(row) for row in chosen])
        if not waiting:
            return artifact
    missing = next(iter(waiting.values()))
    raise ConfigError(
        f"no version of this registry that the policy comes from recommends item {missing}; register one, or train"
        " again with the item"
    )


def _metadata(
    before: Artifact, added: list[Hashable], retired: list[Hashable], restored: list[Hashable]
) -> Mapping[str, Any]:
    """Return the metadata of the changed version: those of its parent, which it names."""
    parent = {
        name: before.metadata[name]
        for name in ("policy_digest", "log", "slate_digest", "learned_events")
        if name in before.metadata
    }
    change = {"parent": before.metadata["policy_digest"], "added": added, "retired": retired, "restored": restored}
    return {**before.metadata, "parents": [*before.metadata.get("parents", []), parent], CATALOG_CHANGE: change}


def _keeps_state(changed: Artifact) -> bool:
    """Return True if the learner's variables do not depend on the catalog; otherwise the arrays hold them."""
    return changed.estimator == "shared" or (changed.estimator == "mlp" and "embedding" in changed.policy)


def _copy_state(source: Path, target: Path, names: Mapping[str, str]) -> None:
    for name in names:
        if name.startswith(_LEARNER_STATE):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target / name)
