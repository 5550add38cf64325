"""Read and write the description of a Parquet log: JSON in the file's metadata, under the key `recpolicy`.

    format, version     kind of log
    scale               lowest and highest reward
    action_items        ids of the items that could be shown

A file may lack it. Every fault is a DataError that names the file.
"""

import json
from collections.abc import Mapping, Set
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.files import rename_keys
from recpolicy.data.log_columns import open_parquet

KEY = b"recpolicy"
VERSION = 4
"""The current version of the formats of all logs."""
_OLD_COLUMNS: Mapping[int, Mapping[str, str]] = {1: {"movie_id": "item_id"}, 2: {}, 3: {}}
"""For each older version, its names of columns and the current ones."""
_OLD_KEYS = {"catalogue": "action_items", "pages": "slate_digest"}
"""Names in the descriptions of all older versions, and the current ones."""
_LARGEST = float(np.finfo(np.float64).max)


def encode_metadata(metadata: dict[str, Any]) -> dict[bytes, bytes]:
    """Return a description as the metadata of a file."""
    return {KEY: json.dumps(metadata).encode()}


def _raw(path: Path) -> dict[str, Any]:
    """Return the metadata of the file as written."""
    metadata = open_parquet(path).schema_arrow.metadata or {}
    try:
        metadata = json.loads(metadata.get(KEY, b"{}"))
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: its metadata {KEY.decode()!r} is not JSON: {error}") from None
    if not isinstance(metadata, dict):
        raise DataError(f"{path}: its metadata {KEY.decode()!r} does not describe a log")
    return metadata


def read_metadata(path: Path) -> dict[str, Any]:
    """Return the metadata of the file with the current names; empty without metadata."""
    metadata = _raw(path)
    if metadata.get("version") not in _OLD_COLUMNS:
        return metadata
    return {**rename_keys(metadata, _OLD_KEYS), "version": VERSION}


def old_columns(path: Path) -> Mapping[str, str]:
    """Return the names of columns that an older version wrote, with the current ones; empty for the current version."""
    version = _raw(path).get("version")
    return _OLD_COLUMNS.get(version, {}) if type(version) is int else {}


def has_format(path: Path, name: str, columns: Set[str]) -> bool:
    """Return True if the file is a log of this format, by its description or else by its columns."""
    names = set(open_parquet(path).schema_arrow.names)
    return bool(read_metadata(path).get("format", name if columns <= names else "") == name)


def check_format(metadata: dict[str, Any], expected: tuple[str, int], path: Path) -> None:
    """Raise DataError for a file that says it is of another format or version."""
    written = metadata.get("format", expected[0]), metadata.get("version", expected[1])
    if written != expected:
        raise DataError(
            f"{path}: written as {written[0]!r}, version {written[1]!r}; expected {expected[0]!r},"
            f" version {expected[1]}"
        )


def get_scale(metadata: dict[str, Any], default: tuple[float, float], path: Path) -> tuple[float, float]:
    """Return the lowest and the highest reward."""
    scale = metadata.get("scale", default)
    numbers = isinstance(scale, list | tuple) and [type(end) for end in scale if type(end) in (int, float)]
    if not numbers or len(numbers) != 2 or not -_LARGEST < scale[0] < scale[1] < _LARGEST:
        raise DataError(f"{path}: its scale is {short_repr(scale)}; expected the lowest and the highest reward")
    return float(scale[0]), float(scale[1])


def action_item_rows(metadata: dict[str, Any], items: pd.DataFrame, path: Path) -> NDArray[np.int32] | None:
    """Return the item rows [A] of the catalog, in the order of the file; None if it has none."""
    if "action_items" not in metadata:
        return None
    named = metadata["action_items"]
    if not isinstance(named, list) or not all(type(identifier) in (int, str) for identifier in named):
        raise DataError(f"{path}: its action_items is {short_repr(named)}; expected a list of item ids")
    rows = pd.Index(items["item_id"]).get_indexer(pd.Index(named))
    if (rows < 0).any():
        unknown = named[int(np.argmin(rows))]
        raise DataError(f"{path}: its action_items names item {unknown!r}, which is not in the table of items")
    return np.asarray(rows, np.int32)
