"""Ranked events: one decision between actions with features each, and the rows of the actions.

The features of an action are stored once for all events (`action_rows`); an event refers to them by digest. Contexts
rarely repeat and may describe a person, so each event holds its own.

A caller may choose the id of an event. The first event with an id is stored; a later one is not, and the caller learns
that from the outcome.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Connection, select

from recpolicy.core.types import Bools
from recpolicy.server.db.engine import upsert
from recpolicy.server.db.feedback import Outcome
from recpolicy.server.db.guardrail_record import closed_offers
from recpolicy.server.db.schema import UNFILLED, action_rows, rank_events
from recpolicy.server.db.spooled_fields import typed_field

ONLINE, APPRENTICE, LOGGING_ONLY = "online", "apprentice", "logging_only"
MODES = (ONLINE, APPRENTICE, LOGGING_ONLY)
DIGEST_BYTES = 16
STORED, KNOWN = "stored", "known"
EXCLUDED, GUARDRAILS = "excluded", "guardrails"
"""Causes of a slot without an action: the earlier slots and the exclusions leave none, or guardrails close the rest."""
REFRESH_MS = 3_600_000
"""A row's time of use is written again when it is older than this; otherwise each commit would rewrite the rows."""
_ROWS_AT_ONCE = 100


class RankEvent(NamedTuple):
    """A decision between A actions that were not excluded: a row of the table `rank_events`, and the actions.

    A slot without an action has no offers (A = 0).
    """

    id: str
    slot: int
    """Position of the slot; 0 is the first, or the only one."""
    slot_id: str | None
    """Id of the slot; None: the event has no slots."""
    time: int
    """Milliseconds since 1970, UTC."""
    user_key: str | None
    """User id, JSON; None: the request named no user."""
    version: int
    """Number of the version; 0: no version."""
    policy_digest: str
    agent: str
    mode: str
    context: str
    """The features of the context, JSON."""
    offers: bytes
    """Digests of the actions [A], in the order of the request, 16 bytes each."""
    probabilities: bytes
    """Probabilities of the actions [A] to be first, float64."""
    ranking: bytes
    """Positions among the offers [A], the chosen one first, uint16."""
    imitated: bool | None
    """True if the policy prefers the baseline, which was returned; None in the mode online."""
    request_digest: str
    online: bool
    """False: the caller had no key, and online learning leaves the event out."""
    activated_at: int | None
    """Time at which the event became active; None: it waits for its activation."""
    variant: str
    """champion or challenger."""
    rollout: int | None
    """The rollout in whose comparison the event counts."""
    task: str | None
    """STRATEGY or UNFILLED; None: a rank of the caller's actions."""
    guardrails: bytes | None
    """The guardrails (guardrail_record.py); None: there were none."""
    rows: tuple[str, ...]
    """The actions [A], JSON, in the order of `offers`; another table has them."""


_COLUMNS = RankEvent._fields[:-1]
_TYPES: dict[str, tuple[type, ...]] = {
    "id": (str,), "slot": (int,), "slot_id": (str, NoneType), "time": (int,), "user_key": (str, NoneType),
    "version": (int,), "policy_digest": (str,), "agent": (str,), "mode": (str,), "context": (str,),
    "offers": (bytes,), "probabilities": (bytes,), "ranking": (bytes,), "imitated": (bool, NoneType),
    "request_digest": (str,), "online": (bool,), "activated_at": (int, NoneType), "variant": (str,),
    "rollout": (int, NoneType), "task": (str, NoneType),
    "guardrails": (bytes, NoneType), "rows": (list,),
}  # fmt: skip
_ADDED = {"variant": "champion", "rollout": None, "task": None, "guardrails": None}
"""Fields that lines of older versions lack: their events were ranks and had neither challengers nor guardrails."""


def row_digest(row: str) -> bytes:
    """Return the digest of an action's JSON."""
    return hashlib.blake2b(row.encode(), digest_size=DIGEST_BYTES).digest()


def insert_rank_events(connection: Connection, new: Sequence[RankEvent]) -> list[Outcome]:
    """Insert the slots of new events and their actions; return an outcome for each: stored, or known. The caller
    commits.

    A slot whose event id the database has is left out, with the other slots of its request.
    """
    _insert_rows(connection, new)
    statement = _insert_statement(connection.dialect.paramstyle)
    outcomes: list[Outcome] = []
    refused: str | None = None
    for event in new:
        if event.slot == 0:
            refused = None
        known = refused == event.id or not connection.exec_driver_sql(statement, tuple(event[:-1])).rowcount
        refused = event.id if known else None
        outcomes.append(Outcome(KNOWN if known else STORED))
    return outcomes


