"""Read logs in Vowpal Wabbit's JSON for contextual bandits (cb json, dsjson): one choice a line.

    {"_label_cost": -1, "_label_probability": 0.8, "_label_Action": 2, "Timestamp": "...", "EventId": "...",
     "a": [2, 1], "p": [0.8, 0.2], "c": {"User": {"id": "u7"}, "_multi": [{"_tag": "m11"}, {"_tag": "m12"}]}}

The reward is -cost. Actions are counted from 1. `_label_Action` is the position of the shown action in `_multi`, `a`
has the positions of all actions in order, and `p` their probabilities. Without `_multi`, actions are the numbers in
`a`. `user` and `item` are dotted names of the ids within the shared features and within an action ("User.id"). By
default, an action is its `_tag` or else all its features, and a user all the shared features. Lost: all other features,
and the probabilities of actions that were not shown.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recpolicy.core.errors import DataError
from recpolicy.data.bandit_log_files import IdVocabulary
from recpolicy.data.log_import import UNIT, Batch, Imported, assemble

_LINES = 1 << 14
_TOLERANCE = 1e-4
"""Between `p` and `_label_probability`, one of which may have been printed as a float32."""
_LOST = ("features of users and actions beyond their ids", "probabilities of actions not shown")


def read_vowpal_wabbit(
    path: Path,
    tables: IdVocabulary | None = None,
    scale: tuple[float, float] = UNIT,
    policy: str = "vowpal_wabbit",
    *,
    user: str = "",
    item: str = "",
) -> Imported:
    """Read the log; see `assemble` for scale, tables and errors; `user` and `item` as above.

    Lines with a true `_skipLearn` are left out. Raises DataError that names file and line.
    """
    reader = _Reader(path, user, item)
    rounds, ids = assemble(path, policy, reader.batches(), scale, tables)
    return Imported(rounds, ids, _LOST, reader.skipped)


@dataclass
class _Reader:
    """A reader that counts skipped lines."""

    path: Path
    user: str
    item: str
    skipped: int = 0
    timed: bool | None = None
    """True if lines have a time; all or none must."""

    def batches(self) -> Iterator[Batch]:
        """Yield the rounds, some thousands at a time."""
        rows = _Rows()
        try:
            with self.path.open(encoding="utf-8") as stream:
                for line, text in enumerate(stream, 1):
                    self._take(line, text, rows)
                    if len(rows.line) == _LINES:
                        yield rows.batch(self.timed, self.path)
                        rows = _Rows()
        except FileNotFoundError:
            raise DataError(f"{self.path}: no such file; expected lines of JSON") from None
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: not UTF-8 text: {error}") from None
        if rows.line:
            yield rows.batch(self.timed, self.path)

    def _take(self, line: int, text: str, rows: "_Rows") -> None:
        """Append the content of a line."""
        try:
            record = json.loads(text)
        except ValueError as error:
            raise self._wrong(line, f"not JSON: {error}") from None
        if not isinstance(record, dict):
            raise self._wrong(line, "not a JSON object")
        if record.get("_skipLearn") is True:
            self.skipped += 1
            return
        context = record.get("c", record)
        if not isinstance(context, dict):
            raise self._wrong(line, f"c is {context!r}; expected an object")
        cost, probability = (self._number(line, record, name) for name in ("_label_cost", "_label_probability"))
        names, action = self._actions(line, record, context)
        self._check_ranking(line, record, action, probability)
        rows.line.append(line)
        rows.reward.append(-cost)
        rows.propensity.append(probability)
        rows.user.append(self._user(line, context))
        rows.item.append(names[action])
        rows.count.append(len(names))
        rows.candidate.extend(names.values())
        rows.event_id.append(None if record.get("EventId") is None else str(record["EventId"]))
        if self.timed is not None and self.timed != ("Timestamp" in record):
            raise self._wrong(line, "some lines have a Timestamp, and some have none")
        self.timed = "Timestamp" in record
        rows.time.append(str(record.get("Timestamp")))

    def _number(self, line: int, record: dict[str, Any], name: str) -> float:
        value = record.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self._wrong(line, f"{name} is {value!r}; expected a number")
        return float(value)

    def _actions(self, line: int, record: dict[str, Any], context: dict[str, Any]) -> tuple[dict[int, str], int]:
        """Return names of the actions by their number, and the number of the one that was taken."""
        multi, ranked, action = context.get("_multi"), record.get("a"), record.get("_label_Action")
        if isinstance(multi, list):
            names = {number: self._name(line, features) for number, features in enumerate(multi, 1)}
        elif isinstance(ranked, list):
            names = {number: str(number) for number in ranked if isinstance(number, int)}
        else:
            raise self._wrong(line, "neither c._multi nor a lists the actions")
        if isinstance(action, bool) or not isinstance(action, int) or action not in names:
            raise self._wrong(line, f"_label_Action is {action!r}; expected one of the {len(names)} actions, from 1")
        if len(set(names.values())) < len(names):
            raise self._wrong(line, "two actions have the same id; `item` must name the feature that holds the id")
        return names, action

    def _check_ranking(self, line: int, record: dict[str, Any], action: int, probability: float) -> None:
        """Check that `a` and `p`, if present, agree with the label."""
        ranked, chances = record.get("a"), record.get("p")
        if ranked is None or chances is None:
            return
        if not isinstance(ranked, list) or not isinstance(chances, list) or len(ranked) != len(chances):
            raise self._wrong(line, "a and p are not lists of one length")
        if action not in ranked:
            raise self._wrong(line, f"_label_Action {action} is not in a")
        said = chances[ranked.index(action)]
        if not isinstance(said, int | float) or abs(said - probability) > _TOLERANCE:
            raise self._wrong(line, f"p gives action {action} {said!r}, but _label_probability is {probability:g}")

    def _name(self, line: int, action: Any) -> str:
        if not isinstance(action, dict):
            raise self._wrong(line, f"an action is {action!r}; expected an object of features")
        if self.item:
            return self._at(line, action, self.item)
        return str(action["_tag"]) if "_tag" in action else _text(action)

    def _user(self, line: int, context: dict[str, Any]) -> str:
        shared = {
            key: value for key, value in context.items() if not key.startswith("_") and key not in ("a", "p")
        }  # without `c`, labels stand among the features
        return self._at(line, shared, self.user) if self.user else _text(shared)

    def _at(self, line: int, features: dict[str, Any], name: str) -> str:
        """Return the value at a dotted name."""
        nested: Any = features
        for key in name.split("."):
            nested = nested.get(key) if isinstance(nested, dict) else None
        if nested is None or isinstance(nested, dict | list):
            raise self._wrong(line, f"no {name} among the features {', '.join(features) or '(none)'}")
        return str(nested)

    def _wrong(self, line: int, what: str) -> DataError:
        return DataError(f"{self.path}:{line}: {what}")


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
