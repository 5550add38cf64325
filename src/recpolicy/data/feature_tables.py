"""Convert tables of decisions to feature logs: CSV files as of the Open Bandit Dataset, own CSV, Parquet, JSON lines.

N rows, one decision each. Columns are named by their meaning (time, action, reward, propensity, user); all others are
features of the context, or those that the caller lists. The actions of a round are those of its own column `actions`
(a list of ids, or of objects with an id and features), else the whole catalog: the ids of a table of actions, whose
other columns are the features, or the ids that occur. Every fault is a DataError that names file and row.
"""

import io
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.hashes import mix, text_hashes
from recpolicy.core.memory import check_memory
from recpolicy.data.csv_reader import Source
from recpolicy.data.feature_columns import Columns, action_digests, as_column, canonical_texts, column_from_values
from recpolicy.data.feature_import import ImportedFeatureLog, check_import_options, in_order_of_time, numbered_id
from recpolicy.data.feature_log import (
    MAX_ACTIONS,
    FeatureLog,
    FeatureLogBuilder,
    check_action_id,
    check_identities,
)
from recpolicy.data.feature_log_files import column_from_arrow
from recpolicy.data.log_import import UNIT
from recpolicy.data.open_bandit import COLUMNS, csv_options, first_line, milliseconds, numbers
from recpolicy.data.read_options import plain_number

