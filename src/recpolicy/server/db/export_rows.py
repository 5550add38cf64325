"""Rows of the database as rows of an exported log: n events or rewards at a time become N rounds or N rewards.

Every step works on whole columns; a Python object per round would take most of the time and memory.
"""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from sqlalchemy import Select, func, select

from recpolicy.data.bandit_log_files import GUARDRAILS
from recpolicy.data.candidate_columns import CANDIDATES, EXCLUDED, PACKED
from recpolicy.data.log_columns import TIME
from recpolicy.data.log_metadata import encode_metadata
from recpolicy.data.log_parts import EVENTS, REWARDS
from recpolicy.server.db.export_policy import LogPolicy
from recpolicy.server.db.guardrail_record import record_digest, unpack_list
from recpolicy.server.db.schema import events, rewards
from recpolicy.server.db.session_history import unpack_history

_EVENT_COLUMNS = (
    "seq", "id", "time", "user_key", "version", "policy_digest", "agent", "item_ids", "propensities", "allowed",
    "context", "history", "guardrails",
)  # fmt: skip
_SETS_AT_ONCE = 256
"""Sets of candidates that are unpacked at once."""
HISTORY_ITEM, HISTORY_LIKED = "history_item", "history_liked"
"""The session that a session policy saw, oldest item first; null for other policies and for events of before."""


@dataclass(frozen=True)
class ExportOptions:
    """The options of an export."""

    out: Path
    since: int = 0
    """Events before this time (milliseconds since 1970) are ignored."""
    least_rewards: int = 0
    """Users with fewer rewards in total are ignored."""
    places: int = 0
    """Number of first positions of an event that become rounds; 0: all."""
    fraction: float = 1.0
    """Fraction of the events, chosen by their random ids; 1: all."""


class EventRows:
    """The rows of the events table, as rounds."""

    name, table = EVENTS, events
    later = (EXCLUDED, "context", HISTORY_ITEM, HISTORY_LIKED, GUARDRAILS)
    """Columns that older files lack."""

    def __init__(self, policy: LogPolicy, options: ExportOptions):
        self.policy, self.options, self.metadata = policy, options, policy.metadata
        user, item = policy.id_types
        text = pa.dictionary(pa.int32(), pa.string())
        self.schema: Any = pa.schema(
            [
                ("event_id", pa.string()), ("time", TIME), ("user_id", user), ("item_id", item),
                ("log_propensity", pa.float64()), ("policy", text), ("policy_version", text),
                (CANDIDATES, PACKED), (EXCLUDED, pa.list_(item)), ("reward", pa.float64()),
                ("context", pa.list_(pa.float32())), (HISTORY_ITEM, pa.list_(item)),
                (HISTORY_LIKED, pa.list_(pa.bool_())), (GUARDRAILS, text),
            ],
            encode_metadata(self.metadata),
        )  # fmt: skip

    def query(self) -> Select[Any]:
        """Return the query for the rows that may be exported."""
        return select(*(events.c[name] for name in _EVENT_COLUMNS)).where(*_conditions(self.options))

    def batch(self, rows: Sequence[Any], left_out: Counter[str]) -> Any:
        """Return the rounds of n rows; counts the events that are left out."""
        propensities = _json_values([row.propensities for row in rows])
        reasons = self.policy.refusals(rows, propensities)
        left_out.update(reason for reason in reasons if reason is not None)
        kept = [place for place, reason in enumerate(reasons) if reason is None]
        rows, places = [rows[place] for place in kept], self.options.places or None
        items = [ids[:places] for ids in _json_values([row.item_ids for row in rows])]
        propensity = np.fromiter(chain.from_iterable(propensities[place][:places] for place in kept), np.float64)
        count = np.array([len(ids) for ids in items], np.int64)
        event, start = np.repeat(np.arange(len(rows)), count), np.cumsum(count) - count
        position = np.arange(len(event)) - np.repeat(start, count)
        item = pa.array(list(chain.from_iterable(items)), self.schema.field("item_id").type)
        of_event = pa.array(event)
        columns = {
            "event_id": _round_ids([row.id for row in rows], of_event, position),
            "time": pa.array([row.time for row in rows], pa.int64()).cast(TIME).take(of_event),
            "user_id": pa.array(_json_values([row.user_key for row in rows]), self.schema.field("user_id").type)
            .take(of_event),
            "item_id": item,
            "log_propensity": np.log(np.minimum(propensity, 1.0)),  # sums may round a little above 1
            "policy": pa.array([row.agent for row in rows], pa.string()).dictionary_encode().take(of_event),
            "policy_version": pa.array([row.policy_digest for row in rows], pa.string())
            .dictionary_encode().take(of_event),
            CANDIDATES: _candidates(rows, start, count, self.policy),
            EXCLUDED: _earlier_items(item, np.repeat(start, count), position),
            "reward": pa.nulls(len(event), pa.float64()),
            "context": _vectors([row.context for row in rows]).take(of_event),
            GUARDRAILS: _digests(rows).take(of_event),
        }  # fmt: skip
        histories = self._histories([row.history for row in rows])
        columns |= {name: lists.take(of_event) for name, lists in histories.items()}
        return pa.record_batch([columns[name] for name in self.schema.names], schema=self.schema)

    def _histories(self, packed: list[bytes | None]) -> dict[str, Any]:
        """Return items and responses of n sessions as lists, null where there is none."""
        rows, liked = unpack_history(b"".join(history for history in packed if history is not None))
        values = {
            HISTORY_ITEM: pa.array(self.policy.item_id[rows], self.policy.id_types[1]), HISTORY_LIKED: pa.array(liked)
        }  # fmt: skip
        return {name: _lists(packed, part) for name, part in values.items()}


