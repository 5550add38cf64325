"""API keys in the store: names, roles and digests, never a key. The callers commit."""

from typing import Any

from sqlalchemy import Connection, insert, select, update

from recpolicy.server.db.events import now_ms
from recpolicy.server.db.schema import api_keys

_SHOWN = (api_keys.c.name, api_keys.c.role, api_keys.c.created_at, api_keys.c.revoked_at)


def active(connection: Connection) -> list[tuple[str, str, str]]:
    """Return digest, name and role of every key that is not revoked."""
    columns = (api_keys.c.hash, api_keys.c.name, api_keys.c.role)
    rows = connection.execute(select(*columns).where(api_keys.c.revoked_at.is_(None)))
    return [(digest, name, role) for digest, name, role in rows]


def listed(connection: Connection) -> list[dict[str, Any]]:
    """Return all keys, oldest first: name, role, created_at and revoked_at (milliseconds), without their digests."""
    return [dict(row) for row in connection.execute(select(*_SHOWN).order_by(api_keys.c.id)).mappings()]


def named(connection: Connection, name: str) -> dict[str, Any] | None:
    """Return the key of a name in the format of `listed`; None if there is none."""
    row = connection.execute(select(*_SHOWN).where(api_keys.c.name == name)).mappings().first()
    return None if row is None else dict(row)


def with_digest(connection: Connection, digest: str) -> dict[str, Any] | None:
    """Return the key of a digest in the format of `listed`; None if there is none."""
    row = connection.execute(select(*_SHOWN).where(api_keys.c.hash == digest)).mappings().first()
    return None if row is None else dict(row)


def operators(connection: Connection) -> list[str]:
    """Return the names of the working operator keys; locks them until the transaction ends."""
    wanted = select(api_keys.c.name).where(api_keys.c.role == "operator", api_keys.c.revoked_at.is_(None))
    return list(connection.scalars(wanted.order_by(api_keys.c.id).with_for_update()))


def add(connection: Connection, name: str, role: str, digest: str) -> dict[str, Any]:
    """Add a key and return it in the format of `listed`. Raises IntegrityError if the name or the digest exists."""
    row = {"name": name, "role": role, "created_at": now_ms(), "revoked_at": None}
    connection.execute(insert(api_keys).values({**row, "hash": digest}))
    return row


def give_digest(connection: Connection, name: str, digest: str) -> None:
    """Replace the digest of an operator key and make the key work."""
    values = {"hash": digest, "role": "operator", "revoked_at": None}
    connection.execute(update(api_keys).where(api_keys.c.name == name).values(values))


def revoke(connection: Connection, name: str) -> None:
    """Revoke the key of a name."""
    connection.execute(update(api_keys).where(api_keys.c.name == name).values(revoked_at=now_ms()))
