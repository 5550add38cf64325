"""Deletion of events with their feedback, rewards and signals: those older than a time, or all of one user.

Each batch of events is a transaction of its own, so the writer waits for one batch at most. A killed deletion has
deleted whole events, and the next run continues. SQLite reuses the space of deleted rows, and the file keeps its size.
"""

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from time import perf_counter, sleep
from typing import Any

from sqlalchemy import Connection, Engine, and_, delete, or_, select

from recpolicy.core.errors import StoreError
from recpolicy.server.db.engine import CommitLock, transaction, transaction_on
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.rank_deletion import (
    NextIds,
    delete_ranks,
    delete_unoffered_actions,
    delete_unused_actions,
    delete_user_ranks,
    old_ranks,
)
from recpolicy.server.db.schema import STRATEGY, events, feedback, rewards, rollouts
from recpolicy.server.db.strategy_profiles import delete_profile
from recpolicy.server.db.user_ratings import delete_ratings, delete_user_ratings, old_ratings

EVENTS_AT_ONCE = 500
"""Events of one transaction: about 20 ms of the writer's time on a 2-core machine."""


@dataclass(frozen=True)
class Deleted:
    """The number of deleted rows by table."""

    events: int = 0
    feedback: int = 0
    rewards: int = 0
    ranks: int = 0
    """Ranked events, each slot as one."""
    signals: int = 0
    """Signals on ranked events."""
    actions: int = 0
    """Actions that no ranked event offers any more."""
    profiles: int = 0
    """Profiles for strategies."""
    user_ratings: int = 0
    """Ratings that moved the posterior of their user."""

    def __add__(self, other: "Deleted") -> "Deleted":
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return Deleted(*(mine + theirs for mine, theirs in pairs))


def delete_before(
    engine: Engine, time: int, stopping: Callable[[], bool] = lambda: False, at_once: int = EVENTS_AT_ONCE
) -> Deleted:
    """Delete events before a time (milliseconds since 1970), and ratings of users that came before it.

    Events of a running rollout stay until it ends.

    Args:
        engine: The store.
        time: Time of the oldest event that stays.
        stopping: Returns True to end after the current batch.
        at_once: Events of one transaction.
    """
    running = select(rollouts.c.id).where(rollouts.c.state == "running")
    old = and_(events.c.time < time, or_(events.c.rollout.is_(None), events.c.rollout.not_in(running)))
    oldest = select(events.c.id).where(old).order_by(events.c.time).limit(at_once).with_for_update()

    def next_ids(connection: Connection) -> Sequence[str]:
        return connection.scalars(oldest).all()

    stopped = False

    def stop() -> bool:
        nonlocal stopped
        stopped = stopped or stopping()
        return stopped

    deleted = _delete(engine, next_ids, stop)
    if not stopped:
        deleted += _delete(engine, old_ranks(time, at_once), stop, _delete_ranks)
    if not stopped:
        deleted += _delete(engine, old_ratings(time, at_once), stop, _delete_ratings)
    return deleted if stopped else deleted + Deleted(actions=delete_unused_actions(engine, time, stop))


def delete_all_ranks(engine: Engine, at_once: int = EVENTS_AT_ONCE) -> Deleted:
    """Delete all ranked events with their signals and actions."""
    deleted = _delete(engine, old_ranks(now_ms() + 1, at_once), delete_some=_delete_ranks)
    return deleted + Deleted(actions=delete_unoffered_actions(engine))


def delete_user(engine: Engine, user_key: str, at_once: int = EVENTS_AT_ONCE) -> Deleted:
    """Delete all events and ratings of a user. Their bytes may stay in the files of SQLite until `rewrite_file`."""
    with engine.connect() as connection:  # no index: one pass over the events, which delays no writer
        if engine.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        mine = list(connection.scalars(select(events.c.id).where(events.c.user_key == user_key)))
    starts = iter(range(0, len(mine), at_once))

    def next_ids(connection: Connection) -> Sequence[str]:
        start = next(starts, len(mine))
        wanted = select(events.c.id).where(events.c.id.in_(mine[start : start + at_once])).with_for_update()
        return connection.scalars(wanted).all() if start < len(mine) else []

    with transaction(engine) as connection:
        profiles = delete_profile(connection, user_key)
    ranks, signals, actions = delete_user_ranks(engine, user_key)
    deleted = _delete(engine, next_ids) + Deleted(ranks=ranks, signals=signals, actions=actions, profiles=profiles)
    with transaction(engine) as connection:  # after the events: without them, no feedback adds a rating
        return deleted + Deleted(user_ratings=delete_user_ratings(connection, user_key))


def delete_user_strategies(engine: Engine, user_key: str) -> int:
    """Delete the strategy events of a user, which may hold the traits; return their number."""
    return delete_user_ranks(engine, user_key, STRATEGY)[0]


def rewrite_file(engine: Engine) -> None:
    """Rewrite the file of an SQLite database and empty its log, so that no deleted row remains in a byte of them.

    PRAGMA secure_delete does not suffice: a page that was split keeps copies of rows that moved to another page.
    Writers wait until the end. PostgreSQL: does nothing.

    Raises:
        DBAPIError: The disk has no room for a second copy of the database.
        StoreError: A reader keeps the log in use.
    """
    if engine.dialect.name != "sqlite":
        return
    with closing(CommitLock(engine)) as lock, lock, engine.connect() as connection:
        connection.exec_driver_sql("VACUUM")
        if connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").scalar():  # it has waited for readers
            raise StoreError("a reader of the database keeps its log in use")


def _delete(
    engine: Engine,
    next_ids: NextIds,
    stopping: Callable[[], bool] = lambda: False,
    delete_some: Callable[[Connection, Sequence[str]], Deleted] | None = None,
) -> Deleted:
    """Delete batches of events until there are no more; pause after each for as long as it took."""
    total = Deleted()
    with closing(CommitLock(engine)) as lock, engine.connect() as connection:
        while not stopping():
            with lock, transaction_on(connection):
                start = perf_counter()
                ids = next_ids(connection)
                if not ids:
                    break
                total += (delete_some or _delete_events)(connection, ids)
            sleep(perf_counter() - start)
    return total


def _delete_events(connection: Connection, ids: Sequence[str]) -> Deleted:
    counts = [
        connection.execute(delete(table).where(column.in_(ids))).rowcount
        for table, column in ((feedback, feedback.c.event_id), (rewards, rewards.c.event_id), (events, events.c.id))
    ]
    return Deleted(events=counts[2], feedback=counts[0], rewards=counts[1])


def _delete_ranks(connection: Connection, ids: Sequence[str]) -> Deleted:
    ranks, signals = delete_ranks(connection, ids)
    return Deleted(ranks=ranks, signals=signals)


def _delete_ratings(connection: Connection, numbers: Sequence[Any]) -> Deleted:
    return Deleted(user_ratings=delete_ratings(connection, numbers))