class RewardRows:
    """The rows of the rewards table."""

    name, table, later = REWARDS, rewards, ()

    def __init__(self, policy: LogPolicy, options: ExportOptions):
        self.policy, self.options, self.metadata = policy, options, None
        self.schema: Any = pa.schema([("event_id", pa.string()), ("time", TIME), ("reward", pa.float64())])

    def query(self) -> Select[Any]:
        """Return the query for rewards; the checks of an event also apply to its rewards."""
        of_event = (events.c.version, events.c.user_key, events.c.context, events.c.propensities)
        query = (
            select(rewards.c.seq, rewards.c.event_id, rewards.c.position, rewards.c.reward, rewards.c.time, *of_event)
            .join(events, events.c.id == rewards.c.event_id)
            .where(*_conditions(self.options))
        )
        return query.where(rewards.c.position < self.options.places) if self.options.places else query

    def batch(self, rows: Sequence[Any], left_out: Counter[str]) -> Any:
        """Return the rewards of rounds that are in the log."""
        reasons = self.policy.refusals(rows, _json_values([row.propensities for row in rows]))
        included = [row for row, reason in zip(rows, reasons, strict=True) if reason is None]
        left_out["rewards"] += len(rows) - len(included)
        position = np.array([row.position for row in included], np.int64)
        columns = [
            _round_ids([row.event_id for row in included], pa.array(np.arange(len(included))), position),
            pa.array([row.time for row in included], pa.int64()).cast(TIME),
            pa.array([row.reward for row in included], pa.float64()),
        ]
        return pa.record_batch(columns, schema=self.schema)


def active_users(least: int) -> Select[Any]:
    """Return the query for keys of users with at least this many rewards in total."""
    return select(rewards.c.user_key).group_by(rewards.c.user_key).having(func.count() >= least)


def in_sample(fraction: float) -> Any:
    """Return the condition that an event is in a uniform sample: the last digits of its id are random."""
    limit = f"{min(int(fraction * 16**_SAMPLE_DIGITS), 16**_SAMPLE_DIGITS - 1):0{_SAMPLE_DIGITS}x}"
    return func.substr(events.c.id, 33 - _SAMPLE_DIGITS, _SAMPLE_DIGITS) < limit


_SAMPLE_DIGITS = 7


def _conditions(options: ExportOptions) -> list[Any]:
    """Return the conditions on events."""
    conditions: list[Any] = [events.c.time >= options.since]
    if options.least_rewards:
        conditions.append(events.c.user_key.in_(active_users(options.least_rewards)))
    if options.fraction < 1:
        conditions.append(in_sample(options.fraction))
    return conditions


