"""Write rating estimates of many users to files, block by block; the rows are those of `Policy.predict`.

A block is `batch` users times M items: one row group of the Parquet file, one piece of the CSV. Memory grows with the
block, not with the number of users. Columns are those of `predict`. Ids keep their type; Parquet stores ids and titles
as dictionaries. In the CSV, an apostrophe precedes text that a spreadsheet would run as a formula.
"""

from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow.csv import CSVWriter

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.files import atomic_path
from recpolicy.core.progress import progress
from recpolicy.core.text import FORMULA
from recpolicy.inference.predictions import as_list
from recpolicy.inference.predictor import Policy

_FEW_VALUES = ["user_id", "item_id", "title"]
"""Columns kept as dictionaries in the Parquet file: titles then cost 2 MB in 1.6 M rows, not 40."""


def predict_to_files(
    policy: Policy,
    parquet: Path,
    csv: Path | None = None,
    *,
    users: Sequence[Hashable] | None = None,
    items: Sequence[Hashable] | None = None,
    batch: int = 64,
    show_progress: bool | None = None,
) -> int:
    """Write the estimates of `items` for `users` (all by default) and return how many rows there are.

    Both files appear whole or not at all. Raises UnknownIdError that names unknown ids, DataError for an empty list of
    users or items, ConfigError for a batch below 1 or for one path given twice; nothing is written then.
    """
    if batch < 1:
        raise ConfigError(f"batch is {batch}; expected at least 1 user")
    if csv is not None and csv.absolute() == parquet.absolute():
        raise ConfigError(f"{csv}: Parquet and CSV have the same name; use two names")
    artifact = policy.artifact
    ids = artifact.users["user_id"].tolist() if users is None else as_list(users)
    item_ids = artifact.items["item_id"].tolist() if items is None else list(items)
    if not item_ids:
        raise DataError("no items given; expected at least one item id")
    rows = 0
    blocks = _blocks(policy, ids, item_ids, batch)  # refuses unknown ids before a file is opened
    with ExitStack() as files, progress("predictions", len(ids), unit="users", show=show_progress) as bar:
        writers: list[Any] = []
        for block in blocks:
            if not writers:
                writers = _open(files, block.schema, parquet, csv)
            for writer in writers:
                writer.write_batch(block)
            rows += block.num_rows
            bar.advance(block.num_rows // len(item_ids))
    return rows


def _open(files: ExitStack, schema: Any, parquet: Path, csv: Path | None) -> list[Any]:
    """Return the writers, which `files` closes before it puts their files in place."""
    temporary = files.enter_context(atomic_path(parquet))
    writers = [files.enter_context(pq.ParquetWriter(temporary, schema, use_dictionary=_FEW_VALUES))]
    if csv is not None:
        temporary = files.enter_context(atomic_path(csv))
        writers.append(_PlainCSV(files.enter_context(CSVWriter(temporary, schema))))
    return writers


class _PlainCSV:
    """A writer of CSV whose text is no formula (core/text.py)."""

    def __init__(self, writer: Any):
        self._writer = writer

    def write_batch(self, block: Any) -> None:
        """Write a record batch."""
        columns = [
            pc.replace_substring_regex(column, FORMULA, r"'\0") if pa.types.is_string(column.type) else column
            for column in block.columns
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=block.schema))


def _blocks(policy: Policy, ids: list[Hashable], items: list[Hashable], batch: int) -> Iterator[Any]:
    """Return Arrow record batches of `batch` users each, the last one of what is left; ids are checked at once."""
    tables = policy.tables(ids, items, at_once=batch)
    groups = (ids[start : start + batch] for start in range(0, len(ids), batch))
    return _laid_out(policy, zip(groups, tables, strict=True), items)


def _laid_out(policy: Policy, tables: Iterator[Any], items: list[Hashable]) -> Iterator[Any]:
    known = policy.artifact
    titles = dict(zip(known.items["item_id"].tolist(), known.items["title"].tolist(), strict=True))
    every_item = _ids(items, known.items["item_id"]), pa.array([titles[item] for item in items], pa.string())
    count, item_id, title = 0, *every_item
    for users, numbers in tables:  # [n], columns [n, M]
        if len(users) != count:  # the first block and a shorter last one; all others have the same items in them
            count, place = len(users), pa.array(np.tile(np.arange(len(items)), len(users)))
            item_id, title = (column.take(place) for column in every_item)
        columns = {
            "user_id": _ids(users, known.users["user_id"]).take(pa.array(np.arange(count).repeat(len(items)))),
            "item_id": item_id,
            "title": title,
            **{name: pa.array(values.ravel()) for name, values in numbers.items()},
        }
        yield pa.record_batch(columns)


def _ids(values: list[Hashable], known: "pd.Series[Any]") -> Any:
    """Return ids as an Arrow array of the type that the policy uses."""
    return pa.array(values, pa.from_numpy_dtype(known.dtype) if known.dtype.kind in "iu" else pa.string())
