"""Read a table of rounds with features, to propose a schema: a Parquet file, or a file of JSON lines.

A row is a round: its context, the action that it showed, its reward. Nested columns `context` and `action` hold the
features of both; otherwise columns whose names begin with `action.` or `action_` describe the action, and all others
the context. `action` or `action_id` is the id of the action. A log of the package is such a table, too.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.errors import DataError
from recpolicy.core.types import Array
from recpolicy.data.feature_columns import Columns, columns_from_records
from recpolicy.data.feature_log_files import is_feature_log, read_training_log
from recpolicy.data.feature_log_json import JSON_LINES
from recpolicy.data.features.columns import as_numbers
from recpolicy.data.features.infer import Dropped, infer_schema
from recpolicy.data.features.schema import ACTION_ID, FeatureSchema

_OF_THE_LOG = (
    "event_id", "time", "user_id", "propensity", "log_propensity", "probability", "policy", "version", "policy_version",
    "chosen", "offered", "weight",
)  # fmt: skip
"""Columns that say how a round was logged; the importers read them as such, so they are no features."""
_PREFIXES = ("action.", "action_")


@dataclass(frozen=True)
class RoundsTable:
    """N rounds with features."""

    context: Columns  # columns [N]
    action: Columns  # columns [M] of actions
    action_id: NDArray[Any] | None  # [M]
    chosen_action: NDArray[np.integer[Any]]  # [N], the row of the action that each round showed
    reward: Array | None  # [N]
    set_aside: Sequence[Dropped] = ()

    def __len__(self) -> int:
        return len(self.chosen_action)

    def infer(self) -> tuple[FeatureSchema, list[Dropped]]:
        """Return a proposed schema, and the columns that it leaves out."""
        schema, dropped = infer_schema(
            self.context, self.action, action_id=self.action_id, reward=self.reward, chosen_action=self.chosen_action
        )
        return schema, [*self.set_aside, *dropped]


def read_rounds_table(path: Path, reward: str = "reward") -> RoundsTable:
    """Read rounds with features.

    Args:
        path: A Parquet file, a file of JSON lines, a feature log, or the folder of `log ingest`, whose training part
            is read.
        reward: Name of the column with the reward; it is no feature.

    Raises:
        DataError: There is no such file, or it is no table.
    """
    if is_feature_log(path):
        log = read_training_log(path)
        return RoundsTable(log.context, log.actions, log.action_id, log.chosen_action, log.reward)
    records = _read_records(path)
    if not records:
        raise DataError(f"{path}: no rounds")
    set_aside = [
        Dropped("context", name, "it says how the round was logged") for name in _OF_THE_LOG if name in records[0]
    ]
    return _split(records, reward, set_aside)


def _split(records: list[dict[str, Any]], reward: str, set_aside: Sequence[Dropped]) -> RoundsTable:
    """Return the parts of the rows of a table."""
    names = dict.fromkeys(name for record in records for name in record)
    for name in (reward, *_OF_THE_LOG):
        names.pop(name, None)
    nested = {part for part in ("context", "action") if any(isinstance(r.get(part), Mapping) for r in records)}
    contexts: list[dict[str, Any]] = []
    actions: list[dict[str, Any]] = []
    for record in records:
        context: dict[str, Any] = {}
        action: dict[str, Any] = {}
        for name in names:
            value = record.get(name)
            prefix = next((start for start in _PREFIXES if name.startswith(start)), None)
            if name in nested:
                (context if name == "context" else action).update(value or {})
            elif name == "action":
                action[ACTION_ID] = value
            elif prefix:
                action[name.removeprefix(prefix)] = value
            else:
                context[name] = value
        contexts.append(context)
        actions.append(action)
    found = columns_from_records([{"reward": record.get(reward)} for record in records])
    rewards = as_numbers(found["reward"], f"column {reward!r}") if any(reward in record for record in records) else None
    columns = dict(columns_from_records(actions))
    action_id = columns.pop(ACTION_ID, None)
    return RoundsTable(
        columns_from_records(contexts), columns, action_id, np.arange(len(records)), rewards, tuple(set_aside)
    )


def _read_records(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a file as records."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; expected a Parquet file, a file of JSON lines, or a feature log")
    if path.name.endswith(JSON_LINES):
        return _read_json_lines(path)
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows: list[dict[str, Any]] = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError):
        lines = ", ".join(JSON_LINES)
        raise DataError(f"{path}: not a Parquet file; expected Parquet, or JSON lines in a file ({lines})") from None
    return rows


def _read_json_lines(path: Path) -> list[dict[str, Any]]:
    import gzip

    records = []
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if not line.strip():
                    continue
                try:
                    record = json.loads(line)
                except ValueError as error:
                    raise DataError(f"{path}: line {number}: not JSON: {error}") from None
                if not isinstance(record, dict):
                    raise DataError(f"{path}: line {number}: expected an object, found {line.strip()[:60]}")
                records.append(record)
        except (OSError, EOFError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: cannot be read: {error}") from None
    return records
