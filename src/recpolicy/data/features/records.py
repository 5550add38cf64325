"""Encode the JSON records of a request as their columns would be encoded, numbers at once.

n records, C dense columns, F hashed features. A log has many rows, so its features are encoded column by column. A
request has one context and few actions, so each step for a single feature would cost more than its arithmetic.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.data.feature_columns import columns_from_records
from recpolicy.data.features.columns import column_of
from recpolicy.data.features.encoder import FeatureEncoder, SparseRows
from recpolicy.data.features.fitted import Dense, Entries
from recpolicy.data.features.schema import ACTION_ID


def encode_records(
    encoder: FeatureEncoder, part: str, records: Sequence[Mapping[str, Any]], *, sparse: bool,
    ids: NDArray[np.object_] | None = None,
) -> Dense | SparseRows:  # fmt: skip
    """Return the dense columns [n, C] or the hashed features of records.

    Args:
        encoder: The encoder.
        part: "context" or "action".
        records: n objects of features.
        sparse: Return hashed features.
        ids: Ids of actions [n].

    Raises:
        DataError: A value has the wrong type.
    """
    block, count = encoder.number_blocks[part], len(records)
    of_ids = {} if ids is None else {ACTION_ID: ids}
    numbers = block.read(records)
    if numbers is None:
        return encoder.encode(part, {**columns_from_records(records, encoder.names(part)), **of_ids}, sparse=sparse)
    columns = {**columns_from_records(records, block.other_keys), **of_ids}
    others = [(other, column_of(columns, other.name)) for other in block.others]
    if not sparse:
        dense = np.zeros((count, block.width), np.float32)
        block.fill(dense, numbers)
        for other, column in others:
            dense[:, other.columns] = other.fitted.dense(column)
        return dense
    entries = [other.fitted.sparse(column) for other, column in others]
    orders = [np.full(len(hashed.row), other.order) for hashed, (other, _) in zip(entries, others, strict=True)]
    of_numbers, order = block.entries(numbers)
    return _in_rows([*entries, of_numbers], np.concatenate([*orders, order]), count)


def _in_rows(entries: Sequence[Entries], order: NDArray[np.int64], count: int) -> SparseRows:
    """Return entries row after row, in each row by the order of their features [F]."""
    row = np.concatenate([entry.row for entry in entries])
    place = np.lexsort((order, row))
    start = np.concatenate([[0], np.cumsum(np.bincount(row, minlength=count))]).astype(np.int64)
    index = np.concatenate([entry.index for entry in entries])[place]
    return SparseRows(start, index, np.concatenate([entry.value for entry in entries])[place])
