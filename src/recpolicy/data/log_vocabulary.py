"""Take the users and items of a log from the log itself, where no policy and no ratings name them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recpolicy.core.errors import DataError
from recpolicy.data import log_columns as read
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.candidate_columns import CANDIDATES
from recpolicy.data.log_metadata import get_scale, old_columns, read_metadata
from recpolicy.data.log_parts import EVENTS, log_parts
from recpolicy.data.slate_log_files import SLATES

_LARGEST = np.iinfo(np.int64).max
_ITEM_COLUMNS = ("item_id", "candidates", "slate")


def own_vocabulary(folder: Path, scale: tuple[float, float]) -> IdVocabulary:
    """Return the ids that occur in a raw log of rounds or of slates, ascending.

    Args:
        folder: The folder of the log.
        scale: Lowest and highest reward of a slot, or of a round if the file does not say.

    Raises:
        DataError: The log is missing or damaged, an id is missing, or ids are neither integers nor text.
    """
    if folder.is_file():
        raise DataError(f"{folder}: this is a file; expected the folder of a log")
    of_slates = (folder / SLATES).is_file()
    parts = [folder / SLATES] if of_slates else log_parts(folder, EVENTS)
    parts = parts or [folder / EVENTS]  # which is missing
    metadata = read_metadata(parts[0])
    found: dict[str, set[Any]] = {"user_id": set(), "item_id": set(metadata.get("action_items") or ())}
    for path in parts:
        old_names = old_columns(path)
        schema = read.open_parquet(path, ("user_id",), old_names).schema_arrow
        only = [name for name in schema.names if old_names.get(name, name) in ("user_id", *_ITEM_COLUMNS)]
        for piece in read.pieces(path, ("user_id",), old_names, only):
            for name in piece.batch.schema.names:
                found["user_id" if name == "user_id" else "item_id"].update(_ids(piece, name))
    users, items = (pd.DataFrame({name: _sorted(values, name, parts[0])}) for name, values in found.items())
    return IdVocabulary(users, items, scale if of_slates else get_scale(metadata, scale, parts[0]))


def _ids(piece: read.Piece, name: str) -> Iterator[Any]:
    """Yield the distinct ids of a column, or of the lists in it."""
    column = piece.batch.column(name)
    kind = column.type
    nested = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    if nested:
        column, kind = column.flatten(), kind.value_type
    if pa.types.is_null(kind) or (name == CANDIDATES and not nested):  # packed sets are of the catalog
        return
    if pa.types.is_dictionary(kind):
        column, kind = column.dictionary_decode(), kind.value_type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    if not (text or pa.types.is_integer(kind)):
        piece.refuse_type(name, "ids: integers or text")
    if not nested:
        missing = np.asarray(pc.is_null(column))
        piece.refuse(missing, lambda _: f"{name} is missing")
    yield from (
        value for value in pc.unique(column.cast(pa.string()) if text else column).to_pylist() if value is not None
    )


def _sorted(values: set[Any], name: str, path: Path) -> list[Any]:
    kinds = {type(value) for value in values}
    if len(kinds) > 1:
        raise DataError(f"{path}: some values of {name} are integers, and some are text; expected one type")
    if kinds == {int} and max(values) > _LARGEST:
        raise DataError(f"{path}: {name} {max(values)} is above {_LARGEST}; write such ids as text")
    return sorted(values)
