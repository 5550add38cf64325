"""Split a ratings table into train and test parts.

Every rule gives a mask [N] of the test rows; train is the rest. u1..u5, ua and ub follow the scripts that come with
MovieLens 100K (mku.sh, allbut.pl), so on its u.data they give the official files byte for byte; on any other table they
mean the same rule. tail-N is for tables whose last rows are the test part (log_ratings.py).
File order is the order of the table. All rules but `random` ignore the seed.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import DataError, unknown_name_error
from recpolicy.core.files import atomic_path, content_digest
from recpolicy.core.seeds import generator
from recpolicy.data.ratings import Ratings

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Split:
    """Two disjoint parts of one ratings table over the same users and items."""

    name: str
    """Its name in SPLITS; leave-last-N and tail-N with their number."""
    train: Ratings
    """Ratings that embeddings, rating models and agents may see."""
    test: Ratings
    """Ratings that only evaluation sees."""
    seed: int

    def __repr__(self) -> str:
        return f"Split({self.name}: train {len(self.train):,} ratings, test {len(self.test):,} ratings)"

    @cached_property
    def digest(self) -> str:
        """SHA-256 over the name and both parts."""
        return content_digest(self.name, self.train.digest, self.test.digest)


def split(ratings: Ratings, name: str, seed: int = 0) -> Split:
    """Split a ratings table by a rule.

    Args:
        ratings: N ratings.
        name: A rule in SPLITS: u1..u5, ua, ub, temporal, leave-last-N, tail-N or random.
        seed: Seed of `random`; the other rules ignore it.

    Returns:
        The train and test parts, over the same users and items.

    Raises:
        ConfigError: The name is unknown.
        DataError: The rule needs timestamps that are missing, or leaves a part empty.
    """
    test = _rule(name)(ratings, seed)  # [N]
    for part, rows in (("train", len(test) - test.sum()), ("test", test.sum())):
        if rows == 0:
            raise DataError(f"{ratings.name}: split {name!r} of {len(test)} ratings leaves its {part} part empty")
    train_part = ratings.take(~test, name=f"{ratings.name}/{name}/train")
    return Split(name, train_part, ratings.take(test, name=f"{ratings.name}/{name}/test"), seed)


def contiguous_fold(ratings: Ratings, _seed: int, *, number: int) -> Mask:
    """Return the number-th (1..5) of five equal runs of rows, in file order."""
    row = np.arange(len(ratings))
    return ((number - 1) * len(ratings) // 5 <= row) & (row < number * len(ratings) // 5)


def given_n_test(ratings: Ratings, _seed: int, *, skip: int) -> Mask:
    """Return ten ratings of each user, in file order after the first `skip`."""
    place = _place(ratings.user, np.arange(len(ratings)))
    return (place >= skip) & (place < skip + 10)


def temporal(ratings: Ratings, _seed: int) -> Mask:
    """Return the last 20 % (rounded down) of each user's ratings by time; those of one second in file order."""
    count = np.bincount(ratings.user, minlength=ratings.shape[0])[ratings.user]  # [N], ratings of the row's user
    return _place(ratings.user, _time(ratings, "temporal")) >= count - count // 5


def leave_last(ratings: Ratings, _seed: int, *, number: int) -> Mask:
    """Return the last `number` ratings by time of each user who has more than that; those of one second in file
    order."""
    count = np.bincount(ratings.user, minlength=ratings.shape[0])[ratings.user]
    place = _place(ratings.user, _time(ratings, f"leave-last-{number}"))
    return (place >= count - number) & (count > number)


def tail(ratings: Ratings, _seed: int, *, number: int) -> Mask:
    """Return the last `number` rows, in file order."""
    return np.arange(len(ratings)) >= len(ratings) - number


def random_fifth(ratings: Ratings, seed: int) -> Mask:
    """One row in five, drawn without replacement."""
    test = np.zeros(len(ratings), bool)
    test[generator(seed, "split/random").permutation(len(ratings))[: len(ratings) // 5]] = True
    return test


SPLITS: Mapping[str, Callable[..., Mask]] = {
    "u1": partial(contiguous_fold, number=1),
    "u2": partial(contiguous_fold, number=2),
    "u3": partial(contiguous_fold, number=3),
    "u4": partial(contiguous_fold, number=4),
    "u5": partial(contiguous_fold, number=5),
    "ua": partial(given_n_test, skip=0),
    "ub": partial(given_n_test, skip=10),
    "temporal": temporal,
    "leave-last-N": leave_last,
    "tail-N": tail,
    "random": random_fifth,
}
"""Rules by name; leave-last-N and tail-N take a number, such as "leave-last-5"."""


def write_split(parts: Split, folder: Path) -> tuple[Path, Path]:
    """Write NAME.base (train) and NAME.test as the official files are: by user id, then item id, separated by tabs."""
    paths = folder / f"{parts.name}.base", folder / f"{parts.name}.test"
    for path, part in zip(paths, (parts.train, parts.test), strict=True):
        rows = pd.DataFrame(
            {
                "user": part.users["user_id"].to_numpy()[part.user],
                "item": part.items["item_id"].to_numpy()[part.item],
                "rating": part.rating,
            }
        )
        if (part.rating == np.floor(part.rating)).all():
            rows["rating"] = part.rating.astype(np.int64)
        if part.timestamp is not None:
            rows["timestamp"] = part.timestamp
        with atomic_path(path) as temporary:
            in_order = rows.sort_values(["user", "item"], kind="stable")
            in_order.to_csv(temporary, sep="\t", header=False, index=False, lineterminator="\n")
    return paths


def check_split_name(name: str) -> None:
    """Raise ConfigError unless there is a rule of this name."""
    _rule(name)


def _rule(name: str) -> Callable[..., Mask]:
    if match := re.fullmatch(r"(leave-last|tail)-([1-9]\d*)", name):
        return partial(SPLITS[f"{match[1]}-N"], number=int(match[2]))
    if name not in SPLITS or name.endswith("-N"):
        raise unknown_name_error("split", name, SPLITS)
    return SPLITS[name]


def _place(user: NDArray[np.int32], time: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the rank of each row [N] among the rows of its user, from 0, by time; ties in file order."""
    order = np.lexsort((time, user))  # stable
    first = np.searchsorted(user[order], user[order])  # where the user's run starts
    place = np.empty(len(user), np.int64)
    place[order] = np.arange(len(user)) - first
    return place


def _time(ratings: Ratings, name: str) -> NDArray[np.int64]:
    if ratings.timestamp is None:
        raise DataError(f"{ratings.name}: split {name!r} needs timestamps, which this table does not have")
    return ratings.timestamp
