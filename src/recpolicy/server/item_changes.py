"""Add, retire and restore items of a version in a process of its own, whose memory is free afterwards.

The server answers without pandas; reading and writing whole artifacts needs it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def change_catalog(
    folder: Path, version: int, add: Sequence[Mapping[str, Any]], retire: Sequence[int | str],
    restore: Sequence[int | str], note: Mapping[str, Any],
) -> int:  # fmt: skip
    """Register a version with another catalog; return its number.

    Args:
        folder: The registry.
        version: Number of the version to change.
        add: New items, with item, title, genres and year.
        retire: Ids of items to retire.
        restore: Ids of retired items to restore.
        note: Author of the change.

    Raises:
        What `change_items` raises.
    """
    import pandas as pd

    from recpolicy.core.errors import DataError
    from recpolicy.data.ratings import GENRE_SEPARATOR
    from recpolicy.registry.add_items import change_items
    from recpolicy.registry.model_registry import Registry

    for item in add:
        for genre in item["genres"]:
            if GENRE_SEPARATOR in genre:
                raise DataError(f"item {item['item']}: genre {genre!r} contains {GENRE_SEPARATOR!r}; list each genre")
    ids = pd.Series([item["item"] for item in add], dtype=object)
    items = pd.DataFrame(
        {
            "item_id": ids,
            "title": pd.Series([item["title"] or str(item["item"]) for item in add], dtype="str"),
            "year": pd.array([item["year"] for item in add], dtype="Int64"),
            "genres": pd.Series([GENRE_SEPARATOR.join(item["genres"]) for item in add], dtype="str"),
        }
    )
    return change_items(Registry(folder), version, items if len(items) else None, retire, restore, note=note).number