TABLE_COLUMNS: Mapping[str, str] = {
    "time": "time", "item": "action_id", "reward": "reward", "propensity": "propensity", "user": "user_id",
}  # fmt: skip
"""Names of the columns of an own table by their meaning; only the user may be missing."""
_OPTIONAL = ("user",)
_NAMELESS = "Unnamed: "
"""pandas calls nameless columns so; in the Open Bandit Dataset they number the lines."""
_EVENT_ID = "event_id"
_ROUNDING = 1e-6
_CELL_BYTES, _OFFER_BYTES = 120, 8
_PARQUET, _JSON_LINES = (".parquet", ".pq"), (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")


def read_feature_table(
    path: Path,
    scale: tuple[float, float] = UNIT,
    policy: str = "imported",
    *,
    columns: Mapping[str, str] | None = None,
    names: Mapping[str, str] = TABLE_COLUMNS,
    context: Sequence[str] | None = None,
    items: Path | None = None,
    actions: str | None = None,
    separator: str = ",",
    unit: str = "",
) -> ImportedFeatureLog:
    """Read a table of decisions with all features.

    Args:
        path: CSV file (.gz is uncompressed), Parquet file or JSON lines.
        scale: Lowest and highest reward of the file.
        policy: Name of the logging policy.
        columns: Names of columns by meaning, where they differ from `names`.
        names: Usual names of the columns: TABLE_COLUMNS, or COLUMNS of the Open Bandit Dataset.
        context: Columns that are features of the context; None takes all that have no other meaning.
        items: Table of the actions, with a column of ids of the same name; its other columns are features of actions.
        actions: Column with the actions of each round.
        separator: Separator of a CSV file.
        unit: user or round; by default round unless a column names the users.

    Raises:
        DataError: A file is wrong; names file and row.
        ConfigError: An option is wrong.
        MemoryLimitError: The rounds do not fit into memory.
    """
    check_import_options(scale, unit)
    if items is not None and actions is not None:
        raise ConfigError(
            "--items and --actions: give one; a column of actions has the features of each round's actions"
        )
    table = _Table(path, separator)
    meaning = table.meanings({**names, **(columns or {})}, tuple(columns or ()))
    used = {*meaning.values(), _EVENT_ID, *([actions] if actions else [])}
    others = [name for name in table.names if name not in used and not name.startswith(_NAMELESS)]
    chosen_context = others if context is None else table.check_names(context)
    check_memory(
        len(table) * (len(table.names) + 4) * _CELL_BYTES, f"{path}: {len(table):,} rows of {len(table.names)} columns",
        "import a shorter part of the file",
    )  # fmt: skip
    rounds = _rounds(table, meaning, chosen_context, scale, unit)
    event_id = table.event_ids()
    if actions is not None:
        log = _with_own_actions(table, actions, rounds, event_id, scale, policy)
    else:
        catalog = _catalog(table, items, meaning["item"], rounds["action"], separator)
        log = _with_catalog(table, catalog, rounds, event_id, scale, policy)
    lost = tuple(name for name in others if name not in chosen_context)
    return ImportedFeatureLog(in_order_of_time(log), lost)


def read_open_bandit_features(path: Path, scale: tuple[float, float] = UNIT, **options: Any) -> ImportedFeatureLog:
    """Read a file of the Open Bandit Dataset with its features; options as in `read_feature_table`."""
    return read_feature_table(path, scale, "open_bandit", names=COLUMNS, **options)


class _Table:
    """The columns of a file in memory: texts of a CSV file, features of other files."""

    def __init__(self, path: Path, separator: str):
        self.path, self.is_text = path, not path.name.endswith((*_PARQUET, *_JSON_LINES))
        self.line = np.empty(0, np.int64)
        """The line [N] of each row; for messages."""
        if self.is_text:
            self._columns = self._read_csv(separator)
        elif path.name.endswith(_JSON_LINES):
            self._columns = self._read_json_lines()
        else:
            self._columns = self._read_parquet()
        self.names = list(self._columns)
        if not len(self):
            raise DataError(f"{path}: no rounds")

    def __len__(self) -> int:
        return len(self.line)

    def _read_csv(self, separator: str) -> dict[str, NDArray[Any]]:
        options = {**csv_options(separator), "keep_default_na": False, "skip_blank_lines": False}
        try:
            frame = pd.read_csv(self.path, **options).fillna("")
        except FileNotFoundError:
            raise DataError(f"{self.path}: no such file; expected a table of decisions") from None
        except (pd.errors.EmptyDataError, pd.errors.ParserError, UnicodeDecodeError, OSError, EOFError) as error:
            raise DataError(f"{self.path}: not readable as CSV: {first_line(error)}") from None
        blank = (frame == "").all(axis=1).to_numpy(bool)
        self.line = np.arange(2, 2 + len(frame))[~blank]
        frame = frame[~blank]
        return {str(name): frame[name].to_numpy(object) for name in frame.columns}

    def _read_json_lines(self) -> dict[str, NDArray[Any]]:
        lines, records = [], []
        try:
            with Source(self.path).open() as raw, io.TextIOWrapper(raw, "utf-8-sig") as stream:
                for line, text in enumerate(stream, 1):
                    if text.strip():
                        record = json.loads(text)
                        if not isinstance(record, dict):
                            raise DataError(f"{self.path}:{line}: expected a JSON object")
                        lines.append(line)
                        records.append(record)
        except DataError:
            raise
        except UnicodeDecodeError as error:
            raise DataError(f"{self.path}: not UTF-8 text: {error}") from None
        except (ValueError, RecursionError) as error:
            raise DataError(f"{self.path}:{line}: not JSON: {error}") from None
        except (OSError, EOFError) as error:
            raise DataError(f"{self.path}: cannot be read: {error}") from None
        self.line = np.array(lines, np.int64)
        names = dict.fromkeys(name for record in records for name in record)
        return {name: _objects([record.get(name) for record in records]) for name in names}

    def _read_parquet(self) -> dict[str, NDArray[Any]]:
        try:
            table = pq.read_table(self.path).combine_chunks()
        except FileNotFoundError:
            raise DataError(f"{self.path}: no such file; expected a table of decisions") from None
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path}: not a readable Parquet file: {first_line(error)}") from None
        self.line = np.arange(1, 1 + table.num_rows)
        columns = {}
        for name, field in zip(table.schema.names, table.schema, strict=True):
            chunks = table.column(name).chunks
            array = chunks[0] if chunks else pa.array([], field.type)
            columns[name] = column_from_arrow(array, field, integers=pa.types.is_integer(field.type))
        return columns

    def refuse(self, wrong: NDArray[np.bool_], message: Any) -> None:
        """Raise DataError for the first wrong row."""
        if wrong.any():
            row = int(wrong.argmax())
            place = f":{self.line[row]}" if not self.path.name.endswith(_PARQUET) else f": row {self.line[row]}"
            raise DataError(f"{self.path}{place}: {message(row)}")

    def meanings(self, names: Mapping[str, str], given: Sequence[str]) -> dict[str, str]:
        """Return the names of the columns by meaning that the file has; raise DataError where one is missing."""
        lacking = [m for m, name in names.items() if name not in self.names and (m not in _OPTIONAL or m in given)]
        if lacking:
            hints = ", ".join(f"--{meaning} NAME" for meaning in lacking)
            raise DataError(
                f"{self.path}: no column {', '.join(names[meaning] for meaning in lacking)}; found"
                f" {', '.join(self.names)}; name it with {hints}"
            )
        return {meaning: name for meaning, name in names.items() if name in self.names}

    def check_names(self, names: Sequence[str]) -> list[str]:
        """Return the names of columns, each once; raise DataError for one that the file lacks."""
        for name in names:
            if name not in self.names:
                raise DataError(f"{self.path}: no column {name}; found {', '.join(self.names)}")
        return list(dict.fromkeys(names))

    def column(self, name: str) -> NDArray[Any]:
        """Return a column as read."""
        return self._columns[name]

    def feature(self, name: str) -> NDArray[Any]:
        """Return a column in the form of a feature; texts that are all numbers, or true and false, become such."""
        column = self._columns[name]
        try:
            return feature_from_texts(column) if self.is_text else as_column(column, name)
        except DataError as error:
            raise DataError(f"{self.path}: {error}") from None

    def numbers(self, name: str) -> NDArray[np.float64]:
        """Return a column of numbers [N], none missing; true and false are 1 and 0."""
        if self.is_text:
            return numbers(self.path, pd.Series(self._columns[name], name=name), self.line)
        values = pd.to_numeric(pd.Series(self._columns[name]), errors="coerce").to_numpy(np.float64)
        self.refuse(np.isnan(values), lambda row: f"{name} is {self._columns[name][row]!r}; expected a number")
        return np.asarray(values)

    def times(self, name: str) -> NDArray[np.int64]:
        """Return a column of times [N] in milliseconds since 1970."""
        texts = pd.Series([str(value) for value in self._columns[name].tolist()], name=name)
        return milliseconds(self.path, texts, self.line)

    def ids(self, name: str, *, missing: bool = False) -> NDArray[np.object_]:
        """Return a column of ids [N]: whole numbers if all of them are, else texts; None where they are missing."""
        raw = self._columns[name].tolist()
        texts = [None if value is None or value != value or value == "" else _id_text(value) for value in raw]
        absent = np.array([text is None for text in texts], bool)
        if not missing:
            self.refuse(absent, lambda _: f"{name} is missing")
        return ids_from_texts(texts)

    def event_ids(self) -> NDArray[np.object_]:
        """Return the column event_id as texts, or ids of the content of the rows."""
        if _EVENT_ID in self.names:
            texts = _objects([str(value) for value in self._columns[_EVENT_ID].tolist()])
            self.refuse(
                np.array([text in ("", "None", "nan") for text in texts], bool), lambda _: "event_id is missing"
            )
            self.refuse(pd.Series(texts).duplicated().to_numpy(), lambda row: f"event_id {texts[row]!r} occurs twice")
            return texts
        hashes = np.zeros(len(self), np.uint64)
        for name in sorted(name for name in self.names if not name.startswith(_NAMELESS)):
            column = self._columns[name]
            texts = column if self.is_text else _objects(list(canonical_texts(as_column(column, name))))
            hashes = mix(hashes, text_hashes(texts))
        occurrences = Counter[str]()
        return _objects([numbered_id(f"{value:016x}", occurrences) for value in hashes.tolist()])