def _insert_rows(connection: Connection, new: Sequence[RankEvent]) -> None:
    """Insert the actions of events that the database does not have, and refresh the time of use of the others."""
    wanted: dict[bytes, tuple[str, int]] = {}
    for event in new:
        for place, row in enumerate(event.rows):
            wanted[event.offers[DIGEST_BYTES * place : DIGEST_BYTES * (place + 1)]] = row, event.time
    recent = max(event.time for event in new) - REFRESH_MS
    digests = sorted(wanted)  # in this order, so that two processes never wait for each other
    for start in range(0, len(digests), _ROWS_AT_ONCE):
        some = digests[start : start + _ROWS_AT_ONCE]
        query, parameters = _recently_used(connection.dialect.paramstyle, len(some)), (recent, *some)
        count = f"SELECT count(*) FROM ({query}) AS used"  # to read 50 digests takes longer than to find them
        if connection.exec_driver_sql(count, parameters).scalar() == len(some):
            continue
        known = {bytes(row[0]) for row in connection.exec_driver_sql(query, parameters)}
        values = [
            {"digest": digest, "row": wanted[digest][0], "last_used": wanted[digest][1]}
            for digest in some if digest not in known
        ]  # fmt: skip
        if values:
            connection.execute(_rows_statement(connection.dialect.name), values)


@cache
def _recently_used(paramstyle: str, count: int) -> str:
    """Return the query for those of some digests whose actions were used since a time; most actions were.

    On PostgreSQL the lock keeps the actions until the commit.
    """
    mark, end = ("?", "") if paramstyle == "qmark" else ("%s", " FOR KEY SHARE")
    return f"SELECT digest FROM action_rows WHERE last_used >= {mark} AND digest IN ({', '.join([mark] * count)}){end}"


@cache
def _rows_statement(dialect: str) -> Any:
    insert = upsert(dialect, action_rows)
    old = action_rows.c.last_used < insert.excluded.last_used - REFRESH_MS
    return insert.on_conflict_do_update(
        index_elements=["digest"], set_={"last_used": insert.excluded.last_used}, where=old
    )


@cache
def _insert_statement(paramstyle: str) -> str:
    mark = "?" if paramstyle == "qmark" else "%s"
    return (
        f"INSERT INTO rank_events ({', '.join(_COLUMNS)}) VALUES ({', '.join([mark] * len(_COLUMNS))})"
        " ON CONFLICT (id, slot) DO NOTHING"
    )


@dataclass(frozen=True)
class StoredRank:
    """The stored answer to a request: one ranking for each slot."""

    request_digest: str
    slot_ids: list[str | None]
    rankings: list[NDArray[np.uint16]]  # per slot [A], positions among its offers
    probabilities: list[NDArray[np.float64]]  # per slot [A], in the order of the request
    closed: list[Bools]  # per slot [A], offers that guardrails closed
    unfilled: list[str | None]
    """Per slot the cause if it has no action, None if it has one."""
    policy: Mapping[str, Any]
    """The `policy` of the response: version, agent, policy_digest and variant."""
    mode: str


def logged_choice(row: Any) -> tuple[int, float]:
    """Return the position of the action that an event shows first, and its propensity."""
    chosen = int(np.frombuffer(row.ranking, "<u2")[0])
    return chosen, float(np.frombuffer(row.probabilities, "<f8")[chosen])


def find_rank(connection: Connection, event_id: str) -> StoredRank | None:
    """Return the stored answer of an event; None for an unknown id."""
    rows = connection.execute(
        select(rank_events).where(rank_events.c.id == event_id).order_by(rank_events.c.slot)
    ).all()
    if not rows:
        return None
    first = rows[0]
    policy = {"version": first.version or None, "agent": first.agent, "policy_digest": first.policy_digest}
    return StoredRank(
        first.request_digest,
        [row.slot_id for row in rows],
        [np.frombuffer(row.ranking, "<u2") for row in rows],
        [np.frombuffer(row.probabilities, "<f8") for row in rows],
        [closed_offers(row.guardrails, len(row.ranking) // 2) for row in rows],
        [_cause(row) for row in rows],
        policy | {"variant": first.variant},
        first.mode,
    )


def _cause(row: Any) -> str | None:
    if row.task != UNFILLED:
        return None
    return EXCLUDED if row.guardrails is None else GUARDRAILS


def rank_event_line(event: RankEvent) -> str:
    """Return an event with its actions as one line of JSON; bytes as base64."""
    row = event._asdict()
    encoded = {name: base64.b64encode(value).decode() for name, value in row.items() if isinstance(value, bytes)}
    return json.dumps(row | encoded)


def parse_rank_event(row: dict[str, Any]) -> RankEvent:
    """Return the event of a parsed line; raises ValueError that says what is wrong."""
    row = _ADDED | row
    missing, unknown = _TYPES.keys() - row.keys(), row.keys() - _TYPES.keys()
    if missing or unknown:
        names = ", ".join(sorted(missing or unknown))[:200]
        raise ValueError(f"the event lacks {names}" if missing else f"the event has the unknown keys {names}")
    event = RankEvent(**{name: _field(name, value) for name, value in row.items()})
    count = len(event.rows)
    if len(event.offers) != DIGEST_BYTES * count or not len(event.probabilities) == 4 * len(event.ranking) == 8 * count:
        raise ValueError("the event's actions, probabilities and ranking differ in their number")
    if any(row_digest(row) != event.offers[DIGEST_BYTES * at :][:DIGEST_BYTES] for at, row in enumerate(event.rows)):
        raise ValueError("an action of the event is damaged")
    return event


def _field(name: str, value: Any) -> Any:
    value = typed_field(name, value, _TYPES[name])
    if name == "rows":
        if not all(isinstance(row, str) for row in value):
            raise ValueError("rows is not a list of texts")
        return tuple(value)
    return value
