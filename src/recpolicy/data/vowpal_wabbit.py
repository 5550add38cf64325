"""Read logs in Vowpal Wabbit's JSON for contextual bandits (cb json, dsjson): one choice a line.

    {"_label_cost": -1, "_label_probability": 0.8, "_label_Action": 2, "Timestamp": "...", "EventId": "...",
     "a": [2, 1], "p": [0.8, 0.2], "c": {"User": {"id": "u7"}, "_multi": [{"_tag": "m11"}, {"_tag": "m12"}]}}

The reward is -cost. Actions are counted from 1; `a` has their numbers in order, `p` their probabilities; vw_records.py
reads other forms of the label. Without `_multi`, actions are the numbers in `a`. An action that is offered several
times is one item with the sum of its probabilities. `user` and `item` are dotted names of the ids within the shared
features and within an action ("User.id"). By default, an item is its `_tag` or else all its features. Without `user`
the log names nobody: rounds with the same shared features have one user, and the round is the unit of intervals.

Blank lines are read over. Lines without label and actions (rewards that came without their event) are left out and
counted, and so are lines with a true `_skipLearn`. Lost: all other features, and the probabilities of actions that were
not shown.
"""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.csv_reader import Source
from recpolicy.data.log_import import UNIT, Batch, Imported, LeftOut, assemble
from recpolicy.data.vw_records import (
    action_features,
    has_label,
    is_integer,
    probability_of_places,
    read_label,
    shared_features,
    value_at,
)

_LINES = 1 << 14
_LOST = ("features of users and actions beyond their ids", "probabilities of actions not shown")
_OTHER_LOGS = {
    "_outcomes": "a log of slots (CCB or slates): each line holds several choices; expected one choice a line",
    "_label_ca": "a log of continuous actions; expected one of several actions a line",
}
"""Keys of lines of other kinds of logs."""


def read_vowpal_wabbit(
    path: Path,
    tables: IdVocabulary | None = None,
    scale: tuple[float, float] = UNIT,
    policy: str = "vowpal_wabbit",
    *,
    user: str = "",
    item: str = "",
    unit: str = "",
    skip_damaged: bool = False,
) -> Imported:
    """Read the log.

    Args:
        path: The file; one that ends in .gz is uncompressed.
        tables: See `assemble`, also for `scale` and errors.
        scale: Lowest and highest reward of the file.
        policy: Name of the logging policy.
        user: Dotted name of the user's id among the shared features.
        item: Dotted name of the item's id within an action.
        unit: user or round; by default round unless `user` names the users.
        skip_damaged: Leave out and count lines that are no JSON, instead of raising an error.

    Raises:
        DataError: A line is wrong; names file and line.
    """
    reader = DecisionReader(path, user, item, skip_damaged)
    dropped = _DroppedShare()
    batches = _batches(reader, dropped)
    rounds, ids = assemble(path, policy, batches, scale, tables, unit or ("user" if user else "round"))
    lost = (*_LOST, f"pdrop {dropped.share:g}: the log is a sample of its events") if dropped.share else _LOST
    return Imported(rounds, ids, lost, reader.left_out)


@dataclass(frozen=True)
class Decision:
    """One line: a choice among actions."""

    line: int
    """Its number, from 1."""
    shared: Mapping[str, Any]
    """Features of the context."""
    actions: Mapping[str, Mapping[str, Any]]
    """Features of the actions by their name, in the order of the line; none where the line only numbers them."""
    shown: str
    """Name of the shown action."""
    probability: float
    cost: float
    user: str
    """Id of the user, or all shared features as one text."""
    event_id: str | None
    timestamp: str | None
    dropped_share: float
    """Share of the events like this one that the system dropped before logging."""


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

    def decisions(self) -> Iterator[Decision]:
        """Yield the decisions of the file; raises DataError that names the line."""
        try:
            with Source(self.path).open() as raw, io.TextIOWrapper(raw, "utf-8-sig") as stream:
                for line, text in enumerate(stream, 1):
                    if text.strip():
                        try:
                            decision = self._decision(line, text)
                        except (ValueError, RecursionError) as error:
                            raise DataError(f"{self.path}:{line}: {error}") from None
                        if decision is not None:
                            yield decision
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: not UTF-8 text: {error}") from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error}") from None

    def _decision(self, line: int, text: str) -> Decision | None:
        """Return the content of a line, None for one to leave out; raises ValueError that says what is wrong."""
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            if not self.skip_damaged:
                raise ValueError(f"not JSON: {error}") from None
            self.left_out.damaged += 1
            return None
        if not isinstance(record, dict):
            raise ValueError("not a JSON object")
        for key, meaning in _OTHER_LOGS.items():
            if key in record:
                raise ValueError(meaning)
        if record.get("_skipLearn") is True:
            self.left_out.skipped += 1
            return None
        context = record.get("c", record)
        if not isinstance(context, dict):
            raise ValueError(f"c is {context!r}; expected an object")
        actions = _actions(record, context)
        if not actions:
            if has_label(record):
                raise ValueError("neither c._multi nor a lists the actions")
            self.left_out.dangling += 1
            return None
        share = _dropped_share(record)
        label = read_label(record, actions)
        names = {number: self._name(number, features) for number, features in actions.items()}
        shown = names[label.action]
        places = [number for number, name in names.items() if name == shown]
        probability = probability_of_places(record, label, places)
        if self.timed is not None and self.timed != ("Timestamp" in record):
            raise ValueError("some lines have a Timestamp, and some have none")
        self.timed = "Timestamp" in record
        shared = shared_features(record, context)
        features = {names[number]: action_features(features or {}) for number, features in reversed(actions.items())}
        return Decision(
            line=line, shared=shared, actions={name: features[name] for name in dict.fromkeys(names.values())},
            shown=shown, probability=probability, cost=label.cost,
            user=value_at(shared, self.user) if self.user else _text(shared),
            event_id=None if record.get("EventId") is None else str(record["EventId"]),
            timestamp=str(record.get("Timestamp")) if self.timed else None, dropped_share=share,
        )  # fmt: skip

    def _name(self, number: int, action: Any) -> str:
        if action is None:
            return str(number)
        if not isinstance(action, dict):
            raise ValueError(f"an action is {action!r}; expected an object of features")
        features = action_features(action)
        if self.item:
            return value_at(features, self.item)
        return value_at(features, "_tag") if "_tag" in features else _text(features)


