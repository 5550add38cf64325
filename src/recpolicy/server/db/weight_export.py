"""Export of lists under drawn weights as a log of weights, which `recpolicy tune` reads (workflows/weight_logs.py).

Three objectives of each list: a like (any reward in the upper quarter of the scale), whether the session goes on (the
user's next list comes within the gap), and the mean novelty of its items on 0..1. Lists whose rewards may still arrive
wait. All lists of a log have one policy below the layer, one grid and one scaling: those of the latest list. About 1 kB
per list is held; N lists.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, func, select

from recpolicy.core.errors import ArtifactError, ConfigError, DataError
from recpolicy.core.files import content_digest
from recpolicy.inference.artifact import read_inference_artifact
from recpolicy.inference.ranking_utility import item_information
from recpolicy.inference.scorer import Scorer
from recpolicy.models.ranking_formula import ActionGrid
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.schema import events, rewards
from recpolicy.workflows.weight_logs import write_weight_log

OTHER_POLICY, OTHER_FORMULA, WAITING = "other_policy", "other_formula", "waiting"
_HOUR_MS, _MINUTE_MS = 3_600_000, 60_000
_LIKE_AT = 0.75
_DRAWN = '%"explored"%'
_CONTINUATION = 0.8
"""Assumed probability of reading on after an item that is not liked, for comparisons in simulated worlds."""


@dataclass(frozen=True)
class WeightExportOptions:
    """The options of an export of weights."""

    out: Path
    since: int = 0
    """Lists before this time (milliseconds since 1970) are ignored."""
    wait_hours: float = 24.0
    """Rewards that came this long after their list count; a younger list waits."""
    gap_minutes: float = 30.0
    """A session goes on if the user's next list comes within this time."""

    @property
    def wait_ms(self) -> int:
        """Time after which all objectives of a list are known."""
        return round(max(self.wait_hours * _HOUR_MS, self.gap_minutes * _MINUTE_MS))


