"""A strategy policy as JSON for people and other programs, without loss: export, import and export give equal bytes.

    {"format": "recpolicy Q-table", "version": 1, "schema": {...}, "config": {...}, "sessions": 2, "metadata": {...},
     "states": {"0-1-2-3-4|music|happy|morning": {"low/focused/familiar": {"q": 0.1, "visits": 1}, ...}, ...},
     "learned_events": ["00f1...", ...]}

A state is its trait bins and situation, an action its three levels. Cells without a visit are left out. Numbers have
the shortest text that gives the same 64-bit number. There is one state a line.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.core.files import atomic_path, read_versioned_json
from recpolicy.core.hashes import Hashes
from recpolicy.inference import artifact_checks as checks
from recpolicy.inference.artifact_files import artifact_errors
from recpolicy.strategies.artifact import check_table
from recpolicy.strategies.config import ACTIONS, DIMENSIONS, StrategyConfig, schema_difference
from recpolicy.strategies.policy import StrategyPolicy
from recpolicy.strategies.q_table import QTable
from recpolicy.strategies.state import codes_of_states, state_from_name, state_name

FORMAT, VERSION = "recpolicy Q-table", 1
_MAX_BYTES = 1 << 30
_KEYS = ("schema", "config", "sessions", "metadata", "states", "learned_events")


def export_table(policy: StrategyPolicy, path: str | Path) -> None:
    """Write a policy as JSON, atomically."""
    with atomic_path(Path(path)) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.writelines(_lines(policy))


def import_table(path: str | Path, config: StrategyConfig | None = None) -> StrategyPolicy:
    """Return the policy in a JSON file that `export_table` wrote.

    Args:
        path: The file.
        config: Settings that replace those of the file; the names of states and actions must be the same.

    Raises:
        ArtifactError: The file is damaged, or its states and actions are not those of the config.
    """
    path = Path(path)
    body = read_versioned_json(path, FORMAT, VERSION, max_bytes=_MAX_BYTES)
    with artifact_errors(path):
        if lacking := [name for name in _KEYS if name not in body]:
            raise ArtifactError(f"lacks {lacking[0]}: export the table again")
        own = StrategyConfig.from_dict(body["config"], "config")
        if body["schema"] != own.schema:
            raise ArtifactError("schema: differs from that of its config: export the table again")
        if config is not None and (difference := schema_difference(config, own)):
            raise ArtifactError(f"the table has another schema: {difference}")
        checks.check_metadata(body["metadata"])
        if type(body["sessions"]) is not int or not 0 <= body["sessions"] <= 2**53:
            raise ArtifactError(f"sessions is {str(body['sessions'])[:80]}; expected a count")
        table = _table(body["states"], own)
        check_table(table, own)
        return StrategyPolicy(config or own, table, body["sessions"], body["metadata"], _hashes(body["learned_events"]))


def _lines(policy: StrategyPolicy) -> Iterator[str]:
    config, table = policy.config, policy.table
    head = {
        "format": FORMAT, "version": VERSION, "schema": config.schema, "config": config.as_dict(),
        "sessions": policy.sessions, "metadata": dict(policy.metadata),
    }  # fmt: skip
    yield "{\n"
    for name, value in head.items():
        yield f"{json.dumps(name)}: {_text(value)},\n"
    names = _action_names(config)
    codes = codes_of_states(table.states, config)
    yield '"states": {'
    for row in range(len(table.states)):
        cells = {
            names[action]: {"q": float(table.q[row, action]), "visits": int(table.visits[row, action])}
            for action in np.flatnonzero(table.visits[row]).tolist()
        }
        yield f"{',' if row else ''}\n{json.dumps(state_name(codes[row], config))}: {_text(cells)}"
    yield "\n},\n"
    yield f'"learned_events": {_text([f"{value:016x}" for value in policy.learned_events.tolist()])}\n}}\n'


def _text(value: Any) -> str:
    return json.dumps(value, allow_nan=False, sort_keys=True)


def _action_names(config: StrategyConfig) -> list[str]:
    return ["/".join(strategy[dimension] for dimension in DIMENSIONS) for strategy in config.strategies]


def _table(states: Any, config: StrategyConfig) -> QTable:
    """Return the table of the JSON object of states, after a check of every value."""
    if not isinstance(states, Mapping):
        raise ArtifactError("states: expected an object with an object of actions for each state")
    actions = {name: action for action, name in enumerate(_action_names(config))}
    numbers = np.empty(len(states), np.int64)
    q, visits = np.zeros((len(states), ACTIONS)), np.zeros((len(states), ACTIONS), np.int64)
    for row, (name, cells) in enumerate(states.items()):
        try:
            numbers[row] = state_from_name(name, config)
        except (DataError, ConfigError) as error:
            raise ArtifactError(str(error)) from None
        if not isinstance(cells, Mapping):
            raise ArtifactError(f"the state {name}: expected an object of actions")
        for action, cell in cells.items():
            if action not in actions:
                raise ArtifactError(
                    f"the state {name}: no action {action[:80]!r}; expected such as {next(iter(actions))}"
                )
            value, count = _cell(cell, name, action)
            q[row, actions[action]], visits[row, actions[action]] = value, count
    order = np.argsort(numbers, kind="stable")
    return QTable(numbers[order], q[order], visits[order])


def _cell(cell: Any, state: str, action: str) -> tuple[float, int]:
    value: Any = cell.get("q") if isinstance(cell, Mapping) else None
    count: Any = cell.get("visits") if isinstance(cell, Mapping) else None
    if not checks.is_number(value) or type(count) is not int or not 1 <= count <= 2**53:
        raise ArtifactError(
            f"the state {state}, {action}: found {str(cell)[:80]}; expected a number q and visits of 1 or more"
        )
    return float(value), count


def _hashes(texts: Any) -> Hashes:
    if not isinstance(texts, list) or not all(isinstance(text, str) and len(text) == 16 for text in texts):
        raise ArtifactError("learned_events: expected texts of 16 hexadecimal digits")
    try:
        hashes = np.array([int(text, 16) for text in texts], np.uint64)
    except ValueError:
        raise ArtifactError("learned_events: expected texts of 16 hexadecimal digits") from None
    if not (hashes[1:] > hashes[:-1]).all():
        raise ArtifactError("learned_events: not sorted, each once")
    return hashes
