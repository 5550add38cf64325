"""Logs made by hand: 4 users, 6 items of which 5 are in the catalog, and all that can be wrong with a file."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from recpolicy.data.bandit_log import BanditLog, ColdStartUsers
from recpolicy.data.bandit_log_files import IdVocabulary, write_events, write_rewards
from recpolicy.data.candidates import CandidateSets
from recpolicy.data.log_parts import EVENTS, REWARDS

USERS, ITEMS = 4, 6
ACTION_ITEMS = np.array([0, 1, 2, 4, 5], np.int32)  # item row 3 (id 14) is known, but cannot be shown
SCALE = (1.0, 5.0)
HOUR = 3_600_000
START = 1_767_571_200_000
"""2026-01-05, in milliseconds."""


def tables(text: bool = False) -> IdVocabulary:
    """Users 1..4 and items 11..16, or user-1.. and film-11.."""
    users, items = np.arange(1, USERS + 1), np.arange(11, 11 + ITEMS)
    return IdVocabulary(
        pd.DataFrame({"user_id": [f"user-{one}" for one in users] if text else users}),
        pd.DataFrame({"item_id": [f"film-{one}" for one in items] if text else items}),
        SCALE,
    )


def write_known(path: Path) -> None:
    """Ratings of these users and items, as a CSV: what makes a log of them known to the command line."""
    lines = (f"{user},{item},{1 + (user + item) % 5}\n" for user in range(1, 5) for item in range(11, 17))
    path.write_text("user,item,rating\n" + "".join(lines))


def hand_rounds(number: int = 12, seed: int = 0, candidates: bool = False, **changes: Any) -> BanditLog:
    """Rounds an hour apart, with uneven propensities; half-way another version of the policy logs."""
    rng = np.random.default_rng([seed, 5])
    columns: dict[str, Any] = {
        "event_id": np.array([f"e{row}" for row in range(number)], object),
        "time": START + HOUR * np.arange(number),
        "user": rng.integers(0, USERS, number).astype(np.int32),
        "item": rng.choice(ACTION_ITEMS, number),
        "log_propensity": np.log(rng.uniform(1e-7, 1, number)),
        "reward": rng.integers(1, 6, number).astype(np.float64),
        "policy": np.full(number, "linucb", object),
        "version": np.where(np.arange(number) < number // 2, "aa", "bb").astype(object),
    }
    if candidates:
        others = [np.setdiff1d(rng.choice(ACTION_ITEMS, 3), [item]) for item in columns["item"]]
        lists = [np.append(other, item) for other, item in zip(others, columns["item"], strict=True)]
        columns["candidates"] = candidate_sets(lists)
    return BanditLog(action_items=ACTION_ITEMS, scale=SCALE, name="hand", **(columns | changes))


def candidate_sets(lists: list[Any], excluded: list[list[int]] | None = None) -> CandidateSets:
    """The candidates of rounds, from item rows: those of each list, without the excluded ones."""
    start = np.cumsum([0, *map(len, lists)]).astype(np.int64)
    sets = CandidateSets.from_lists(start, np.searchsorted(ACTION_ITEMS, np.concatenate(lists)), len(ACTION_ITEMS))
    if excluded is None:
        return sets
    start = np.cumsum([0, *map(len, excluded)]).astype(np.int64)
    actions = np.searchsorted(ACTION_ITEMS, np.concatenate(excluded)).astype(np.int32)
    return replace(sets, excluded_start=start, excluded=actions)


def page_rounds(number: int = 12, **changes: Any) -> BanditLog:
    """Rounds as a server exports them, three positions per event: one set, without the items at earlier positions."""
    rounds, rng = hand_rounds(number), np.random.default_rng(3)
    shown = [rng.permutation(np.delete(ACTION_ITEMS, page % 3))[:3] for page in range(number // 3)]
    lists = [np.delete(ACTION_ITEMS, row // 3 % 3) for row in range(number)]
    excluded = [shown[row // 3][: row % 3].tolist() for row in range(number)]
    columns = {"item": np.concatenate(shown).astype(np.int32), "candidates": candidate_sets(lists, excluded)}
    return replace(rounds, **(columns | changes))


def newcomer_rounds(number: int = 12, text: bool = False, **changes: Any) -> BanditLog:
    """Every third round is of a newcomer, two of them in turn; every fifth of the rest has a vector nevertheless."""
    rounds = hand_rounds(number, **changes)
    row = np.arange(number)
    context = np.random.default_rng(9).normal(size=(number, 3)).astype(np.float32)
    context[(row % 3 != 1) & (row % 5 != 0)] = np.nan
    user = np.where(row % 3 == 1, USERS + row // 3 % 2, rounds.user).astype(np.int32)
    ids = np.array(["new-b", "new-a"] if text else [70, 60], object)
    return replace(rounds, user=user, context=context, cold_start_users=ColdStartUsers(USERS, ids))


def assert_same_rounds(one: BanditLog, other: BanditLog) -> None:
    """Equal in all but the name, bit by bit."""
    for name in ("event_id", "time", "user", "item", "log_propensity", "reward", "action_items", "policy", "version"):
        left, right = getattr(one, name), getattr(other, name)
        assert left.dtype == right.dtype, name
        np.testing.assert_array_equal(left, right, err_msg=name)
    assert (one.candidates is None) == (other.candidates is None)
    everything = slice(0, len(one))
    np.testing.assert_array_equal(one.allowed(everything), other.allowed(everything))
    assert (one.context is None) == (other.context is None)
    if one.context is not None:
        assert one.context.dtype == other.context.dtype
        np.testing.assert_array_equal(one.context, other.context)
    assert (one.cold_start_users is None) == (other.cold_start_users is None)
    if one.cold_start_users is not None:
        assert one.cold_start_users.known == other.cold_start_users.known
        assert one.cold_start_users.ids.tolist() == other.cold_start_users.ids.tolist()
    assert one.scale == other.scale
    assert one.digest == other.digest


def write_log(folder: Path, rounds: BanditLog, delay: int = 60_000, text: bool = False) -> Path:
    """A log as a system writes it: events without rewards, and every reward a minute after its event."""
    folder.mkdir(parents=True, exist_ok=True)
    write_events(folder / EVENTS, rounds, tables(text), with_rewards=False)
    write_rewards(folder / REWARDS, rounds.event_id, rounds.time + delay, rounds.reward)
    return folder


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    """Change the table in a Parquet file."""
    pq.write_table(change(pq.read_table(path)), path)


def column(name: str, values: Any, kind: Any = None) -> Callable[[Path], None]:
    """A change of events.parquet: other values, or a function of the old ones, in one column."""

    def change(table: pa.Table) -> pa.Table:
        place = table.schema.get_field_index(name)
        new = values(table.column(name).to_pylist()) if callable(values) else values
        old = table.schema.field(name).type
        return table.set_column(place, name, pa.array(new, kind or (old.value_type if _coded(old) else old)))

    return lambda folder: rewrite(folder / EVENTS, change)


def contexts(values: Any, kind: Any = None) -> Callable[[Path], None]:
    """Another column `context` of events.parquet; `values` of the third row, those before and after are [1, 2, 3]."""
    kind = kind or pa.list_(pa.float32())

    def change(table: pa.Table) -> pa.Table:
        rows = third(values)([[1, 2, 3]] * table.num_rows)
        return table.append_column("context", pa.array(rows, kind))

    return lambda folder: rewrite(folder / EVENTS, change)


def excluded(rows: list[Any]) -> Callable[[Path], None]:
    """A column `excluded` of events.parquet."""
    return lambda folder: rewrite(
        folder / EVENTS, lambda table: table.append_column("excluded", pa.array(rows, pa.list_(pa.int64())))
    )


def both(*changes: Callable[[Path], None]) -> Callable[[Path], None]:
    """One change after the other."""

    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def metadata(**changes: Any) -> Callable[[Path], None]:
    """A change of what events.parquet says of itself."""
    import json

    def change(table: pa.Table) -> pa.Table:
        old = json.loads(table.schema.metadata[b"recpolicy"])
        return table.replace_schema_metadata({b"recpolicy": json.dumps(old | changes).encode()})

    return lambda folder: rewrite(folder / EVENTS, change)


def third(value: Any) -> Callable[[list[Any]], list[Any]]:
    """Another value in the third row."""
    return lambda old: [*old[:2], value, *old[3:]]


def _coded(kind: Any) -> bool:
    return pa.types.is_dictionary(kind)


def _cut(folder: Path) -> None:
    whole = (folder / EVENTS).read_bytes()
    (folder / EVENTS).write_bytes(whole[: len(whole) // 2])


def _scribble(folder: Path) -> None:
    """The footer is sound, the pages are not."""
    whole = bytearray((folder / EVENTS).read_bytes())
    whole[4:400] = bytes(396)
    (folder / EVENTS).write_bytes(whole)


def _drop(folder: Path) -> None:
    rewrite(folder / EVENTS, lambda table: table.drop_columns(["log_propensity", "time"]))


def _renamed(folder: Path) -> None:
    other = {"item_id": "movie_id", "time": "event_time"}
    rewrite(folder / EVENTS, lambda table: table.rename_columns([other.get(name, name) for name in table.column_names]))


def _empty(folder: Path) -> None:
    rewrite(folder / EVENTS, lambda table: table.slice(0, 0))


def _reward(name: str, values: Any, kind: Any = None) -> Callable[[Path], None]:
    def change(table: pa.Table) -> pa.Table:
        new = values(table.column(name).to_pylist()) if callable(values) else values
        place = table.schema.get_field_index(name)
        return table.set_column(place, name, pa.array(new, kind or table.schema.field(name).type))

    return lambda folder: rewrite(folder / REWARDS, change)


def _ones(old: list[Any]) -> list[int]:
    return [1] * len(old)


def _no_json(folder: Path) -> None:
    rewrite(folder / EVENTS, lambda table: table.replace_schema_metadata({b"recpolicy": b"{"}))


def _retyped(folder: Path, kind: Any, value: Any = 1) -> None:
    column("context", lambda old: [value] * len(old), kind)(folder)


NUMBERS = pa.list_(pa.int64())
ROW = r"events\.parquet: row 3: "
FAULTS: Mapping[str, tuple[Callable[[Path], None], str]] = {
    "no file": (lambda folder: (folder / EVENTS).unlink(), r"^[^:]+events\.parquet: no such file"),
    "cut short": (_cut, r"events\.parquet: not a readable Parquet file"),
    "overwritten": (_scribble, r"events\.parquet: damaged: .*write or copy it again"),
    "columns missing": (_drop, r"events\.parquet: no column time, log_propensity; found event_id, user_id"),
    "columns in other words": (
        _renamed,
        r"no column .*; found .*; rename .*movie_id to item_id.*",
    ),
    "no events": (_empty, r"events\.parquet: no events"),
    "other format": (metadata(format="something"), r"events\.parquet: written as 'something', version 4; expected"),
    "other version": (metadata(version=99), r"version 99; expected 'recpolicy log', version 4"),
    "other scale": (metadata(scale=[0, 10]), r"rewards on the scale \[0, 10\]; expected \[1\.0, 5\.0\]"),
    "catalog unknown": (metadata(action_items=[11, 99]), r"its action_items names item 99"),
    "catalog no list": (metadata(action_items=3), "its action_items is 3; expected a list of item ids"),
    "metadata no JSON": (_no_json, r"metadata 'recpolicy' is not JSON"),
    "propensity NaN": (column("log_propensity", third(float("nan"))), ROW + "log_propensity nan: expected"),
    "propensity null": (column("log_propensity", third(None)), ROW + "log_propensity nan"),
    "propensity above 1": (column("log_propensity", third(0.5)), ROW + r"log_propensity 0\.5: expected the logarithm"),
    "propensity 0": (column("log_propensity", third(-float("inf"))), ROW + "log_propensity -inf"),
    "propensity float32": (
        column("log_propensity", lambda old: old, pa.float32()),
        r"column log_propensity is of type float; expected float64",
    ),
    "user unknown": (column("user_id", third(9)), ROW + "user_id 9 is none of the 4"),
    "user null": (column("user_id", third(None)), ROW + "user_id None is none"),
    "unknown without context": (both(contexts(None), column("user_id", third(9))), ROW + "user_id 9 is none of the 4"),
    "newcomer null": (both(contexts([1, 2, 3]), column("user_id", third(None))), ROW + "user_id is missing"),
    "newcomer of another type": (
        both(contexts([1, 2, 3]), column("user_id", lambda old: [f"u{one}" for one in old], pa.string())),
        r"column user_id is of type string; expected whole numbers, as those of the policy or ratings",
    ),
    "context of another length": (
        contexts([1, 2]), ROW + "context has 2 numbers; expected 3, as many as the first of this file"
    ),
    "context empty": (contexts([]), ROW + "context has 0 numbers; expected at least 1"),
    "context NaN": (contexts([1, float("nan"), 3]), ROW + "context contains a number that is not finite"),
    "context with a null": (contexts([1, None, 3]), ROW + "context contains a number that is not finite"),
    "context beyond float32": (
        contexts([1, 1e300, 3], pa.list_(pa.float64())), ROW + "context contains a number that is not finite"
    ),
    "context no list": (
        both(contexts(None), lambda folder: _retyped(folder, pa.int64())),
        "column context is of type int64; expected lists of numbers",
    ),
    "context of texts": (
        both(contexts(None), lambda folder: _retyped(folder, pa.list_(pa.string()), ["1", "2", "3"])),
        "column context is of type list<.*string>; expected lists of numbers",
    ),
    "item unknown": (column("item_id", third(99)), ROW + "item_id 99 is none of the 6"),
    "item outside the catalog": (column("item_id", third(14)), ROW + "the item shown is not in the catalog"),
    "item no candidate": (
        column("candidates", lambda old: third([])([[11, 12, 13, 15, 16]] * len(old)), NUMBERS),
        ROW + "the item shown is not among its candidates",
    ),
    "candidate outside the catalog": (
        column("candidates", lambda old: third([11, 12, 13, 14, 15, 16])([[11, 12, 13, 15, 16]] * len(old)), NUMBERS),
        ROW + "a candidate is not in the catalog",
    ),
    "candidate unknown": (
        column("candidates", lambda old: third([11, 99])([[11, 12, 13, 15, 16]] * len(old)), NUMBERS),
        ROW + "a candidate is none of the 6 items",
    ),
    "candidates of some": (
        column("candidates", lambda old: third(None)([[11, 12, 13, 15, 16]] * len(old)), NUMBERS),
        ROW + "candidates are missing, but other rows have them",
    ),
    "candidates no list": (column("candidates", _ones, pa.int64()), "candidates is of type int64; expected lists"),
    "packed candidates too short": (
        column("candidates", lambda old: [b"\xf8", b"\xf8", b"\xf8\0"] * 4, pa.binary()),
        ROW + "candidates have 2 bytes; expected 1, a bit for each of the 5 items of the catalog",
    ),
    "item not in the packed set": (
        column("candidates", lambda old: third(b"\0")([b"\xf8"] * len(old)), pa.binary()),
        ROW + "the item shown is not among its candidates",
    ),
    "item excluded": (
        excluded(third([11, 12, 13, 15, 16])([None] * 12)), ROW + "the item shown is not among its candidates"
    ),
    "excluded unknown": (excluded(third([99])([None] * 12)), ROW + "an excluded item is none of the 6 items"),
    "excluded outside the catalog": (
        excluded(third([14])([None] * 12)), ROW + "an excluded item is not in the catalog of this log"
    ),
    "event twice": (column("event_id", third("e0")), ROW + "event_id 'e0' occurs twice"),
    "event null": (column("event_id", third(None)), ROW + "event_id is missing"),
    "event a number": (column("event_id", _ones, pa.int64()), "event_id is of type int64; expected text"),
    "policy null": (column("policy", third(None)), ROW + "policy is missing"),
    "time null": (column("time", third(None)), ROW + "time is missing"),
    "time a number": (column("time", _ones, pa.int64()), "time is of type int64; expected timestamps"),
    "reward too high": (column("reward", third(5.5)), ROW + r"reward 5\.5 is not in 1\.\.5"),
    "reward NaN": (column("reward", third(float("nan"))), ROW + r"reward nan is not in 1\.\.5"),
    "reward text": (column("reward", third("x"), pa.string()), "column reward is of type string; expected numbers"),
    "late reward too low": (_reward("reward", third(0.0)), r"rewards\.parquet: row 3: reward 0\.0 is not in 1\.\.5"),
    "late reward null": (_reward("reward", third(None)), r"rewards\.parquet: row 3: reward is missing"),
    "late reward without event": (_reward("event_id", third(None)), r"rewards\.parquet: row 3: event_id is missing"),
    "rewards without time": (
        lambda folder: rewrite(folder / REWARDS, lambda table: table.drop_columns(["time"])),
        r"rewards\.parquet: no column time; found event_id, reward",
    ),
}  # fmt: skip
"""What can be wrong with a log that `write_log` wrote (12 rounds), and how its error must begin."""
