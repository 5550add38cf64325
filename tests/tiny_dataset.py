"""A miniature MovieLens whose truth we planted: 60 users, 80 items, about 1,500 ratings, in the classic files.

A rating is 3.5 + user bias + item bias + a rank-3 preference + the taste of a gender for a genre + noise, rounded into
1..5. Biases, preferences, attributes and genres all matter, so every model that uses them beats one that does not.
Every user has at least 22 ratings (ua and ub take 20), popular items have more, and ratings of a user share seconds as
they do in the real data. The files hold what trips readers: Latin-1 titles, an item without a year, zip codes with
letters and leading zeros.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from recpolicy.data.datasets import ITEM_GENRES
from recpolicy.data.movielens import read_ml_100k
from recpolicy.data.ratings import Ratings

USERS, ITEMS, RANK = 60, 80, 3
NOISE_STD = 0.5
OCCUPATIONS = ("educator", "engineer", "none", "student", "writer")
FIRST_SECOND = 874_724_710


@dataclass(frozen=True)
class Miniature:
    """The planted world and the ratings drawn from it; rows are ids minus one."""

    expected: NDArray[np.float64]  # [U, I] rating before noise, rounding and clipping
    observed: NDArray[np.int64]  # [N, 4] user id, item id, rating, timestamp; in file order
    age: NDArray[np.int64]  # [U]
    female: NDArray[np.bool_]  # [U]
    occupation: NDArray[np.int64]  # [U], index of OCCUPATIONS
    genres: NDArray[np.bool_]  # [I, 19], columns as in ITEM_GENRES
    year: NDArray[np.int64]  # [I], 0 for the one item without


def miniature(seed: int = 0, users: int = USERS, items: int = ITEMS) -> Miniature:
    """Draw the world and its ratings; the same seed and numbers give the same bytes."""
    rng = np.random.default_rng([seed, 100])
    female = rng.random(users) < 0.4
    genres = np.zeros((items, len(ITEM_GENRES)), bool)
    genres[np.arange(items), rng.integers(1, len(ITEM_GENRES), items)] = True
    genres[np.arange(items), rng.integers(1, len(ITEM_GENRES), items)] = True
    genres[0], genres[0, 0] = False, True  # the "unknown" genre
    taste = rng.normal(0, 0.4, (2, len(ITEM_GENRES)))  # gender, genre
    preference = rng.normal(size=(users, RANK)) @ rng.normal(size=(items, RANK)).T * (0.6 / np.sqrt(RANK))
    expected = 3.5 + rng.normal(0, 0.4, (users, 1)) + rng.normal(0, 0.5, items) + preference
    expected += taste[female.astype(int)] @ genres.T
    year = rng.integers(1930, 1999, items)
    year[0] = 0
    return Miniature(
        expected=expected,
        observed=_observe(expected, rng),
        age=rng.integers(15, 66, users),
        female=female,
        occupation=rng.integers(0, len(OCCUPATIONS), users),
        genres=genres,
        year=year,
    )


def _observe(expected: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Who rated what, how and when: [N, 4], in an order that is not that of time."""
    users, items = expected.shape
    appeal = rng.normal(0, 1, items) + rng.gumbel(size=(users, items))  # popular ones have more
    place = np.argsort(np.argsort(-appeal, axis=1), axis=1)
    user, item = np.nonzero(place < rng.integers(22, 29, (users, 1)))  # each [N]
    rating = np.clip(np.rint(expected[user, item] + rng.normal(0, NOISE_STD, len(user))), 1, 5)
    start = FIRST_SECOND + rng.integers(0, 150 * 86400, users)
    session = rng.integers(0, 3, len(user)) * 5 * 86400  # up to three sessions of a user, days apart
    timestamp = start[user] + session + rng.integers(0, 15, len(user)) * 20  # ties within a session
    observed = np.column_stack([user + 1, item + 1, rating, timestamp]).astype(np.int64)
    return rng.permutation(observed)


def write_miniature(folder: Path, seed: int = 0, users: int = USERS, items: int = ITEMS) -> Path:
    """Write u.data, u.item, u.user and u.genre into `folder` (made if absent) and return it."""
    world = miniature(seed, users, items)
    folder.mkdir(parents=True, exist_ok=True)
    item_lines = [_item_line(world, row) for row in range(items)]
    user_lines = [
        f"{row + 1}|{world.age[row]}|{'F' if world.female[row] else 'M'}|{OCCUPATIONS[world.occupation[row]]}"
        f"|{_zip(row)}"
        for row in range(users)
    ]
    rows = ["\t".join(map(str, row)) for row in world.observed.tolist()]
    genres = [f"{name}|{index}" for index, name in enumerate(ITEM_GENRES)]
    for name, lines in {"u.data": rows, "u.item": item_lines, "u.user": user_lines, "u.genre": genres}.items():
        (folder / name).write_bytes(("\n".join(lines) + "\n").encode("latin-1"))
    return folder


def _item_line(world: Miniature, row: int) -> str:
    flags = "|".join("01"[int(flag)] for flag in world.genres[row])
    if world.year[row] == 0:
        return f"{row + 1}|unknown||||{flags}"
    title = f"{'Café' if row % 7 == 3 else 'Picture'} No. {row + 1:02d}, The ({world.year[row]})"
    return f"{row + 1}|{title}|01-Jan-{world.year[row]}|||{flags}"


def _zip(row: int) -> str:
    return "T8H1N" if row % 20 == 7 else f"{row * 613:05d}"


def miniature_ratings(seed: int = 0) -> Ratings:
    """Return the same ratings without touching the disk for longer than a moment."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return read_ml_100k(write_miniature(Path(folder), seed), name="miniature")