def _dropped_share(record: Mapping[str, Any]) -> float:
    share = record.get("pdrop", 0.0)
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
        raise ValueError(f"pdrop is {share!r}; expected a probability below 1")
    return float(share)


@dataclass
class _DroppedShare:
    """The `pdrop` of the lines; all must have the same, since rounds of a BanditLog have no weights."""

    share: float | None = None

    def check(self, path: Path, decision: Decision) -> None:
        """Raise DataError for a line with another share than the lines before it."""
        if self.share is not None and decision.dropped_share != self.share:
            raise DataError(
                f"{path}:{decision.line}: pdrop is {decision.dropped_share:g}, but {self.share:g} in earlier lines:"
                " they stand for different numbers of events, and these rounds have no weights; import the lines of"
                " each pdrop as a log, or give --keep-features, which keeps weights"
            )
        self.share = decision.dropped_share


def _batches(reader: DecisionReader, dropped: _DroppedShare) -> Iterator[Batch]:
    """Yield the rounds, some thousands at a time."""
    rows = _Rows()
    for decision in reader.decisions():
        dropped.check(reader.path, decision)
        rows.line.append(decision.line)
        rows.reward.append(-decision.cost)
        rows.propensity.append(decision.probability)
        rows.user.append(decision.user)
        rows.item.append(decision.shown)
        rows.count.append(len(decision.actions))
        rows.candidate.extend(decision.actions)
        rows.event_id.append(decision.event_id)
        rows.time.append(str(decision.timestamp))
        if len(rows.line) == _LINES:
            yield rows.batch(reader.timed, reader.path)
            rows = _Rows()
    if rows.line:
        yield rows.batch(reader.timed, reader.path)


def _actions(record: dict[str, Any], context: dict[str, Any]) -> dict[int, Any]:
    """Return the features of the actions by their number, from 1; None as features where the line has none."""
    multi, ranked = context.get("_multi"), record.get("a", record.get("_a"))
    if isinstance(multi, list):
        return dict(enumerate(multi, 1))
    if isinstance(ranked, list):
        return {number: None for number in ranked if is_integer(number)}
    return {}


@dataclass
class _Rows:
    """Columns that grow line by line."""

    line: list[int] = field(default_factory=list)
    reward: list[float] = field(default_factory=list)
    propensity: list[float] = field(default_factory=list)
    user: list[str] = field(default_factory=list)
    item: list[str] = field(default_factory=list)
    count: list[int] = field(default_factory=list)
    candidate: list[str] = field(default_factory=list)
    event_id: list[str | None] = field(default_factory=list)
    time: list[str] = field(default_factory=list)

    def batch(self, timed: bool | None, path: Path) -> Batch:
        """Return the columns as arrays; lines without a time are a second apart from 1970 on."""
        line = np.array(self.line)
        time = 1000 * line
        if timed:
            time = milliseconds(path, line, self.time)
        return Batch(
            line, time, np.array(self.user, object), np.array(self.item, object), np.array(self.propensity),
            np.array(self.reward), np.array(self.event_id, object), np.array(self.count),
            np.array(self.candidate, object), bool(timed),
        )  # fmt: skip


def milliseconds(path: Path, line: NDArray[np.int64], timestamps: list[str]) -> NDArray[np.int64]:
    """Return milliseconds since 1970 [n] of the timestamps of lines; raises DataError that names the line."""
    read = pd.to_datetime(pd.Series(timestamps), utc=True, format="ISO8601", errors="coerce")
    if read.isna().any():
        row = int(read.isna().to_numpy().argmax())
        raise DataError(f"{path}:{line[row]}: Timestamp {timestamps[row]!r}: expected such as 2026-01-05T12:00:00Z")
    return np.asarray(read.dt.as_unit("ms").to_numpy("datetime64[ms]").astype(np.int64))


def _text(features: Any) -> str:
    return json.dumps(features, sort_keys=True, separators=(",", ":"))
