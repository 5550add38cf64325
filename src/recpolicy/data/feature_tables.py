"""Convert tables of decisions to feature logs: CSV files as of the Open Bandit Dataset, own CSV, Parquet, JSON lines.

N rows, one decision each. Columns are named by their meaning (time, action, reward, propensity, user); all others are
features of the context, or those that the caller lists. The actions of a round are those of its own column `actions`
(a list of ids, or of objects with an id and features), else the whole catalog: the ids of a table of actions, whose
other columns are the features, or the ids that occur. Every fault is a DataError that names file and row.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.memory import check_memory
from recpolicy.data.decision_table import EVENT_ID, NAMELESS, DecisionTable
from recpolicy.data.feature_columns import (
    Columns,
    action_digests,
    as_column,
    check_action_id,
    object_array,
)
from recpolicy.data.feature_import import ImportedFeatureLog, check_import_options, in_order_of_time
from recpolicy.data.feature_log import MAX_ACTIONS, FeatureLog, check_identities
from recpolicy.data.feature_log_builder import FeatureLogBuilder
from recpolicy.data.log_import import UNIT
from recpolicy.data.open_bandit import COLUMNS
from recpolicy.data.read_options import plain_number

TABLE_COLUMNS: Mapping[str, str] = {
    "time": "time", "item": "action_id", "reward": "reward", "propensity": "propensity", "user": "user_id",
}  # fmt: skip
"""Names of the columns of an own table by their meaning; only the user may be missing."""
_ROUNDING = 1e-6
_CELL_BYTES, _OFFER_BYTES = 120, 8


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
    table = DecisionTable(path, separator)
    meaning = table.meanings({**names, **(columns or {})}, tuple(columns or ()))
    used = {*meaning.values(), EVENT_ID, *([actions] if actions else [])}
    others = [name for name in table.names if name not in used and not name.startswith(NAMELESS)]
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


def _rounds(
    table: DecisionTable, meaning: Mapping[str, str], context: Sequence[str], scale: tuple[float, float], unit: str
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
    table: DecisionTable, items: Path | None, column: str, action: NDArray[np.object_], separator: str
) -> tuple[NDArray[np.object_], Columns]:
    """Return ids [M] and features of the catalog."""
    if items is None:
        try:
            ids = sorted(set(action))
        except TypeError:
            ids = sorted(set(action), key=str)
        return object_array(ids), {}
    own = DecisionTable(items, separator)
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
    features = {other: own.feature(other) for other in own.names if other != name and not other.startswith(NAMELESS)}
    return ids_of_items, features


def _with_catalog(
    table: DecisionTable, catalog: tuple[NDArray[np.object_], Columns], rounds: dict[str, Any],
    event_id: NDArray[np.object_], scale: tuple[float, float], policy: str,
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
    table: DecisionTable, column: str, rounds: dict[str, Any], event_id: NDArray[np.object_],
    scale: tuple[float, float], policy: str,
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