def _json_values(texts: Sequence[str]) -> list[Any]:
    """Return the values of n JSON texts; one call of the parser takes much less time than n."""
    values: list[Any] = json.loads(f"[{','.join(texts)}]")
    return values


def _round_ids(event_id: list[str], event: Any, position: Any) -> Any:
    """Return EVENT:POSITION [N]."""
    return pc.binary_join_element_wise(
        pa.array(event_id, pa.string()).take(event), pa.array(position).cast(pa.string()), ":"
    )


def _digests(rows: Sequence[Any]) -> Any:
    """Return the digests of the guardrails [n], null without any."""
    digests = [None if row.guardrails is None else record_digest(row.guardrails) for row in rows]
    return pa.array(digests, pa.string()).dictionary_encode()


def _candidates(rows: Sequence[Any], start: Any, count: Any, policy: LogPolicy) -> Any:
    """Return the candidates of each round [N] as packed bits, without those that guardrails close at its position.

    Args:
        rows: [n] events.
        start: [n] first round of each event.
        count: [n] rounds of each event.
        policy: The policy of the log, whose catalog the bits are over.
    """
    sets, index = [row.allowed for row in rows], np.repeat(np.arange(len(rows)), count)
    versions = [row.version for row in rows]
    for event, row in enumerate(rows):
        if row.guardrails is None:
            continue
        actions = policy.actions(row.version)
        arms = len(policy.catalog if actions is None else actions)
        everything = np.packbits(np.ones(arms, bool))
        current = everything if row.allowed is None else np.frombuffer(row.allowed, np.uint8)
        for place, closed in unpack_list(row.guardrails, arms)[1]:
            current = current & ~closed
            index[start[event] + place : start[event] + count[event]] = len(sets)
            sets.append(current.tobytes())
            versions.append(row.version)
    _translate(sets, np.array(versions), policy)
    return pa.array(sets, pa.binary()).dictionary_encode().take(pa.array(index))


def _translate(sets: list[bytes | None], versions: NDArray[np.int64], policy: LogPolicy) -> None:
    """Write the candidates of versions with another catalog [S] as bits over that of the log, in place."""
    for version in np.unique(versions):
        actions = policy.actions(int(version))
        if actions is None:
            continue
        places = np.flatnonzero(versions == version)
        distinct = list(dict.fromkeys(sets[place] for place in places))
        translated: dict[bytes | None, bytes] = {}
        for first in range(0, len(distinct), _SETS_AT_ONCE):
            part = distinct[first : first + _SETS_AT_ONCE]
            mask = np.zeros((len(part), len(policy.catalog)), bool)
            mask[:, actions] = [_bits(packed, len(actions)) for packed in part]
            translated |= zip(part, (row.tobytes() for row in np.packbits(mask, axis=1)), strict=True)
        for place in places:
            sets[place] = translated[sets[place]]


def _bits(packed: bytes | None, count: int) -> NDArray[np.uint8]:
    """Return the bits of a set [A]; all are 1 without one."""
    if packed is None:
        return np.ones(count, np.uint8)
    return np.unpackbits(np.frombuffer(packed, np.uint8), count=count)


def _earlier_items(item: Any, start: Any, position: Any) -> Any:
    """Return for each round [N] the items at earlier positions of its event; `start` [N] is the event's first round."""
    end = np.cumsum(position)
    place = np.arange(end[-1] if len(end) else 0) - np.repeat(end - position - start, position)
    offsets = np.concatenate([[0], end]).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), item.take(pa.array(place)))


def _vectors(contexts: list[bytes | None]) -> Any:
    """Return contexts [n] as lists of float32, null where there is none."""
    values = np.frombuffer(b"".join(context for context in contexts if context is not None), np.float32)
    return _lists(contexts, pa.array(values, pa.float32()))


def _lists(packed: Sequence[bytes | None], values: Any) -> Any:
    """Return the values as n lists, a value for every four bytes of each; null where there are no bytes."""
    count = np.array([0 if part is None else len(part) // 4 for part in packed], np.int64)
    offsets = pa.array(np.concatenate([[0], np.cumsum(count)]).astype(np.int32))
    missing = pa.array([part is None for part in packed], pa.bool_())
    return pa.ListArray.from_arrays(offsets, values, mask=missing)
