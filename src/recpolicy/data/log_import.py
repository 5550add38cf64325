"""Convert logs of other systems to bandit logs: the part that all formats share.

N rounds, n of them in a batch, C candidates of all of them. A reader yields batches with the ids of its file;
this module maps them to rows of tables and checks everything. Every fault is a DataError that names file and line.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError, unknown_name_error
from recpolicy.core.hashes import Hashes, mix, text_hashes
from recpolicy.data import log_columns as read
from recpolicy.data.bandit_log import BanditLog
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.candidates import CandidateSets
from recpolicy.data.read_options import plain_number
from recpolicy.data.slate_log import SlateLog

Texts = NDArray[np.object_]

UNIT = (0.0, 1.0)
UNITS = ("user", "round")
"""The independent parts of a log: its users, or its rounds if it does not name users."""
_ID_DIGITS = 16
_ROUNDING = 1e-6
"""A sum of float32 probabilities may exceed 1 by this much."""


@dataclass(frozen=True)
class Batch:
    """Consecutive rounds of a file of another system."""

    line: NDArray[np.int64]  # [n], counted from 1
    time: NDArray[np.int64]  # [n], milliseconds since 1970
    user: Texts  # [n]
    item: Texts  # [n]
    propensity: NDArray[np.float64]  # [n]
    reward: NDArray[np.float64]  # [n]
    event_id: Texts | None = None  # [n]; None: the file has none
    candidates: NDArray[np.int64] | None = None  # [n], how many each round had; None: the file does not say
    candidate: Texts | None = None  # [C]
    timed: bool = True
    """False if the file has no times, and `time` only keeps the order of its lines."""


@dataclass(frozen=True)
class Imported:
    """An imported log, with the tables of its users and items."""

    rounds: BanditLog
    tables: IdVocabulary
    lost: tuple[str, ...]
    """Fields of the file that a log cannot hold."""
    left_out: "LeftOut" = field(default_factory=lambda: LeftOut())
    slates: SlateLog | None = None
    """The rounds as slates, if the lines have slots, and as many in every line."""
    slots: int = 1
    """Largest number of slots of a line."""


@dataclass
class LeftOut:
    """Counts of lines that became no rounds."""

    skipped: int = 0
    """Lines that the log marks as excluded from learning."""
    dangling: int = 0
    """Lines without a label, such as rewards without their event."""
    damaged: int = 0
    """Lines that are not JSON."""


def assemble(
    path: Path, policy: str, batches: Iterable[Batch], scale: tuple[float, float], tables: IdVocabulary | None,
    unit: str = "user",
) -> tuple[BanditLog, IdVocabulary]:  # fmt: skip
    """Join the batches to one log in order of time; `policy` names the logging policy, `unit` is user or round.

    Rewards on `scale` are stretched to the scale of the tables. Without tables, users and items are those that occur.
    The catalog are the items that were shown or could be. Raises DataError for a propensity outside (0, 1], a reward
    off the scale, an id that the tables lack, an item that was no candidate, two events of one id, and no round at all;
    ConfigError for a scale without extent.
    """
    if not (np.isfinite(scale).all() and scale[0] < scale[1]):
        raise ConfigError(f"scale {scale[0]:g}..{scale[1]:g}: expected the lowest reward, then a higher one")
    if unit not in UNITS:
        raise unknown_name_error("unit of a log", unit, UNITS)
    users, items = (_Ids(name, tables) for name in ("user_id", "item_id"))
    parts = [_checked(path, batch, scale, users, items) for batch in batches if len(batch.line)]
    if not parts:
        raise DataError(f"{path}: no rounds")
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    _number_events(path, columns)
    if tables is None:
        tables = IdVocabulary(users.table(), items.table(), scale)
        columns["user"] = users.sorted_rows()[columns["user"]]
        for name in ("item", "candidate"):
            columns[name] = items.sorted_rows()[columns[name]]
    low, high = tables.scale
    columns["reward"] = np.clip(low + (columns["reward"] - scale[0]) * (high - low) / (scale[1] - scale[0]), low, high)
    return _rounds(path, policy, columns, tables.scale, unit), tables


def refuse(path: Path, line: NDArray[np.int64], wrong: NDArray[np.bool_], say: Callable[[int], str]) -> None:
    """Raise DataError for the first wrong round of a batch [n], with what `say` says of it."""
    if wrong.any():
        row = int(wrong.argmax())
        raise DataError(f"{path}:{line[row]}: {say(row)}")


def numbered_id(content: str, occurrences: Counter[str]) -> str:
    """Return the id of the next event of this content hash."""
    key = content[:_ID_DIGITS]
    occurrences[key] += 1
    return f"{key}-{occurrences[key] - 1}"


class _Ids:
    """A mapping of ids to rows: of a given table, or in order of first occurrence."""

    def __init__(self, name: str, tables: IdVocabulary | None):
        self.name, self.fixed = name, tables is not None
        self._row: dict[str, int] = {}
        if tables is not None:
            known = (tables.users if name == "user_id" else tables.items)[name]
            self._row = {str(identifier): row for row, identifier in enumerate(known.tolist())}

    def rows(self, values: Texts) -> NDArray[np.int32]:
        """Return rows [n]; -1 where a given table lacks the id."""
        codes, distinct = pd.factorize(values)
        if not self.fixed:
            for identifier in distinct:
                self._row.setdefault(identifier, len(self._row))
        return np.array([self._row.get(identifier, -1) for identifier in distinct], np.int32)[codes]

    def table(self) -> pd.DataFrame:
        """Return the ids that occurred, ascending; whole numbers where all of them are."""
        return pd.DataFrame({self.name: self._sorted()})

    def sorted_rows(self) -> NDArray[np.int32]:
        """Return the row in `table` of each id, in order of first occurrence."""
        place = {str(identifier): row for row, identifier in enumerate(self._sorted())}
        return np.array([place[identifier] for identifier in self._row], np.int32)

    def _sorted(self) -> list[Any]:
        texts = list(self._row)
        whole = all(
            identifier.isdecimal()
            and identifier.isascii()
            and str(int(identifier)) == identifier
            and len(identifier) < 19
            for identifier in texts
        )
        return sorted(int(identifier) for identifier in texts) if whole else sorted(texts)


def _checked(path: Path, batch: Batch, scale: tuple[float, float], users: _Ids, items: _Ids) -> dict[str, NDArray[Any]]:
    """Return the columns of a batch, ids turned into rows."""
    low, high = scale
    propensity, reward = batch.propensity, batch.reward
    refuse(path, batch.line, ~((propensity > 0) & (propensity <= 1 + _ROUNDING)), lambda row: (
        f"propensity {plain_number(propensity[row])}: expected a probability in (0, 1]"
    ))  # fmt: skip
    propensity = np.minimum(propensity, 1.0)
    refuse(path, batch.line, ~((reward >= low) & (reward <= high)), lambda row: (
        f"reward {plain_number(reward[row])} is not in {low:g}..{high:g}; give --scale with the lowest and highest"
        " reward of the log"
    ))  # fmt: skip
    candidate = np.empty(0, object) if batch.candidate is None else batch.candidate
    rows = {"user": users.rows(batch.user), "item": items.rows(batch.item), "candidate": items.rows(candidate)}
    unknown = "is not known to the policy or ratings"
    refuse(path, batch.line, rows["user"] < 0, lambda row: f"user {batch.user[row]!r} {unknown}")
    refuse(path, batch.line, rows["item"] < 0, lambda row: f"item {batch.item[row]!r} {unknown}")
    count = np.zeros(len(batch.line), np.int64) if batch.candidates is None else batch.candidates
    if batch.candidates is not None:
        start = np.concatenate([[0], np.cumsum(count)])
        strange = read.any_in_list(rows["candidate"] < 0, start)
        refuse(path, batch.line, strange, lambda _: f"a candidate {unknown}")
        shown = read.any_in_list(rows["candidate"] == np.repeat(rows["item"], count), start)
        refuse(path, batch.line, ~shown, lambda row: f"item {batch.item[row]!r} is not among its candidates")
    event_id = np.full(len(batch.line), None, object) if batch.event_id is None else batch.event_id
    return {
        **rows, "count": count, "line": batch.line, "time": batch.time, "event_id": event_id, "reward": reward,
        "log_propensity": np.log(propensity), "content": _content(batch, candidate, count),
    }  # fmt: skip


def _content(batch: Batch, candidate: Texts, count: NDArray[np.int64]) -> Hashes:
    """Return a hash [n] of all that a line says, with the time only if the file has times; not of its place there.

    So a line has the same hash in every part of the file that is imported alone.
    """
    content = mix(text_hashes(batch.user), text_hashes(batch.item))
    for numbers in (batch.propensity, batch.reward):
        content = mix(content, np.asarray(numbers, np.float64).view(np.uint64))
    if batch.timed:
        content = mix(content, batch.time.view(np.uint64))
    total = np.concatenate([np.zeros(1, np.uint64), np.cumsum(text_hashes(candidate), dtype=np.uint64)])
    end = np.cumsum(count)
    return mix(content, total[end] - total[end - count])


def _number_events(path: Path, columns: dict[str, NDArray[Any]]) -> None:
    """Give events without an id one of their content; raises DataError where two have the same id.

    Lines of the same content are numbered. So an event has the same id in every part of the file.
    """
    event_id, line, content = columns["event_id"], columns["line"], columns.pop("content")
    without = np.flatnonzero(pd.isna(event_id))
    if len(without):
        hashes = content[without]
        occurrence = pd.Series(hashes).groupby(hashes, sort=False).cumcount()
        event_id[without] = [f"{value:016x}-{number}" for value, number in zip(hashes, occurrence, strict=True)]
    twins = pd.Series(event_id).duplicated().to_numpy()
    refuse(path, line, twins, lambda row: f"event {event_id[row]!r} occurs twice")


def _rounds(path: Path, policy: str, columns: dict[str, Any], scale: tuple[float, float], unit: str) -> BanditLog:
    """Return the columns, in file order, as a log in the order of time."""
    order = np.argsort(columns["time"], kind="stable")
    count, candidate = columns.pop("count"), columns.pop("candidate")
    columns.pop("line")
    action_items = np.unique(np.concatenate([columns["item"], candidate])).astype(np.int32)
    lists: dict[str, Any] = {}
    if (count != len(action_items)).any() and len(candidate):
        begin, length = (np.cumsum(count) - count)[order], count[order]
        start = np.concatenate([[0], np.cumsum(length)]).astype(np.int64)
        where = np.repeat(begin - start[:-1], length) + np.arange(start[-1])
        action = np.searchsorted(action_items, candidate[where]).astype(np.int32)
        lists = {"candidates": CandidateSets.from_lists(start, action, len(action_items))}
    many = len(order)
    return BanditLog(
        **{name: column[order] for name, column in columns.items()}, **lists, action_items=action_items, scale=scale,
        name=str(path), policy=np.full(many, policy, object), version=np.full(many, "imported", object),
        unit="round" if unit == "round" else None,
    )  # fmt: skip