def feature_from_texts(texts: NDArray[np.object_]) -> NDArray[Any]:
    """Return texts [n] of a CSV file as a feature: numbers or truth values if all are such, else texts.

    An empty text is a missing value.
    """
    stripped = pd.Series(texts, dtype=object).str.strip()
    empty = (stripped == "").to_numpy(bool)
    if not empty.all():
        values = np.asarray(pd.to_numeric(stripped.mask(empty), errors="coerce"), np.float64)
        if (np.isfinite(values) | empty).all():
            return values
        lower = stripped.str.lower()
        if (lower.isin(["true", "false"]).to_numpy(bool) | empty).all():
            return column_from_values(
                [None if absent else text == "true" for text, absent in zip(lower, empty, strict=True)]
            )
    return _objects([None if absent else text for text, absent in zip(stripped, empty, strict=True)])


def ids_from_texts(texts: Sequence[str | None]) -> NDArray[np.object_]:
    """Return ids: whole numbers where all texts are such, written as Python writes them."""
    distinct = {text for text in texts if text is not None}
    whole = all(
        text.isascii() and text.removeprefix("-").isdecimal() and len(text) < 19 and str(int(text)) == text
        for text in distinct
    )  # fmt: skip
    known: dict[str | None, Any] = {text: int(text) if whole else text for text in distinct}
    return _objects([known.get(text) for text in texts])


