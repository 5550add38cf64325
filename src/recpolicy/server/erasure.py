"""Erasure of one user: from the spool, the database and the files of jobs of a server.

The spool comes first, because it does not need the database. A replay may store events that it read before, and a
request events whose contexts come from ratings that it read before. So after spooled events, and where users learn, the
database is searched once more.
"""

import shutil
import time
from dataclasses import asdict, dataclass

from sqlalchemy import Connection, func, select
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from recpolicy.core.errors import StoreError
from recpolicy.core.ids import convert_id
from recpolicy.server.db import admin
from recpolicy.server.db.deletion import delete_user, rewrite_file
from recpolicy.server.db.engine import first_line, transaction
from recpolicy.server.db.events import id_key
from recpolicy.server.db.jobs import under_way
from recpolicy.server.db.schema import events, rank_events
from recpolicy.server.db.spool_erasure import erase_from_spool
from recpolicy.server.deps import AppState
from recpolicy.server.jobs.subprocess_jobs import FOLDER

EXPORTING_JOBS = ("retrain", "evaluate", "train_strategies", "evaluate_strategies")
"""Jobs that export events to a folder of their own."""
REPLAY_SECONDS = 2.0
"""Time in which a replay stores the events that it has read, and a request the event that it computes."""


@dataclass(frozen=True)
class ErasedUser:
    """The number of erased rows, by place."""

    events: int
    feedback: int
    rewards: int
    ranks: int
    """Ranked events."""
    signals: int
    """Signals on these events."""
    actions: int
    """Actions that only these events offered."""
    profiles: int
    """Profiles for strategies."""
    user_ratings: int
    """Ratings that moved the posterior of the user."""
    spooled: int
    """Events in the spool."""
    other_id_events: int
    """Events of the same id as the other type (196 and "196"), which stay."""
    job_running: bool
    """A training or an evaluation is running and may have read the user's events."""


def erase_user(state: AppState, user: int | str, actor: str) -> ErasedUser:
    """Erase a user and write the audit line, which does not name the user.

    Raises:
        StoreError: The database does not answer; the spool is erased even then. Or all rows are deleted, but the file
            of SQLite, which may hold their bytes, could not be rewritten.
    """
    store, key = state.require_store(), id_key(user)
    assert state.folder is not None  # a server with a store has one
    spooled = erase_from_spool(state.folder / "spool", key)
    try:
        deleted = delete_user(store.engine, key)
        state.users.forget(state.models.live, key)
        if spooled or state.users.reader is not None:
            time.sleep(REPLAY_SECONDS)
            deleted += delete_user(store.engine, key)
            state.users.forget(state.models.live, key)  # a read that ran beside the first deletion kept it
        counts = {**asdict(deleted), "spooled": spooled}
        with transaction(store.engine) as connection:
            admin.write_audit(connection, actor, "erase_user", counts)
            others = _count(connection, _other_key(user))
            running = {name for name in EXPORTING_JOBS if under_way(connection, name) is not None}
    except SQLAlchemyError:
        raise StoreError(
            f"the database does not answer; {spooled} spooled events are erased, the database may still have others."
            " Erase the user again when it answers"
        ) from None
    try:
        rewrite_file(store.engine)
    except (DBAPIError, StoreError) as error:
        reason = first_line(error) if isinstance(error, DBAPIError) else str(error)
        raise StoreError(
            f"the events of the user are deleted, but the file of the database could not be rewritten ({reason}),"
            " and bytes of them may remain in it. The disk needs room for a second copy. Erase the user again"
        ) from None
    for name in set(EXPORTING_JOBS) - running:  # what a killed job left; a job that ends removes its files
        shutil.rmtree(state.folder / FOLDER / name, ignore_errors=True)
    return ErasedUser(**counts, other_id_events=others, job_running=bool(running))


def _count(connection: Connection, key: str | None) -> int:
    """Return the number of a user's events."""
    if key is None:
        return 0
    counts = (select(func.count()).where(table.c.user_key == key) for table in (events, rank_events))
    return sum(int(connection.scalar(statement) or 0) for statement in counts)


def _other_key(user: int | str) -> str | None:
    """Return the key of the id that looks the same but is of the other type; None if there is none."""
    if isinstance(user, int):
        return id_key(str(user))
    other = convert_id(user, [0])
    return None if isinstance(other, str) else id_key(other)
