"""Deletion of ranked events with their signals, and of actions that no event offers any more."""

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, Engine, delete, select

from recpolicy.server.db.engine import transaction
from recpolicy.server.db.rank_events import DIGEST_BYTES, REFRESH_MS
from recpolicy.server.db.schema import action_rows, rank_events, rank_signals

_ACTIONS_AT_ONCE = 5_000
_ROWS_AT_ONCE = 2_000

NextIds = Callable[[Connection], Sequence[str]]


def old_ranks(time: int, at_once: int) -> NextIds:
    """Return a function that gives the ids of some ranked events before a time (milliseconds since 1970)."""
    oldest = select(rank_events.c.id).where(rank_events.c.time < time).order_by(rank_events.c.time)
    return lambda connection: connection.scalars(oldest.limit(at_once).with_for_update()).all()


def delete_ranks(connection: Connection, ids: Sequence[str]) -> tuple[int, int]:
    """Delete ranked events, all slots of each, and their signals; return the numbers of both. The caller commits."""
    signals = connection.execute(delete(rank_signals).where(rank_signals.c.event_id.in_(ids))).rowcount
    return connection.execute(delete(rank_events).where(rank_events.c.id.in_(ids))).rowcount, signals


def delete_unused_actions(engine: Engine, time: int, stopping: Callable[[], bool]) -> int:
    """Delete the actions that no event after a time offers; return their number.

    An action's time of use lies at most an hour before that of its last event, so no event loses an action.
    """
    unused = select(action_rows.c.digest).where(action_rows.c.last_used < time - REFRESH_MS).limit(_ACTIONS_AT_ONCE)
    count, deleted = 0, _ACTIONS_AT_ONCE
    while deleted == _ACTIONS_AT_ONCE and not stopping():
        with transaction(engine) as connection:
            old = action_rows.c.last_used < time - REFRESH_MS
            deleted = connection.execute(delete(action_rows).where(action_rows.c.digest.in_(unused), old)).rowcount
        count += deleted
    return count


def delete_user_ranks(engine: Engine, user_key: str, task: str | None = None) -> tuple[int, int, int]:
    """Delete the ranked events of a user, their signals, and the actions that nobody else was offered.

    It is one transaction that keeps other processes from storing ranks meanwhile; what they rank goes to the spool if
    that takes longer than a commit may. With a task, only its events are deleted.

    Returns:
        The numbers of events, signals and actions.
    """
    with transaction(engine) as connection:
        if engine.dialect.name == "postgresql":  # one pass over the events, without an index by user
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        ids, offered = [], set()
        columns = rank_events.c
        mine = [columns.user_key == user_key, *([] if task is None else [columns.task == task])]
        for row in connection.execute(select(columns.id, columns.offers).where(*mine)):
            ids.append(row.id)
            offered |= _digests(row.offers)
        if not ids:
            return 0, 0, 0
        _lock_actions(connection)
        counts = [delete_ranks(connection, ids[start : start + 500]) for start in range(0, len(ids), 500)]
        actions = _delete_actions(connection, offered - _offered(connection))
        return sum(events for events, _ in counts), sum(signals for _, signals in counts), actions


def delete_unoffered_actions(engine: Engine) -> int:
    """Delete the actions that no event offers, also those of the last hour; return their number."""
    with transaction(engine) as connection:
        _lock_actions(connection)
        known = {bytes(digest) for digest in connection.scalars(select(action_rows.c.digest))}
        return _delete_actions(connection, known - _offered(connection))


def _lock_actions(connection: Connection) -> None:
    """Keep other processes from storing events until the end of the transaction, as SQLite does anyway."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        connection.exec_driver_sql("LOCK TABLE action_rows IN EXCLUSIVE MODE")


def _offered(connection: Connection) -> set[bytes]:
    """Return the digests of all actions that an event offers."""
    offered: set[bytes] = set()
    rows = connection.execute(select(rank_events.c.offers), execution_options={"yield_per": _ROWS_AT_ONCE})
    for part in rows.scalars().partitions():
        offered.update(*map(_digests, part))
    return offered


def _delete_actions(connection: Connection, digests: set[bytes]) -> int:
    some = sorted(digests)
    parts = (some[start : start + 500] for start in range(0, len(some), 500))
    return sum(connection.execute(delete(action_rows).where(action_rows.c.digest.in_(part))).rowcount for part in parts)


def _digests(offers: bytes) -> set[bytes]:
    return {bytes(offers[start : start + DIGEST_BYTES]) for start in range(0, len(offers), DIGEST_BYTES)}