def _id_text(value: Any) -> str:
    """Return an id as text; 12.0, as pandas writes ids of a column with gaps, is 12."""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    text = str(value).strip()
    return text.removesuffix(".0") if text.removesuffix(".0").isdecimal() else text


def _rounds(
    table: _Table, meaning: Mapping[str, str], context: Sequence[str], scale: tuple[float, float], unit: str
) -> dict[str, Any]:
    """Return the columns of the rounds, checked."""
    propensity, reward = table.numbers(meaning["propensity"]), table.numbers(meaning["reward"])
    table.refuse(~((propensity > 0) & (propensity <= 1 + _ROUNDING)), lambda row: (
        f"propensity {plain_number(float(propensity[row]))}: expected a probability in (0, 1]"
    ))  # fmt: skip
    low, high = scale
    table.refuse(~((reward >= low) & (reward <= high)), lambda row: (
        f"reward {plain_number(float(reward[row]))} is not in {low:g}..{high:g}; give --scale with the lowest and"
        " highest reward of the log"
    ))  # fmt: skip
    if unit == "user" and "user" not in meaning:
        raise ConfigError("--unit user: the file has no column of users; name it with --user NAME")
    named = "user" in meaning and unit != "round"
    return {
        "time": table.times(meaning["time"]), "action": table.ids(meaning["item"]), "reward": reward,
        "log_propensity": np.log(np.minimum(propensity, 1.0)),
        "user": table.ids(meaning["user"], missing=True) if named else None,
        "context": {name: table.feature(name) for name in context},
    }  # fmt: skip


def _catalog(
    table: _Table, items: Path | None, column: str, action: NDArray[np.object_], separator: str
) -> tuple[NDArray[np.object_], Columns]:
    """Return ids [M] and features of the catalog."""
    if items is None:
        try:
            ids = sorted(set(action))
        except TypeError:
            ids = sorted(set(action), key=str)
        return _objects(ids), {}
    own = _Table(items, separator)
    (name,) = own.check_names([column])
    ids_of_items = own.ids(name)
    own.refuse(
        pd.Series(ids_of_items).duplicated().to_numpy(), lambda row: f"{name} {ids_of_items[row]!r} occurs twice"
    )
    known = set(ids_of_items.tolist())
    table.refuse(
        np.array([identifier not in known for identifier in action], bool),
        lambda row: f"{name} {action[row]!r} is not in the table of actions {items}",
    )
    features = {other: own.feature(other) for other in own.names if other != name and not other.startswith(_NAMELESS)}
    return ids_of_items, features


