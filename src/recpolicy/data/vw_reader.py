"""Read the decisions of a log of Vowpal Wabbit, line by line: one choice a line, or the choices of several slots.

vw_records.py and vw_slots.py read the parts of a line, vw_text.py turns Vowpal Wabbit's text into the same records.
Blank lines are read over. Lines without a label (rewards that came without their event) are left out and counted, and
so are lines with a true `_skipLearn`. Every other fault is a DataError that names file and line.
"""

import hashlib
import io
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.data.csv_reader import Source
from recpolicy.data.feature_columns import canonical_json, plain_value
from recpolicy.data.log_import import LeftOut, numbered_id
from recpolicy.data.vw_records import (
    action_features,
    has_label,
    is_integer,
    probability_of_places,
    read_label,
    shared_features,
    value_at,
)
from recpolicy.data.vw_slots import OUTCOMES, SLOT_ID, SLOTS, SlotChoice, label_cost, read_slots
from recpolicy.data.vw_text import is_text, text_records

_KINDS = {"choice": "one choice a line", "ccb": "slots (CCB)", "slates": "slates"}


@dataclass(frozen=True)
class Line:
    """The parts that every line has."""

    line: int
    """Its number, from 1."""
    shared: Mapping[str, Any]
    """Features of the context."""
    actions: Mapping[str, Mapping[str, Any]]
    """Features of the actions by their name, in the order of the line; none where the line only numbers them."""
    user: str
    """Id of the user, or all shared features as one text."""
    event_id: str | None
    timestamp: str | None
    dropped_share: float
    """Share of the events like this one that the system dropped before logging."""


@dataclass(frozen=True)
class Decision(Line):
    """A choice among actions."""

    shown: str
    """Name of the shown action."""
    probability: float
    cost: float

    @property
    def content(self) -> list[Any]:
        """The choice and its outcome."""
        return [self.shown, self.probability, self.cost]


@dataclass(frozen=True)
class SlateDecision(Line):
    """The choices of several slots."""

    slots: tuple[SlotChoice, ...]
    cost: float | None
    """Cost of the whole line, if its slots have none."""

    @property
    def content(self) -> list[Any]:
        """The choices and their outcomes."""
        return [self.cost, *([slot.shown, slot.probability, slot.cost, slot.features] for slot in self.slots)]


@dataclass
class DecisionReader:
    """A reader that counts the lines that it leaves out."""

    path: Path
    user: str
    item: str
    skip_damaged: bool
    left_out: LeftOut = field(default_factory=LeftOut)
    timed: bool | None = None
    """True if lines have a time; all or none must."""
    kind: str | None = None
    """A key of _KINDS; all lines must be of one kind."""
    shelf: dict[str, int] = field(default_factory=dict)
    """For slates, the slot of each action."""

    def decisions(self) -> Iterator[Decision | SlateDecision]:
        """Yield the decisions of the file; raises DataError that names the line."""
        try:
            with Source(self.path).open() as raw, io.TextIOWrapper(raw, "utf-8-sig") as stream:
                for line, record in self._records(stream):
                    try:
                        decision = self._decision(line, record)
                    except (ValueError, RecursionError) as error:
                        raise DataError(f"{self.path}:{line}: {error}") from None
                    if decision is not None:
                        yield decision
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: not UTF-8 text: {error}") from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error}") from None

    def _records(self, stream: TextIO) -> Iterator[tuple[int, Any]]:
        """Yield number and content of the lines of JSON, or of the examples of a file of text."""
        lines: Iterator[tuple[int, str]] = enumerate(stream, 1)
        first = next(((number, text) for number, text in lines if text.strip()), None)
        if first is None:
            return
        lines = chain([first], lines)
        if is_text(first[1]):
            yield from text_records(lines, self.path)
            return
        for number, text in lines:
            if text.strip():
                yield from self._parsed(number, text)

    def _parsed(self, number: int, text: str) -> Iterator[tuple[int, Any]]:
        """Yield number and content of a line of JSON; nothing for a damaged line that is to be skipped."""
        try:
            yield number, json.loads(text)
        except (json.JSONDecodeError, RecursionError) as error:
            if not self.skip_damaged:
                where = f" (column {error.colno}: {error.msg})" if isinstance(error, json.JSONDecodeError) else ""
                raise DataError(
                    f"{self.path}:{number}: not JSON{where}; expected an object in JSON: correct the line, or give"
                    " --skip-damaged to leave out such lines"
                ) from None
            self.left_out.damaged += 1

    def _decision(self, line: int, record: Any) -> Decision | SlateDecision | None:
        """Return the content of a line, None for one to leave out; raises ValueError that says what is wrong."""
        if not isinstance(record, dict):
            raise ValueError("not a JSON object")
        if "_label_ca" in record:
            raise ValueError("a log of continuous actions; expected one of several actions a line")
        if record.get("_skipLearn") is True:
            self.left_out.skipped += 1
            return None
        context = record.get("c", record)
        if not isinstance(context, dict):
            raise ValueError(f"c is {context!r}; expected an object")
        actions = _actions(record, context)
        labeled = has_label(record)
        if not labeled and OUTCOMES not in record and (SLOTS in context or not actions):
            self.left_out.dangling += 1
            return None
        if not actions:
            raise ValueError("neither c._multi nor a lists the actions")
        of_slots = OUTCOMES in record
        shelf = _shelf(actions) if of_slots else None
        self._check_kind("choice" if not of_slots else "ccb" if shelf is None else "slates")
        names = {number: self._name(number, features) for number, features in actions.items()}
        if self.timed is not None and self.timed != ("Timestamp" in record):
            raise ValueError("some lines have a Timestamp, and some have none")
        self.timed = "Timestamp" in record
        shared = shared_features(record, context)
        features = {names[number]: action_features(features or {}) for number, features in reversed(actions.items())}
        common: dict[str, Any] = {
            "line": line, "shared": shared, "actions": {name: features[name] for name in dict.fromkeys(names.values())},
            "user": value_at(shared, self.user) if self.user else as_text(shared),
            "event_id": None if record.get("EventId") is None else str(record["EventId"]),
            "timestamp": str(record.get("Timestamp")) if self.timed else None, "dropped_share": _dropped_share(record),
        }  # fmt: skip
        if of_slots:
            return self._slate(record, context, list(names.values()), shelf, common)
        label = read_label(record, actions)
        shown = names[label.action]
        places = [number for number, name in names.items() if name == shown]
        probability = probability_of_places(record, label, places)
        return Decision(**common, shown=shown, probability=probability, cost=label.cost)

    def _slate(
        self, record: dict[str, Any], context: dict[str, Any], names: Sequence[str], shelf: list[int] | None,
        common: dict[str, Any],
    ) -> SlateDecision:  # fmt: skip
        """Return the choices of the slots of a line."""
        slots = read_slots(record, context, names, shelf)
        for name, slot in zip(names, shelf or (), strict=False):
            if self.shelf.setdefault(name, slot) != slot:
                raise ValueError(
                    f"action {name!r} is of slot {slot}, but of slot {self.shelf[name]} before; the ids of the actions"
                    " of two slots must differ (--item)"
                )
        return SlateDecision(**common, slots=slots, cost=None if shelf is None else label_cost(record))

    def _check_kind(self, kind: str) -> None:
        """Raise ValueError for a line of another kind than those before."""
        if self.kind not in (None, kind):
            raise ValueError(f"a line of {_KINDS[kind]} in a log of {_KINDS[str(self.kind)]}; import them apart")
        self.kind = kind

    def _name(self, number: int, action: Any) -> str:
        if action is None:
            return str(number)
        if not isinstance(action, dict):
            raise ValueError(f"an action is {action!r}; expected an object of features")
        features = action_features(action)
        if self.item:
            return value_at(features, self.item)
        return value_at(features, "_tag") if "_tag" in features else as_text(features)


