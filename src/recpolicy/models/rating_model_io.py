"""Rating models on disk: a folder with `model.json` and `arrays.npz`, no pickle, digests over both.

Writes are atomic. Reading rejects folders that were changed, truncated or written by another program.
"""

import zipfile
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.arrays import find_implausible, read_arrays
from recpolicy.core.errors import ArtifactError, DataError
from recpolicy.core.files import (
    atomic_directory,
    content_digest,
    file_digest,
    read_versioned_json,
    rename_keys,
    write_json,
)
from recpolicy.models.rating_levels import RatingLevels
from recpolicy.models.rating_model import RatingModel

FORMAT = "recpolicy rating model"
FORMAT_VERSION = 3
_ARRAYS, _OPTIONAL = ("mean", "std"), "linear_mean"
_PARTS = (*_ARRAYS, _OPTIONAL, "levels")
"""Fields that are not written as they are."""
_OLD_MODELS = {"movie_mean": "item_mean"}
_OLD_SETTINGS = {"reg_movie": "reg_item", "neighbours": "max_neighbors", "min_neighbours": "min_neighbors"}


def migrate_model_name(name: str) -> str:
    """Return the current name of a rating model, given the one that files of format version 1 have."""
    return _OLD_MODELS.get(name, name)


def migrate_model_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings of a rating model under their current names, given those in files of format version 1."""
    renamed: dict[str, Any] = rename_keys(settings, _OLD_SETTINGS, nested=True)
    return renamed


def _from_version_1(body: dict[str, Any]) -> dict[str, Any]:
    model = body["model"]
    name, settings = migrate_model_name(model["name"]), migrate_model_settings(model["config"])
    return {**body, "model": {**model, "name": name, "config": settings}}


def _from_version_2(body: dict[str, Any]) -> dict[str, Any]:
    return {**body, "model": rename_keys(body["model"], {"fit_digest": "train_digest"})}


_MIGRATIONS = {1: _from_version_1, 2: _from_version_2}


def save_rating_model(model: RatingModel, folder: Path) -> None:
    """Write the model to `folder`, atomically; an older model there is replaced.

    Raises ArtifactError for a model with numbers that are not finite or absurdly large.
    """
    described = {field.name: getattr(model, field.name) for field in fields(model) if field.name not in _PARTS}
    described["levels"] = None if model.levels is None else model.levels.as_dict()
    arrays = {name: getattr(model, name) for name in (*_ARRAYS, _OPTIONAL) if getattr(model, name) is not None}
    fault = find_implausible(arrays)
    if fault:
        raise ArtifactError(f"{folder}: the rating model is not saved: {fault}; check the ratings and the settings")
    with atomic_directory(folder) as temporary:
        np.savez(temporary / "arrays.npz", **arrays)
        body = {
            "format": FORMAT,
            "version": FORMAT_VERSION,
            "arrays_sha256": file_digest(temporary / "arrays.npz"),
            "model": described,
        }
        write_json(temporary / "model.json", {**body, "digest": content_digest(body)})


def load_rating_model(folder: Path) -> RatingModel:
    """Read a model back, equal to the saved one; raises ArtifactError for a damaged or foreign folder."""
    body = read_versioned_json(
        folder / "model.json",
        FORMAT,
        FORMAT_VERSION,
        _MIGRATIONS,
        digest_key="digest",
        advice="fit and save the model again",
    )
    arrays = folder / "arrays.npz"
    if not arrays.is_file() or file_digest(arrays) != body["arrays_sha256"]:
        raise ArtifactError(f"{arrays}: missing or changed since it was saved; fit and save the model again")
    described = body["model"]
    try:
        stored = read_arrays(arrays)
        fault = find_implausible(stored)
        if fault:
            raise ValueError(fault)
        parts: dict[str, Any] = {**{name: stored[name] for name in _ARRAYS}, **described}
        levels = described.get("levels")
        parts["levels"] = None if levels is None else RatingLevels.from_dict(levels)
        return RatingModel(**{**parts, "scale": tuple(parts["scale"])}, linear_mean=stored.get(_OPTIONAL))
    except (zipfile.BadZipFile, KeyError, TypeError, ValueError, DataError) as error:
        raise ArtifactError(f"{folder}: not a rating model that this recpolicy can read: {error}") from None
