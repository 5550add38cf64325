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
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

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
    reader = _Reader(path, user, item, skip_damaged)
    rounds, ids = assemble(path, policy, reader.batches(), scale, tables, unit or ("user" if user else "round"))
    dropped = reader.dropped_share
    lost = (*_LOST, f"pdrop {dropped:g}: the log is a sample of its events") if dropped else _LOST
    return Imported(rounds, ids, lost, reader.left_out)


@dataclass
class _Reader:
    """A reader that counts the lines that it leaves out."""

    path: Path
    user: str
    item: str
    skip_damaged: bool
    left_out: LeftOut = field(default_factory=LeftOut)
    timed: bool | None = None
    """True if lines have a time; all or none must."""
    dropped_share: float | None = None
    """`pdrop` of the lines; all must have the same."""

    def batches(self) -> Iterator[Batch]:
        """Yield the rounds, some thousands at a time."""
        rows = _Rows()
        try:
            with Source(self.path).open() as raw, io.TextIOWrapper(raw, "utf-8-sig") as stream:
                for line, text in enumerate(stream, 1):
                    if text.strip():
                        try:
                            self._take(line, text, rows)
                        except ValueError as error:
                            raise DataError(f"{self.path}:{line}: {error}") from None
                    if len(rows.line) == _LINES:
                        yield rows.batch(self.timed, self.path)
                        rows = _Rows()
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: not UTF-8 text: {error}") from None
        except OSError as error:
            raise DataError(f"{self.path}: cannot be read: {error}") from None
        if rows.line:
            yield rows.batch(self.timed, self.path)

    def _take(self, line: int, text: str, rows: "_Rows") -> None:
        """Append the content of a line; raises ValueError that says what is wrong with it."""
        try:
            record = json.loads(text)
        except json.JSONDecodeError as error:
            if not self.skip_damaged:
                raise ValueError(f"not JSON: {error}") from None
            self.left_out.damaged += 1
            return
        if not isinstance(record, dict):
            raise ValueError("not a JSON object")
        for key, meaning in _OTHER_LOGS.items():
            if key in record:
                raise ValueError(meaning)
        if record.get("_skipLearn") is True:
            self.left_out.skipped += 1
            return
        context = record.get("c", record)
        if not isinstance(context, dict):
            raise ValueError(f"c is {context!r}; expected an object")
        actions = _actions(record, context)
        if not actions:
            if has_label(record):
                raise ValueError("neither c._multi nor a lists the actions")
            self.left_out.dangling += 1
            return
        self._check_dropped(record.get("pdrop", 0.0))
        label = read_label(record, actions)
        names = {number: self._name(number, features) for number, features in actions.items()}
        shown = names[label.action]
        places = [number for number, name in names.items() if name == shown]
        rows.line.append(line)
        rows.reward.append(-label.cost)
        rows.propensity.append(probability_of_places(record, label, places))
        rows.user.append(self._user(record, context))
        rows.item.append(shown)
        candidates = list(dict.fromkeys(names.values()))
        rows.count.append(len(candidates))
        rows.candidate.extend(candidates)
        rows.event_id.append(None if record.get("EventId") is None else str(record["EventId"]))
        if self.timed is not None and self.timed != ("Timestamp" in record):
            raise ValueError("some lines have a Timestamp, and some have none")
        self.timed = "Timestamp" in record
        rows.time.append(str(record.get("Timestamp")))

    def _check_dropped(self, share: Any) -> None:
        """Check the share of events that were dropped before logging; recpolicy has no weights of rounds."""
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share < 1:
            raise ValueError(f"pdrop is {share!r}; expected a probability below 1")
        if self.dropped_share is not None and share != self.dropped_share:
            raise ValueError(
                f"pdrop is {share:g}, but {self.dropped_share:g} in earlier lines: they stand for different numbers of"
                " events, and rounds have no weights; import the lines of each pdrop as a log"
            )
        self.dropped_share = float(share)

    def _name(self, number: int, action: Any) -> str:
        if action is None:
            return str(number)
        if not isinstance(action, dict):
            raise ValueError(f"an action is {action!r}; expected an object of features")
        features = action_features(action)
        if self.item:
            return value_at(features, self.item)
        return value_at(features, "_tag") if "_tag" in features else _text(features)

    def _user(self, record: dict[str, Any], context: dict[str, Any]) -> str:
        shared = shared_features(record, context)
        return value_at(shared, self.user) if self.user else _text(shared)


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
            read = pd.to_datetime(pd.Series(self.time), utc=True, format="ISO8601", errors="coerce")
            if read.isna().any():
                row = int(read.isna().to_numpy().argmax())
                raise DataError(
                    f"{path}:{line[row]}: Timestamp {self.time[row]!r}: expected such as 2026-01-05T12:00:00Z"
                )
            time = read.dt.as_unit("ms").to_numpy("datetime64[ms]").astype(np.int64)
        return Batch(
            line, time, np.array(self.user, object), np.array(self.item, object), np.array(self.propensity),
            np.array(self.reward), np.array(self.event_id, object), np.array(self.count),
            np.array(self.candidate, object), bool(timed),
        )  # fmt: skip


def _text(features: Any) -> str:
    return json.dumps(features, sort_keys=True, separators=(",", ":"))
