"""Collect the rounds of a feature log one at a time; each distinct action is stored once.

K offers of all rounds. Rounds are checked as they come, so a wrong one is refused with its place and adds nothing.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from recpolicy.core.errors import DataError
from recpolicy.data.feature_columns import (
    action_digest_of_plain,
    canonical_json,
    check_action_id,
    columns_from_records,
    is_missing,
    object_array,
    plain_value,
)
from recpolicy.data.feature_log import LOWEST_LOG_PROPENSITY, FeatureLog, check_identities

_CACHED = 1 << 18


def log_of_propensity(propensity: float) -> float:
    """Return the logarithm of a probability; raises DataError unless it is in (0, 1]."""
    if not 0 < propensity <= 1:
        raise DataError(f"propensity {propensity!r}: expected a probability in (0, 1]")
    return math.log(propensity)


_PER_ROUND = ("event_id", "time", "chosen", "log_propensity", "reward", "user", "policy", "version", "weight")


@dataclass
class FeatureLogBuilder:
    """Rounds that are collected one at a time; each distinct action is stored once."""

    name: str
    reward_range: tuple[float, float] | None = None
    _rounds: dict[str, list[Any]] = field(default_factory=lambda: {name: [] for name in _PER_ROUND})
    _contexts: list[Mapping[str, Any]] = field(default_factory=list)
    _count: list[int] = field(default_factory=list)
    _offered: list[int] = field(default_factory=list)
    _row: dict[str, int] = field(default_factory=dict)
    """Rows of the distinct actions by the text of their id and features."""
    _row_of_raw: dict[str, int] = field(default_factory=dict)
    """The same by the text as it came, to spare most of the work for actions that come again."""
    _actions: list[tuple[int | str, Mapping[str, Any]]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._count)

    @property
    def offers(self) -> int:
        """The number of offers of all rounds."""
        return len(self._offered)

    def add(
        self,
        *,
        event_id: str,
        time: int,
        context: Mapping[str, Any],
        actions: Sequence[tuple[int | str, Mapping[str, Any]]],
        chosen: int,
        log_propensity: float,
        reward: float | None = None,
        user: int | str | None = None,
        policy: str = "unknown",
        version: str = "unknown",
        weight: float = 1.0,
    ) -> None:
        """Add a round.

        Args:
            event_id: Id of the event.
            time: Milliseconds since 1970.
            context: Features of the context.
            actions: Ids and features of the actions offered, in the order of the request.
            chosen: Position of the shown action among them, from 0.
            log_propensity: Logarithm of the probability with which it was shown.
            reward: Reward; None: not known yet.
            user: Id of the user; None: unknown.
            policy: Name of the logging policy.
            version: Digest of the logging policy.
            weight: Number of events that the round stands for.

        Raises:
            DataError: A value is wrong. The round is not added then.
        """
        if not LOWEST_LOG_PROPENSITY <= log_propensity <= 0:
            raise DataError(f"log-propensity {log_propensity!r}: expected that of a probability in (0, 1]")
        if not actions or not 0 <= chosen < len(actions):
            raise DataError(f"the shown position {chosen} is none of the {len(actions)} actions")
        context = plain_value(context, "the context")
        rows = [self._row_of(identifier, features) for identifier, features in actions]
        if len({(type(identifier), identifier) for identifier, _ in actions}) < len(actions):
            ids = [identifier for identifier, _ in actions]
            twice = next(identifier for place, identifier in enumerate(ids) if identifier in ids[:place])
            raise DataError(f"action {twice!r} is offered twice")
        values = (event_id, time, chosen, log_propensity, reward, user, policy, version, weight)
        for name, value in zip(_PER_ROUND, values, strict=True):
            self._rounds[name].append(value)
        self._contexts.append(context)
        self._count.append(len(rows))
        self._offered += rows

    def _row_of(self, identifier: int | str, features: Mapping[str, Any]) -> int:
        try:
            raw = json.dumps([identifier, features])
        except (TypeError, ValueError, RecursionError):
            raw = ""
        row = self._row_of_raw.get(raw)
        if row is None:
            plain = plain_value(features, "the features of an action")
            key = canonical_json([check_action_id(identifier), plain])
            row = self._row.get(key)
            if row is None:
                row = self._row[key] = len(self._actions)
                self._actions.append((identifier, plain))
            if raw and len(self._row_of_raw) < _CACHED:
                self._row_of_raw[raw] = row
        return row

    def build(self) -> FeatureLog:
        """Return the log of the rounds added, in their order; raises DataError if there are none."""
        if not len(self):
            raise DataError(f"{self.name}: no rounds")
        columns = self._rounds
        weight = np.array(columns["weight"], np.float64)
        user = object_array(columns["user"])
        log = FeatureLog(
            event_id=object_array(columns["event_id"]), time=np.array(columns["time"], np.int64),
            context=columns_from_records(self._contexts),
            action_id=object_array([identifier for identifier, _ in self._actions]),
            actions=columns_from_records([features for _, features in self._actions]),
            action_digest=object_array([action_digest_of_plain(*action) for action in self._actions]),
            start=np.concatenate([[0], np.cumsum(self._count)]).astype(np.int64),
            offered=np.array(self._offered, np.int32), chosen=np.array(columns["chosen"], np.int32),
            log_propensity=np.array(columns["log_propensity"], np.float64),
            reward=np.array([np.nan if reward is None else reward for reward in columns["reward"]], np.float64),
            policy=object_array(columns["policy"]), version=object_array(columns["version"]), name=self.name,
            reward_range=self.reward_range, user=None if is_missing(user).all() else user,
            weight=None if (weight == 1).all() else weight,
        )  # fmt: skip
        check_identities(log)
        return log
