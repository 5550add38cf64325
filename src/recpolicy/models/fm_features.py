"""Features of users and items for a factorization machine: named groups of sparse columns.

A group is a block of columns with one prior: the id, each attribute, the implicit set. User rows [U, F]
and item rows [I, F'] come from the attributes and from the training ratings only. The implicit set of a user is the
items it rated, each with weight 1/sqrt(n), so long and short lists have equal weight (Koren 2008, SVD++).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.data.ratings import Ratings, genre_matrix

SparseMatrix = Any  # scipy.sparse.csr_matrix; SciPy comes with the extra "train", so we import it on use


@dataclass(frozen=True)
class FeatureGroups:
    """The columns of one side and their groups."""

    matrix: SparseMatrix  # [rows, F] float64, CSR
    names: tuple[str, ...]
    sizes: tuple[int, ...]  # columns per group; they add up to F


def user_features(train: Ratings, *, attributes: bool, bins: int, max_levels: int, implicit: bool) -> FeatureGroups:
    """Return id, attributes and the implicit set of rated items, for every user (also one without ratings)."""
    groups = [("id", _identity(len(train.users)))]
    if attributes:
        groups.extend(_attributes(train.users.drop(columns="user_id"), bins, max_levels))
    if implicit:
        groups.append(("rated items", _implicit_set(train.user, train.item, train.shape)))
    return _join(groups)


def item_features(train: Ratings, *, attributes: bool, bins: int, implicit: bool) -> FeatureGroups:
    """Return id, year bin, genres and the implicit set of users who rated it, for every item."""
    groups = [("id", _identity(len(train.items)))]
    if attributes:
        groups.extend(_attributes(train.items[["year"]], bins, max_levels=0))
        groups.extend(_genres(train.items))
    if implicit:
        groups.append(("rating users", _implicit_set(train.item, train.user, train.shape[::-1])))
    return _join(groups)


def _join(groups: list[tuple[str, SparseMatrix]]) -> FeatureGroups:
    from scipy import sparse

    matrices = [matrix for _, matrix in groups]
    return FeatureGroups(
        matrix=sparse.hstack(matrices, format="csr"),
        names=tuple(name for name, _ in groups),
        sizes=tuple(matrix.shape[1] for matrix in matrices),
    )


def _genres(items: pd.DataFrame) -> Iterator[tuple[str, SparseMatrix]]:
    from scipy import sparse

    names, matrix = genre_matrix(items)
    if names:
        yield "genres", sparse.csr_matrix(matrix, dtype=np.float64)


def _identity(size: int) -> SparseMatrix:
    from scipy import sparse

    return sparse.identity(size, dtype=np.float64, format="csr")


def _implicit_set(row: NDArray[np.int32], column: NDArray[np.int32], shape: tuple[int, int]) -> SparseMatrix:
    """Return rows with weight 1/sqrt(n) in each of their n columns; rows without any column are empty."""
    from scipy import sparse

    weight = 1.0 / np.sqrt(np.bincount(row, minlength=shape[0])[row])
    return sparse.csr_matrix((weight, (row, column)), shape=shape)


def _attributes(table: pd.DataFrame, bins: int, max_levels: int) -> Iterator[tuple[str, SparseMatrix]]:
    """Yield one-hot groups: numbers by equal-frequency bins, text by value; skip uninformative columns.

    A text column with more than `max_levels` values (zip codes, names) is almost an id, so it is skipped, too.
    """
    for name in table.columns:
        column = table[name]
        if pd.api.types.is_bool_dtype(column) or not pd.api.types.is_numeric_dtype(column):
            codes = pd.factorize(column, sort=True)[0] if column.nunique() <= max_levels else None
        else:
            numbers = pd.to_numeric(column).astype(float)
            codes = pd.qcut(numbers, bins, labels=False, duplicates="drop").fillna(-1).to_numpy(int)
        if codes is not None and codes.size and codes.max() >= 1:
            yield str(name), _one_hot(codes)


def _one_hot(codes: NDArray[np.integer]) -> SparseMatrix:
    """Return one-hot rows of the codes; a negative code (missing) gives an empty row."""
    from scipy import sparse

    known = np.flatnonzero(codes >= 0)
    return sparse.csr_matrix((np.ones(len(known)), (known, codes[known])), shape=(len(codes), int(codes.max()) + 1))
