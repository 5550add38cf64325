"""Addresses, checksums and licenses of the data sets that `recpolicy data fetch` can get.

The md5 values are those of the official GroupLens files. This module imports nothing heavy, so a check of existing data
does not wait for pandas.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

ITEM_GENRES = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama", "Fantasy",
    "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
"""The genre flags of u.item, in their order."""


@dataclass(frozen=True)
class Dataset:
    """Sources and checksums of a data set."""

    name: str
    url: str
    """The zip at GroupLens."""
    requirement: str
    """The package that carries the same ratings, as pip reads it."""
    official: Mapping[str, str]
    """File name -> md5 of the official file; u.data must match always, the others when they come from GroupLens."""
    rebuilt: Mapping[str, str]
    """File name -> md5 of what we make of the package where it is less than the official file."""


ML_100K = Dataset(
    name="ml-100k",
    url="https://files.grouplens.org/datasets/movielens/ml-100k.zip",
    requirement="recbole==1.2.1",
    official={
        "u.data": "6e47046882bad158b0efbb84cd5cb987",
        "u.item": "c9e7f390115d79079537301d5204f3f7",
        "u.user": "1b53539edc13caad0282c8500608a319",
    },
    rebuilt={"u.item": "4998ac3fbbf767438ef8675aeab753d0"},
)

DATASETS: Mapping[str, Dataset] = {"ml-100k": ML_100K}


def data_folder(name: str) -> Path:
    """Return the folder of a data set, existing or not: in RECPOLICY_DATA if set, else in the current folder."""
    root = Path(os.environ.get("RECPOLICY_DATA") or ".")
    return root if root.resolve().name == name else root / name
