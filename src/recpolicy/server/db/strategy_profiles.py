"""Profiles of users who agreed that the server keeps them: the traits, once per user.

Traits are sensitive. They are in this table and in events only, never in metrics or logs, and the erasure of a user
deletes them. The caller of a function that takes a connection commits.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select

from recpolicy.server.db.engine import upsert
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.schema import strategy_profiles


@dataclass(frozen=True)
class StoredProfile:
    """A profile with the times of its first and last storage, in milliseconds since 1970."""

    profile: Mapping[str, float]
    created_at: int
    changed_at: int


def put_profile(connection: Connection, user_key: str, profile: Mapping[str, float]) -> StoredProfile:
    """Store or replace a user's profile."""
    now = now_ms()
    row = {"user_key": user_key, "profile": json.dumps(dict(profile)), "created_at": now, "changed_at": now}
    insert = upsert(connection.dialect.name, strategy_profiles).values(row)
    new = {"profile": insert.excluded.profile, "changed_at": insert.excluded.changed_at}
    connection.execute(insert.on_conflict_do_update(index_elements=["user_key"], set_=new))
    stored = get_profile(connection, user_key)
    assert stored is not None
    return stored


def get_profile(connection: Connection, user_key: str) -> StoredProfile | None:
    """Return a user's profile; None without one."""
    columns = strategy_profiles.c
    query = select(columns.profile, columns.created_at, columns.changed_at).where(columns.user_key == user_key)
    row = connection.execute(query).first()
    return None if row is None else StoredProfile(json.loads(row.profile), row.created_at, row.changed_at)


def delete_profile(connection: Connection, user_key: str) -> int:
    """Delete a user's profile; return 1, or 0 without one."""
    return connection.execute(delete(strategy_profiles).where(strategy_profiles.c.user_key == user_key)).rowcount
