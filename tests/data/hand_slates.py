"""Slate logs made by hand: users and items of hand_logs.py, 8 pages of 2 slots; and all that can be wrong."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import corrupt_logs
import numpy as np
import pyarrow as pa
from hand_logs import ACTION_ITEMS, HOUR, START, tables, third

from recpolicy.data.slate_log import SlateLog
from recpolicy.data.slate_log_files import SLATES, write_slates

PAGES = 8
SHELVES = np.array([0, 1, 0, 1, 1], np.int16)
"""Item rows 0 and 2 of CATALOGUE (0, 1, 2, 4, 5) stand in the first slot, 1, 4 and 5 in the second."""


def hand_slates(shelved: bool = True, **changes: Any) -> SlateLog:
    """Pages an hour apart; each slot earns 0 or 1."""
    rng = np.random.default_rng(6)
    first, second = rng.choice([0, 2], PAGES), rng.choice([1, 4, 5], PAGES)
    earned = (rng.random((PAGES, 2)) < 0.5).astype(np.float64)
    columns: dict[str, Any] = {
        "event_id": np.array([f"e{row}" for row in range(PAGES)], object),
        "time": START + HOUR * np.arange(PAGES),
        "user": rng.integers(0, 4, PAGES).astype(np.int32),
        "slate": np.stack([first, second], axis=1).astype(np.int32),
        "log_propensity": np.log(rng.uniform(1e-7, 1, (PAGES, 2))),
        "reward": earned.sum(axis=1),
        "slot_reward": earned,
        "policy": np.full(PAGES, "linucb", object),
        "version": np.where(np.arange(PAGES) < 3, "aa", "bb").astype(object),
        "shelves": SHELVES if shelved else None,
    }
    return SlateLog(**({"action_items": ACTION_ITEMS, "scale": (0.0, 2.0), "name": "hand"} | columns | changes))


def write_hand(folder: Path, text: bool = False, **changes: Any) -> Path:
    """The hand-made slates in a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    write_slates(folder / SLATES, hand_slates(**changes), tables(text))
    return folder


rewritten = partial(corrupt_logs.rewritten, SLATES)
column = partial(corrupt_logs.column, SLATES)
metadata = partial(corrupt_logs.metadata, SLATES)
"""Changes of a folder that `write_hand` wrote."""


def _as_numbers(old: list[Any]) -> list[Any]:
    return [one[0] for one in old]


