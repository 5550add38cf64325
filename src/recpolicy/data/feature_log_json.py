"""Feature logs as JSON lines: one round a line, in plain text or gzip.

    {"event_id": "e1", "time": "2026-01-05T12:00:00Z", "user": "u7", "context": {"hour": 8},
     "actions": [{"id": "news", "features": {"price": 2}}, {"id": "music"}], "chosen": "news", "propensity": 0.8,
     "reward": 1.0, "policy": "champion", "version": "3fa9"}

`user`, `reward`, `weight`, `policy` and `version` may be missing, and `log_propensity` may stand for `propensity`.
Every fault is a DataError that names file and line.
"""

import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from recpolicy.core.errors import DataError
from recpolicy.core.files import atomic_path
from recpolicy.core.memory import check_memory
from recpolicy.data.csv_reader import Source
from recpolicy.data.feature_columns import records_from_columns
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.feature_log_builder import FeatureLogBuilder, log_of_propensity

JSON_LINES = (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz")
"""Names of files of JSON lines end so."""
_MAX_LINE = 1 << 24
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_CHECKED_LINES = 1 << 16
_ROUND_BYTES, _OFFER_BYTES = 400, 16


def write_json_lines(log: FeatureLog, path: Path) -> None:
    """Write the log as JSON lines, atomically."""
    features = list(records_from_columns(log.actions, len(log.action_id)))
    actions = [
        {"id": identifier, **({"features": record} if record else {})}
        for identifier, record in zip(log.action_id.tolist(), features, strict=True)
    ]
    times = pd.to_datetime(pd.Series(log.time), unit="ms", utc=True).dt.strftime("%Y-%m-%dT%H:%M:%S.%f").str[:-3]
    contexts = records_from_columns(log.context, len(log))
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8") as out:
        for row, context in enumerate(contexts):
            offered = log.offered[log.start[row] : log.start[row + 1]].tolist()
            record = {
                "event_id": log.event_id[row], "time": f"{times.iloc[row]}Z",
                "user": None if log.user is None else log.user[row], "context": context,
                "actions": [actions[action] for action in offered], "chosen": actions[offered[log.chosen[row]]]["id"],
                "log_propensity": float(log.log_propensity[row]),
                "reward": None if np.isnan(log.reward[row]) else float(log.reward[row]),
                "weight": None if log.weight is None else float(log.weight[row]),
                "policy": log.policy[row], "version": log.version[row],
            }  # fmt: skip
            line = {key: value for key, value in record.items() if value is not None}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")


_KEYS = (
    "event_id", "time", "user", "context", "actions", "chosen", "propensity", "log_propensity", "reward", "weight",
    "policy", "version",
)  # fmt: skip


def read_json_lines(path: Path, name: str | None = None, reward_range: tuple[float, float] | None = None) -> FeatureLog:
    """Read a feature log of JSON lines; raises DataError that names file and line."""
    builder = FeatureLogBuilder(name or str(path), reward_range)
    for line, record in json_records(path):
        try:
            builder.add(**_round(record))
        except (ValueError, OverflowError, RecursionError) as error:
            raise DataError(f"{path}:{line}: {error}") from None
        if line % _CHECKED_LINES == 0:
            check_memory(
                len(builder) * _ROUND_BYTES + builder.offers * _OFFER_BYTES, f"{path}: {len(builder):,} rounds so far",
                "read a shorter part of the log",
            )  # fmt: skip
    return builder.build()


def json_records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number of each line, from 1, and its JSON object; blank lines are left out."""
    try:
        with Source(path).open() as raw, io.TextIOWrapper(raw, "utf-8-sig") as stream:
            number = 0
            while text := stream.readline(_MAX_LINE):
                number += 1
                if len(text) >= _MAX_LINE:
                    raise DataError(f"{path}:{number}: a line of more than {_MAX_LINE:,} characters")
                if not text.strip():
                    continue
                try:
                    record = json.loads(text)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{path}:{number}: not JSON: {error}") from None
                if not isinstance(record, dict):
                    raise DataError(f"{path}:{number}: expected a JSON object with a round")
                yield number, record
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 text: {error}") from None
    except DataError:
        raise
    except (OSError, EOFError) as error:
        raise DataError(f"{path}: cannot be read: {error}") from None


def _round(record: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of FeatureLogBuilder.add of a line; raises DataError that says what is wrong with it."""
    unknown = sorted(set(record) - set(_KEYS))
    if unknown:
        raise DataError(f"the key {unknown[0]!r} is unknown; expected {', '.join(_KEYS)}")
    event_id, context = record.get("event_id"), record.get("context", {})
    if not isinstance(event_id, str) or not event_id:
        raise DataError(f"event_id is {event_id!r}; expected a text")
    if not isinstance(context, dict):
        raise DataError(f"context is {context!r}; expected an object of features")
    actions = [_action(action) for action in _list(record.get("actions"), "actions")]
    ids = [identifier for identifier, _ in actions]
    chosen = record.get("chosen")
    if chosen not in ids or isinstance(chosen, bool):
        raise DataError(f"chosen is {chosen!r}; expected the id of one of its {len(ids)} actions")
    user = record.get("user")
    if user is not None and (isinstance(user, bool) or not isinstance(user, int | str)):
        raise DataError(f"user is {user!r}; expected a whole number or text")
    return {
        "event_id": event_id, "time": parse_time(record.get("time")), "context": context, "actions": actions,
        "chosen": ids.index(chosen), "log_propensity": _log_propensity(record), "reward": _number(record, "reward"),
        "user": user, "weight": 1.0 if record.get("weight") is None else _number(record, "weight"),
        **{key: _text(record, key) for key in ("policy", "version") if record.get(key) is not None},
    }  # fmt: skip


def _action(action: Any) -> tuple[int | str, dict[str, Any]]:
    features = action.get("features", {}) if isinstance(action, dict) else None
    if not isinstance(action, dict) or "id" not in action or not isinstance(features, dict):
        raise DataError(f"an action is {str(action)[:80]}; expected an object with an id and an object of features")
    return action["id"], features


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise DataError(f"{name} is {str(value)[:80]}; expected a list with at least one")
    return value


def _log_propensity(record: dict[str, Any]) -> float:
    if ("propensity" in record) == ("log_propensity" in record):
        raise DataError("expected one of propensity and log_propensity")
    if "propensity" in record:
        return log_of_propensity(_number(record, "propensity"))
    return float(_number(record, "log_propensity"))


def _number(record: dict[str, Any], name: str) -> Any:
    value = record.get(name)
    if value is None and name == "reward":
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise DataError(f"{name} is {value!r}; expected a finite number")
    return float(value)


def _text(record: dict[str, Any], name: str) -> str:
    if not isinstance(record[name], str):
        raise DataError(f"{name} is {record[name]!r}; expected a text")
    return str(record[name])


def parse_time(value: Any) -> int:
    """Return milliseconds since 1970 of an ISO 8601 text, or of a whole number of milliseconds."""
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 10**15:
        return value
    try:
        time = datetime.fromisoformat(value.strip()) if isinstance(value, str) else None
    except ValueError:
        time = None
    if time is None:
        raise DataError(f"time is {value!r}; expected such as 2026-01-05T12:00:00Z, or milliseconds since 1970")
    zoned = time if time.tzinfo is not None else time.replace(tzinfo=UTC)
    return (zoned - _EPOCH) // timedelta(milliseconds=1)
