"""A feature log of four rounds by hand, and ways to spoil its files."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.feature_log_builder import FeatureLogBuilder, log_of_propensity
from recpolicy.data.log_parts import ROUNDS

NEWS, MUSIC = ("news", {"price": 2, "tags": ["short", "free"]}), ("music", {"price": 0.5})
DEAR_NEWS = ("news", {"price": 3, "tags": ["short", "free"]})
"""The same id as NEWS at another price: another row of the table of actions."""


def hand_feature_log(name: str = "hand") -> FeatureLog:
    """Return four rounds of two users, with missing features, nested ones, and a reward that is not known yet."""
    builder = FeatureLogBuilder(name, (-1.0, 1.0))
    rounds: list[dict[str, Any]] = [
        {
            "context": {"hour": 8, "device": {"os": "a", "new": True}},
            "actions": [NEWS, MUSIC],
            "reward": 1.0,
            "user": 7,
        },
        {"context": {"hour": 9.5, "mood": "calm"}, "actions": [MUSIC, NEWS, (3, {})], "reward": -0.5, "user": "u2"},
        {"context": {"mood": "sad", "big": 2**60}, "actions": [DEAR_NEWS], "reward": None, "user": 7},
        {"context": {}, "actions": [MUSIC, DEAR_NEWS], "reward": 0.0, "user": None},
    ]
    for row, values in enumerate(rounds):
        builder.add(
            event_id=f"e{row}", time=1000 * row, chosen=len(values["actions"]) - 1, policy="champion", version="3fa9",
            log_propensity=log_of_propensity(1 / len(values["actions"])), weight=1.0 + (row == 1), **values,
        )  # fmt: skip
    return builder.build()


def rewritten(folder: Path, change: Callable[[Any], Any], name: str = ROUNDS) -> None:
    """Replace a Parquet file of a folder by what `change` makes of its table."""
    table = pq.read_table(folder / name)
    pq.write_table(change(table), folder / name)


def with_column(name: str, values: list[Any], kind: Any = None) -> Callable[[Any], Any]:
    """Return a change that sets a column."""

    def change(table: Any) -> Any:
        return table.set_column(table.schema.get_field_index(name), name, pa.array(values, kind))

    return change
