"""Predicted against measured gain: what the gate of a version promised, and what its rollout showed.

The prediction is in the gate record of the version: a gain over a baseline on logged rounds or in simulated sessions.
The measurement is the difference challenger - champion of the last stage in which both variants had enough users, from
the audit: its interval holds at all looks. The two have the same unit only for rounds: reward per item.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from sqlalchemy import Connection, select

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.core.json import to_plain
from recpolicy.core.statistics import Interval
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db import rollouts
from recpolicy.server.db.schema import audit

_ACTIONS = ("rollout_advance", "rollout_promoted", "rollout_rolled_back", "rollout_stopped")
_LINES = 10_000
"""Audit lines that are read, newest first."""


@dataclass(frozen=True)
class GainComparison:
    """One rollout: the gain that was predicted for its challenger, and the measured one."""

    rollout: int
    champion: int
    challenger: int
    state: str
    predicted: Interval | None
    baseline: str
    """Policy over which the prediction is a gain; empty without one."""
    unit: str
    """Unit of the prediction: round or session; empty without one."""
    measured: Interval | None
    """Difference of mean rewards, challenger - champion; None if no stage had enough users of both."""
    users: int
    """Users of both variants behind the measurement."""

    @property
    def verdict(self) -> str:
        """Say whether the measured interval overlaps the predicted one."""
        if self.measured is None:
            return "not measured"
        if self.predicted is None:
            return "not predicted"
        if self.unit != "round":
            return "other units: compare the signs"
        if self.measured.hi < self.predicted.lo:
            return "less than predicted"
        return "more than predicted" if self.measured.lo > self.predicted.hi else "as predicted: intervals overlap"

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        plain: dict[str, Any] = to_plain({**asdict(self), "verdict": self.verdict})
        return plain


def compare_gains(registry: Registry, connection: Connection, count: int = 20) -> list[GainComparison]:
    """Return the last `count` rollouts, newest first, with predicted and measured gains."""
    measured = _measured(connection)
    found = []
    for row in rollouts.latest(connection, count):
        interval, users = measured.get(row.id, (None, 0))
        predicted, baseline, unit = _predicted(registry, row.challenger)
        found.append(
            GainComparison(row.id, row.champion, row.challenger, row.state, predicted, baseline, unit, interval, users)
        )
    return found


def gain_table(comparisons: list[GainComparison]) -> pd.DataFrame:
    """Return a row for each rollout, as text."""
    return pd.DataFrame([
        {
            "rollout": each.rollout, "champion": each.champion, "challenger": each.challenger, "state": each.state,
            "predicted gain": _text(each.predicted), "over": each.baseline, "per": each.unit,
            "measured gain": _text(each.measured), "users": f"{each.users:,}", "result": each.verdict,
        }
        for each in comparisons
    ])  # fmt: skip


def _predicted(registry: Registry, number: int) -> tuple[Interval | None, str, str]:
    """Return the gain in the gate record of a version, its baseline and unit; the log's if there are two."""
    try:
        gate = registry.version(number).gate or {}
    except (ArtifactError, ConfigError):  # the version was deleted, or its record is damaged
        return None, "", ""
    gains = gate.get("predicted_gain") or {}
    for part in ("off_policy", "sessions"):
        gain = gains.get(part)
        if isinstance(gain, Mapping) and gain.get("value") is not None:
            return _interval(gain), str(gain.get("baseline", "")), str(gain.get("unit", ""))
    return None, "", ""


def _measured(connection: Connection) -> dict[int, tuple[Interval, int]]:
    """Return the last finite difference of each rollout with the users behind it."""
    lines = connection.execute(
        select(audit.c.detail).where(audit.c.action.in_(_ACTIONS)).order_by(audit.c.seq.desc()).limit(_LINES)
    )
    found: dict[int, tuple[Interval, int]] = {}
    for (text,) in lines:
        detail = json.loads(text)
        metrics = detail.get("metrics")
        if metrics is None or detail["rollout"] in found:
            continue
        difference = _interval(metrics["difference"])
        if math.isfinite(difference.lo) and math.isfinite(difference.hi):
            users = metrics["champion"]["users"] + metrics["challenger"]["users"]
            found[detail["rollout"]] = difference, int(users)
    return found


def _interval(plain: Mapping[str, Any]) -> Interval:
    """Return an interval whose missing numbers are unbounded."""
    value, lo, hi = (plain.get(name) for name in ("value", "lo", "hi"))
    return Interval(
        math.nan if value is None else float(value), -math.inf if lo is None else float(lo),
        math.inf if hi is None else float(hi),
    )  # fmt: skip


def _text(interval: Interval | None) -> str:
    return "" if interval is None else str(interval)
