"""The candidates of rounds as columns of a Parquet file, in two forms.

    candidates  packed: bytes, a bit for each of the `action_items` of the metadata, in their order, the most
                significant bit first; rows of one set share an entry of the column's dictionary. Null: the whole
                catalog.
                Lists of item ids: what other programs write, and this one did before version 4.
    excluded    list of item ids that are no candidates: those at earlier positions of the same event. Null: none.

N rounds, n of them in a piece of a file, A actions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.data import log_columns as read
from recpolicy.data.candidates import ALL_ITEMS, CandidateSets, blocks, concatenate, packed_width

CANDIDATES, EXCLUDED = "candidates", "excluded"
PACKED = pa.dictionary(pa.int32(), pa.binary())
"""Type of packed candidates."""


def candidate_arrays(candidates: CandidateSets, item_id: NDArray[Any], kind: Any) -> dict[str, Any]:
    """Return the columns of some rounds by name; item_id [A] in the order of the actions, `kind` its Arrow type."""
    used = candidates.compact()
    width, count = packed_width(used.actions), len(used.sets)
    offsets, data = np.arange(count + 1, dtype=np.int32) * width, np.ascontiguousarray(used.sets)
    sets = pa.Array.from_buffers(pa.binary(), count, [None, pa.py_buffer(offsets), pa.py_buffer(data)])
    distinct = sets.dictionary_encode()  # a Parquet dictionary must not repeat a value
    place = np.asarray(distinct.indices)[used.index] if count else np.zeros(len(used), np.int32)
    index = pa.array(place, pa.int32(), mask=used.index == ALL_ITEMS)
    start = pa.array(used.excluded_start, pa.int32())
    return {
        CANDIDATES: pa.DictionaryArray.from_arrays(index, distinct.dictionary),
        EXCLUDED: pa.ListArray.from_arrays(start, pa.array(item_id[used.excluded], kind)),
    }


@dataclass(frozen=True)
class Catalog:
    """The catalog of a file, and the tables that give rows to its ids."""

    items: "pd.Index[Any]"
    """Item ids of the table, in row order."""
    action_items: NDArray[np.int32]
    """Item rows [A], ascending."""
    bit_order: NDArray[np.int32] | None
    """Item row of each bit of packed candidates; None: the order of `action_items`."""

    def actions(self, rows: NDArray[np.int32]) -> NDArray[np.int32]:
        """Return the actions [C] of item rows [C]; -1 for items outside the catalog."""
        place = np.minimum(np.searchsorted(self.action_items, rows), len(self.action_items) - 1)
        return np.where(self.action_items[place] == rows, place, -1).astype(np.int32)


class CandidateReader:
    """Reads the candidates of the pieces of a log, and joins them."""

    def __init__(self, catalog: Catalog):
        self.catalog = catalog
        self._without: tuple[Path, int] | None = None
        """File and first row of a piece without candidates."""
        self._listed = False

    def read_piece(self, piece: read.Piece) -> CandidateSets | None:
        """Return the candidates of a piece; None if it has none. Raises DataError that names the row."""
        sets = self._sets(piece)
        excluded = read.lists(piece, EXCLUDED, "lists of item ids")
        if excluded is not None and len(excluded.values):
            actions = self._actions(piece, EXCLUDED, excluded, "an excluded item")
            sets = sets or CandidateSets.all_items(len(piece), len(self.catalog.action_items))
            sets = CandidateSets(sets.actions, sets.sets, sets.index, excluded.start, actions)
        return sets

    def _sets(self, piece: read.Piece) -> CandidateSets | None:
        packed = piece.has(CANDIDATES) and _is_packed(piece.batch.column(CANDIDATES).type)
        if not piece.has(CANDIDATES) or piece.batch.column(CANDIDATES).null_count == len(piece):
            if not packed:
                self._without = self._without or (piece.path, piece.first + 1)
                self._check_form()
            return None
        if packed:
            return self._packed(piece)
        lists = read.lists(piece, CANDIDATES, "lists of item ids, or sets as packed bits")
        assert lists is not None
        piece.refuse(lists.missing, lambda _: "candidates are missing, but other rows have them")
        self._listed = True
        self._check_form()
        actions = self._actions(piece, CANDIDATES, lists, "a candidate")
        return CandidateSets.from_lists(lists.start, actions, len(self.catalog.action_items))

    def _check_form(self) -> None:
        """Raise DataError if lists of candidates are missing in some pieces; packed sets may be."""
        if self._listed and self._without is not None:
            path, row = self._without
            raise DataError(f"{path}: row {row}: candidates are missing, but other rows have them")

    def _actions(self, piece: read.Piece, column: str, lists: read.Lists, name: str) -> NDArray[np.int32]:
        """Return the actions [C] of a column of lists of ids."""
        rows = read.listed_rows(piece, column, lists, self.catalog.items, name)
        actions = self.catalog.actions(rows)
        strange = read.any_in_list(actions < 0, lists.start)
        piece.refuse(strange, lambda _: f"{name} is not in the catalog of this log")
        return actions

    def _packed(self, piece: read.Piece) -> CandidateSets:
        """Return packed candidates in the order of the actions."""
        column, actions = piece.batch.column(CANDIDATES), len(self.catalog.action_items)
        coded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        index = np.asarray(pc.fill_null(coded.indices.cast(pa.int32()), ALL_ITEMS))
        sets, width = coded.dictionary.cast(pa.large_binary()), packed_width(actions)
        length = np.asarray(pc.binary_length(sets))
        wrong = np.append(length != width, False)[index]  # the last place is that of ALL_ITEMS
        piece.refuse(
            wrong,
            lambda row: (
                f"candidates have {length[index[row]]} bytes; expected {width}, a bit for each of the {actions}"
                " items of the catalog"
            ),
        )
        packed = _matrix(sets, length, width)
        if self.catalog.bit_order is not None:
            packed = _reordered(packed, np.argsort(self.catalog.bit_order, kind="stable"))
        used = CandidateSets.without_exclusions(packed, index, actions).compact()
        used.sets[:, -1] &= np.uint8(0xFF << -actions % 8 & 0xFF)  # bits behind the last action do not count
        return used


def join_candidates(parts: Sequence[tuple[int, CandidateSets | None]], actions: int) -> CandidateSets | None:
    """Return the candidates of pieces of n rounds each; None if all could show the whole catalog."""
    if all(sets is None or sets.trivial for _, sets in parts):
        return None
    return concatenate([CandidateSets.all_items(count, actions) if sets is None else sets for count, sets in parts])


def _is_packed(kind: Any) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind))


def _reordered(packed: NDArray[np.uint8], order: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return sets [S, W] with their bits in another order [A], block by block."""
    result = np.empty_like(packed)
    for rows in blocks(len(packed), len(order)):
        bits = np.unpackbits(packed[rows], axis=1, count=len(order))
        result[rows] = np.packbits(bits[:, order], axis=1)
    return result


def _matrix(sets: Any, length: NDArray[np.integer], width: int) -> NDArray[np.uint8]:
    """Return the sets [S, W] of a binary column; sets of another length, which no row has, are empty."""
    _, offsets, data = sets.buffers()
    start = np.frombuffer(offsets, np.int64)[sets.offset : sets.offset + len(sets)]
    values = np.frombuffer(data or b"", np.uint8)
    right = length == width
    if right.all() and len(sets):
        return values[start[0] : start[0] + len(sets) * width].reshape(-1, width)
    matrix = np.zeros((len(sets), width), np.uint8)
    matrix[right] = values[start[right, np.newaxis] + np.arange(width)]
    return matrix