def event_id(line: Decision | SlateDecision, occurrences: Counter[str]) -> str:
    """Return the id of the line, or else one of its content, with a number if the content occurs several times.

    So a line has the same id in every part of the file that is imported alone.
    """
    if line.event_id:
        return line.event_id
    content = [plain_value(line.shared), plain_value(line.actions), *line.content, line.timestamp]
    text = canonical_json(content).encode("utf-8", "surrogatepass")
    return numbered_id(hashlib.sha256(text).hexdigest(), occurrences)


def milliseconds(path: Path, line: NDArray[np.int64], timestamps: list[str]) -> NDArray[np.int64]:
    """Return milliseconds since 1970 [n] of the timestamps of lines; raises DataError that names the line."""
    read = pd.to_datetime(pd.Series(timestamps), utc=True, format="ISO8601", errors="coerce")
    if read.isna().any():
        row = int(read.isna().to_numpy().argmax())
        raise DataError(f"{path}:{line[row]}: Timestamp {timestamps[row]!r}: expected such as 2026-01-05T12:00:00Z")
    return np.asarray(read.dt.as_unit("ms").to_numpy("datetime64[ms]").astype(np.int64))


def as_text(features: Any) -> str:
    """Return features as one text, the same for the same features in any order."""
    return json.dumps(features, sort_keys=True, separators=(",", ":"))


def _dropped_share(record: Mapping[str, Any]) -> float:
    share = record.get("pdrop", 0.0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise ValueError(f"pdrop is {share!r}; expected a probability below 1")
    return float(share)


def _actions(record: dict[str, Any], context: dict[str, Any]) -> dict[int, Any]:
    """Return the features of the actions by their number, from 1; None as features where the line has none."""
    multi, ranked = context.get("_multi"), record.get("a", record.get("_a"))
    if isinstance(multi, list):
        return dict(enumerate(multi, 1))
    if isinstance(ranked, list):
        return {number: None for number in ranked if is_integer(number)}
    return {}


def _shelf(actions: Mapping[int, Any]) -> list[int] | None:
    """Return the slot of each action of a line of slates; None for a line of CCB."""
    slots = [features.get(SLOT_ID) if isinstance(features, dict) else None for features in actions.values()]
    if all(slot is None for slot in slots):
        return None
    shelf = [slot for slot in slots if is_integer(slot) and slot >= 0]
    if len(shelf) < len(slots):
        wrong = next(slot for slot in slots if not is_integer(slot) or slot < 0)
        raise ValueError(f"{SLOT_ID} of an action is {wrong!r}; expected the number of its slot, from 0")
    return shelf