def _with_catalog(
    table: _Table, catalog: tuple[NDArray[np.object_], Columns], rounds: dict[str, Any], event_id: NDArray[np.object_],
    scale: tuple[float, float], policy: str,
) -> FeatureLog:  # fmt: skip
    """Return the log in which every round offers the whole catalog."""
    ids, features = catalog
    rows, offers = len(table), len(ids)
    if offers > MAX_ACTIONS:
        raise DataError(f"{table.path}: {offers:,} different actions; expected at most {MAX_ACTIONS:,}")
    check_memory(
        rows * offers * _OFFER_BYTES, f"{table.path}: {rows:,} rounds of {offers:,} actions",
        "import a shorter part of the file",
    )  # fmt: skip
    for identifier in ids:
        check_action_id(identifier)
    position = {identifier: place for place, identifier in enumerate(ids.tolist())}
    log = FeatureLog(
        event_id=event_id, time=rounds["time"], context=rounds["context"], action_id=ids, actions=features,
        action_digest=action_digests(ids, {name: as_column(column) for name, column in features.items()}),
        start=np.arange(rows + 1, dtype=np.int64) * offers, offered=np.tile(np.arange(offers, dtype=np.int32), rows),
        chosen=np.array([position[identifier] for identifier in rounds["action"]], np.int32),
        log_propensity=rounds["log_propensity"], reward=rounds["reward"], policy=np.full(rows, policy, object),
        version=np.full(rows, "imported", object), name=str(table.path), reward_range=scale, user=rounds["user"],
    )  # fmt: skip
    check_identities(log)
    return log


def _with_own_actions(
    table: _Table, column: str, rounds: dict[str, Any], event_id: NDArray[np.object_], scale: tuple[float, float],
    policy: str,
) -> FeatureLog:  # fmt: skip
    """Return the log in which every round offers the actions of its column."""
    table.check_names([column])
    builder = FeatureLogBuilder(str(table.path), scale)
    cells = table.column(column).tolist()
    for row in range(len(table)):
        try:
            actions = _actions(cells[row], column)
            ids = [identifier for identifier, _ in actions]
            shown = rounds["action"][row]
            if shown not in ids:
                raise DataError(f"the action {shown!r} is none of its {len(ids)} actions")
            builder.add(
                event_id=event_id[row], time=int(rounds["time"][row]), context={}, actions=actions,
                chosen=ids.index(shown), log_propensity=float(rounds["log_propensity"][row]),
                reward=float(rounds["reward"][row]), policy=policy, version="imported",
                user=None if rounds["user"] is None else rounds["user"][row],
            )  # fmt: skip
        except (ValueError, RecursionError) as error:
            table.refuse(np.arange(len(table)) == row, lambda _, error=error: str(error))
    return replace(builder.build(), context=rounds["context"])


def _actions(cell: Any, column: str) -> list[tuple[int | str, Mapping[str, Any]]]:
    """Return ids and features of the actions in a cell; raises DataError that says what is wrong with it."""
    if isinstance(cell, str):
        try:
            cell = json.loads(cell)
        except ValueError as error:
            raise DataError(f"{column} is not JSON: {error}") from None
    if not isinstance(cell, list) or not cell:
        raise DataError(f"{column} is {str(cell)[:80]}; expected a list of actions")
    actions: list[tuple[int | str, Mapping[str, Any]]] = []
    for action in cell:
        features: Mapping[str, Any] = {}
        if isinstance(action, Mapping):
            features = {name: value for name, value in action.items() if name != "id"}
            action = action.get("id")
        if isinstance(action, float) and action.is_integer():
            action = int(action)
        actions.append((check_action_id(action), features))
    return actions


def _objects(values: Sequence[Any]) -> NDArray[np.object_]:
    column = np.empty(len(values), object)
    for row, value in enumerate(values):
        column[row] = value
    return column