@dataclass(frozen=True)
class WeightsExported:
    """The content of a log of weights."""

    lists: int
    means: Mapping[str, float]
    """Means of the objectives."""
    left_out: Mapping[str, int]
    """Lists left out by reason: other_policy, other_formula, waiting."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


def export_weights(
    engine: Engine, registry: Registry, version: int | str, options: WeightExportOptions
) -> WeightsExported:
    """Write the lists under drawn weights of one policy, with or without a layer, as a log of weights.

    Args:
        engine: The store of the server.
        registry: Its registry.
        version: A version of the policy.
        options: Folder and times.

    Raises:
        DataError: There is no such list yet.
        ArtifactError: The version cannot be read.
    """
    wanted = registry.version(version)
    base = _base_of(wanted.layer, wanted.policy_digest)
    scorer = Scorer(read_inference_artifact(registry.resolve(wanted.number)))
    with engine.connect() as connection:
        rows = _drawn_lists(connection, options.since)
        chosen, left_out = _of_one_formula(rows, registry, base, now_ms() - options.wait_ms)
        if not chosen:
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in sorted(left_out.items())) or "none was drawn"
            raise DataError(
                f"no list under drawn weights of policy {base[:12]} ({reasons}); set explore_share in the table"
                " [tuning] of the server's settings, and wait for rewards"
            )
        liked = _liked(connection, scorer, options)
        follow = _continued(connection, chosen, options)
    table, body = _log(chosen, scorer, base, options, liked, follow)
    write_weight_log(table, body, options.out)
    means = {name: float(table[name].mean()) for name in ("like", "session_continues", "novelty")}
    return WeightsExported(len(table), means, dict(left_out))


@dataclass(frozen=True)
class _DrawnList:
    seq: int
    event_id: str
    time: int
    user_key: str
    version: int
    item_ids: str
    record: Mapping[str, Any]

    @property
    def formula(self) -> str:
        return content_digest(self.record["grid"], self.record["scaling"])


def _drawn_lists(connection: Connection, since: int) -> list[_DrawnList]:
    names = ("seq", "id", "time", "user_key", "version", "item_ids", "weights")
    query = select(*(events.c[name] for name in names)).where(events.c.weights.like(_DRAWN), events.c.time >= since)
    rows = connection.execute(query.order_by(events.c.seq))
    return [
        _DrawnList(row.seq, row.id, row.time, row.user_key, row.version, row.item_ids, json.loads(row.weights))
        for row in rows
    ]


def _base_of(layer: Mapping[str, Any] | None, policy_digest: str) -> str:
    return policy_digest if layer is None else str(layer["base_policy"])


def _of_one_formula(
    rows: Sequence[_DrawnList], registry: Registry, base: str, until: int
) -> tuple[list[_DrawnList], Counter[str]]:
    """Return the complete lists of the policy under the formula of the latest one, and the counts of the others."""
    known: dict[int, str | None] = {}
    for number in {row.version for row in rows}:
        try:
            version = registry.version(number)
            known[number] = _base_of(version.layer, version.policy_digest)
        except (ArtifactError, ConfigError):  # a version that was deleted
            known[number] = None
    mine = [row for row in rows if known[row.version] == base]
    left_out = Counter({OTHER_POLICY: len(rows) - len(mine)})
    formula = mine[-1].formula if mine else ""
    same = [row for row in mine if row.formula == formula]
    done = [row for row in same if row.time <= until]
    left_out += Counter({OTHER_FORMULA: len(mine) - len(same), WAITING: len(same) - len(done)})
    return done, left_out


def _liked(connection: Connection, scorer: Scorer, options: WeightExportOptions) -> set[str]:
    """Return the ids of the lists with an item that was liked in time."""
    low, high = scorer.scale
    query = select(rewards.c.event_id).join(events, events.c.id == rewards.c.event_id)
    query = query.where(
        events.c.weights.like(_DRAWN), events.c.time >= options.since,
        rewards.c.reward >= low + _LIKE_AT * (high - low),
        rewards.c.time - events.c.time <= round(options.wait_hours * _HOUR_MS),
    )  # fmt: skip
    return set(connection.scalars(query.distinct()))


def _continued(connection: Connection, lists: Sequence[_DrawnList], options: WeightExportOptions) -> NDArray[np.bool_]:
    """Return True [N] for lists whose user got another one within the gap."""
    gap = round(options.gap_minutes * _MINUTE_MS)
    first, last = min(row.time for row in lists), max(row.time for row in lists) + gap
    following = func.lead(events.c.time).over(partition_by=events.c.user_key, order_by=[events.c.time, events.c.seq])
    every = select(events.c.seq, events.c.weights, following.label("following")).where(
        events.c.time.between(first, last)
    )
    inner = every.subquery()
    rows = connection.execute(select(inner.c.seq, inner.c.following).where(inner.c.weights.like(_DRAWN)))
    after = {row.seq: row.following for row in rows}
    return np.array([(after[row.seq] or last + gap + 1) - row.time <= gap for row in lists])


def _log(
    lists: Sequence[_DrawnList], scorer: Scorer, base: str, options: WeightExportOptions, liked: set[str],
    follow: NDArray[np.bool_],
) -> tuple[pd.DataFrame, dict[str, Any]]:  # fmt: skip
    """Return the table and the metadata of the log."""
    information = item_information(scorer)
    items = [[scorer.find_item(item) for item in json.loads(row.item_ids)] for row in lists]
    bits = np.array([np.mean([information[row] for row in rows if row is not None] or [0.0]) for rows in items])
    users = [json.loads(row.user_key) for row in lists]
    mixed = len({type(user) for user in users}) > 1
    table = pd.DataFrame(
        {
            "time": [row.time for row in lists], "user_id": [row.user_key for row in lists] if mixed else users,
            "action": np.array([row.record["action"] for row in lists], np.int64),
            "propensity": [float(row.record["propensity"]) for row in lists],
            "fallback": [bool(row.record["fallback"]) for row in lists],
            "like": [row.event_id in liked for row in lists], "session_continues": follow,
            "novelty": bits / float(information.max()),
            "categorical": [row.record["categorical"] for row in lists],
            "numeric": [row.record["numeric"] for row in lists],
        }
    )  # fmt: skip
    grid = ActionGrid.from_dict(lists[-1].record["grid"])
    size = int(np.median([len(rows) for rows in items]))
    config = {
        "slates": len(lists), "slate_size": max(size, 1), "continuation_probability": _CONTINUATION,
        "wait_hours": options.wait_hours, "gap_minutes": options.gap_minutes,
    }  # fmt: skip
    body = {
        "scaling": lists[-1].record["scaling"], "grid": grid.as_dict(), "base_policy": base, "world": "server",
        "config": config, "until": int(table["time"].max()),
    }  # fmt: skip
    return table, body