ROW = r"slates\.parquet: row 3: "
FAULTS: Mapping[str, tuple[corrupt_logs.Change, str]] = {
    "no file": (lambda folder: (folder / SLATES).unlink(), r"^[^:]+slates\.parquet: no such file"),
    "cut short": (corrupt_logs.cut(SLATES), r"slates\.parquet: not a readable Parquet file"),
    "column missing": (
        rewritten(lambda table: table.drop_columns(["slate"])),
        r"slates\.parquet: no column slate; found event_id, time",
    ),
    "no slates": (rewritten(lambda table: table.slice(0, 0)), r"slates\.parquet: no slates"),
    "other version": (metadata(b'{"version": 99}'), r"version 99; expected 'recpolicy slate log', version 4"),
    "rounds": (metadata(b'{"format": "recpolicy log"}'), r"written as 'recpolicy log', version 4; expected"),
    "metadata no JSON": (metadata(b"{"), "metadata 'recpolicy' is not JSON"),
    "scale a text": (metadata(b'{"scale": "05"}'), r"its scale is '05'; expected the lowest and the highest reward"),
    "scale endless": (metadata(b'{"scale": [0, 1e999]}'), r"its scale is \[0, inf\]; expected"),
    "scale too long a number": (metadata(b'{"scale": [0, 1' + b"0" * 400 + b"]}"), r"its scale is \[0, 1000"),
    "scale upside down": (metadata(b'{"scale": [2, 0]}'), r"its scale is \[2, 0\]; expected"),
    "catalog of lists": (metadata(b'{"action_items": [[1, 2]]}'), r"its action_items is \[\[1, 2\]\]; expected a list"),
    "catalog of truths": (metadata(b'{"action_items": [true]}'), r"its action_items is \[True\]; expected a list"),
    "metadata nested deeply": (metadata(b"[" * 100_000), "metadata 'recpolicy' is not JSON"),
    "shelf too high": (metadata(b'{"action_items": [11, 12], "shelves": [0, 40000]}'), "its shelves must give each"),
    "slate of lists": (
        column("slate", [[[11], [12]]] * PAGES, pa.list_(pa.list_(pa.int64()))), "expected lists of item ids",
    ),
    "user a list": (column("user_id", [[1]] * PAGES, pa.list_(pa.int64())), "user_id is of type list<.*expected ids"),
    "reward a huge number": (column("reward", [2**62 + 1] * PAGES, pa.int64()), r"row 1: reward 4\.6\d+e\+18 is not"),
    "propensity below float64": (column("log_propensity", third([-800.0, -1.0])), ROW + r"log_propensity \[-800\.0, "),
    "scale no pair": (metadata(b'{"scale": [1]}'), r"its scale is \[1\]; expected the lowest and the highest reward"),
    "catalog unknown": (metadata(b'{"action_items": [11, 99]}'), "its action_items names item 99"),
    "shelves too few": (metadata(b'{"action_items": [11, 12], "shelves": [0]}'), "its shelves must give each"),
    "shelves no numbers": (metadata(b'{"action_items": [11], "shelves": ["a"]}'), "its shelves must give each"),
    "slate a number": (column("slate", _as_numbers, pa.int64()), "slate is of type int64; expected lists of item ids"),
    "slate null": (column("slate", third(None)), ROW + "slate is missing"),
    "slate too long": (column("slate", third([11, 12, 13])), ROW + "slate has 3 values; expected 2"),
    "slate empty": (column("slate", [[]] * PAGES), r"row 1: slate has 0 values; expected some"),
    "item null": (column("slate", third([11, None])), ROW + "a value of slate is missing"),
    "item unknown": (column("slate", third([11, 99])), ROW + "item 99 of the slate is none of the 6"),
    "item outside the catalog": (column("slate", third([11, 14])), ROW + "an item that is not in the catalog"),
    "item on another's shelf": (column("slate", third([12, 15])), ROW + "an item that does not belong"),
    "propensity NaN": (column("log_propensity", third([-1.0, float("nan")])), ROW + r"log_propensity \[-1\.0, nan\]"),
    "propensity above 1": (column("log_propensity", third([0.5, -1.0])), ROW + r"log_propensity \[0\.5, -1\.0\]: exp"),
    "propensity 0": (column("log_propensity", third([-1.0, -float("inf")])), ROW + "log_propensity"),
    "propensity of one slot only": (column("log_propensity", third([-1.0])), ROW + "log_propensity has 1 value"),
    "propensity float32": (
        column("log_propensity", lambda old: old, pa.list_(pa.float32())), "expected lists of float64",
    ),
    "user unknown": (column("user_id", third(9)), ROW + "user_id 9 is none of the 4"),
    "event twice": (column("event_id", third("e0")), ROW + "event_id 'e0' occurs twice"),
    "reward too high": (column("reward", third(2.5)), ROW + r"reward 2\.5 is not in 0\.\.2"),
    "reward null": (column("reward", third(None)), ROW + "reward is missing"),
    "slots earn otherwise": (column("slot_reward", third([0.25, 0.0])), ROW + r"reward \S+, but its slots earned 0\.2"),
    "slot reward NaN": (column("slot_reward", third([float("nan"), 0.0])), ROW + r"slot_reward \[nan, 0\.0\]: exp"),
    "slot rewards of some": (column("slot_reward", third(None)), ROW + "slot_reward is missing"),
    "slot rewards text": (
        column("slot_reward", [["a", "b"]] * PAGES, pa.list_(pa.string())), "expected lists of numbers",
    ),
}  # fmt: skip
"""What can be wrong with a file that `write_hand` wrote, and how its error must begin."""
