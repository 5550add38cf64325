"""Records of the administration: API keys, the audit of changes, and copies of the registry's versions.

A key row holds a name, a role and a digest, never the key. The audit has one line per change by an operator or the
server itself. The registry's folder is the source of truth for versions: the copies join events with the version that
produced them. A version never changes, so its row is written once. Where a function takes a connection, the caller
commits.
"""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from sqlalchemy import Connection, Engine, insert, select, update

from recpolicy.core.errors import StoreError
from recpolicy.registry.version_files import Version
from recpolicy.server.db.engine import redacted_url, transaction, upsert
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.schema import api_keys, audit, versions

SERVER = "server"
"""The actor of the server's own changes."""
_SHOWN = (api_keys.c.name, api_keys.c.role, api_keys.c.created_at, api_keys.c.revoked_at)


def active_keys(connection: Connection) -> list[tuple[str, str, str]]:
    """Return digest, name and role of every key that is not revoked."""
    columns = (api_keys.c.hash, api_keys.c.name, api_keys.c.role)
    rows = connection.execute(select(*columns).where(api_keys.c.revoked_at.is_(None)))
    return [(digest, name, role) for digest, name, role in rows]


def list_keys(connection: Connection) -> list[dict[str, Any]]:
    """Return all keys, oldest first: name, role, created_at and revoked_at (milliseconds), without their digests."""
    return [dict(row) for row in connection.execute(select(*_SHOWN).order_by(api_keys.c.id)).mappings()]


def get_key(connection: Connection, name: str) -> dict[str, Any] | None:
    """Return the key of a name in the format of `list_keys`; None if there is none."""
    row = connection.execute(select(*_SHOWN).where(api_keys.c.name == name)).mappings().first()
    return None if row is None else dict(row)


def get_key_by_digest(connection: Connection, digest: str) -> dict[str, Any] | None:
    """Return the key of a digest in the format of `list_keys`; None if there is none."""
    row = connection.execute(select(*_SHOWN).where(api_keys.c.hash == digest)).mappings().first()
    return None if row is None else dict(row)


def operator_names(connection: Connection) -> list[str]:
    """Return the names of the working operator keys; locks them until the transaction ends."""
    wanted = select(api_keys.c.name).where(api_keys.c.role == "operator", api_keys.c.revoked_at.is_(None))
    return list(connection.scalars(wanted.order_by(api_keys.c.id).with_for_update()))


def add_key(connection: Connection, name: str, role: str, digest: str) -> dict[str, Any]:
    """Add a key and return it in the format of `list_keys`. Raises IntegrityError if the name or the digest exists."""
    row = {"name": name, "role": role, "created_at": now_ms(), "revoked_at": None}
    connection.execute(insert(api_keys).values({**row, "hash": digest}))
    return row


def replace_digest(connection: Connection, name: str, digest: str) -> None:
    """Replace the digest of an operator key and make the key work."""
    values = {"hash": digest, "role": "operator", "revoked_at": None}
    connection.execute(update(api_keys).where(api_keys.c.name == name).values(values))


def revoke_key(connection: Connection, name: str) -> None:
    """Revoke the key of a name."""
    connection.execute(update(api_keys).where(api_keys.c.name == name).values(revoked_at=now_ms()))


def write_audit(connection: Connection, actor: str, action: str, detail: Mapping[str, Any]) -> None:
    """Write a line; the caller commits it together with the change."""
    row = {"time": now_ms(), "actor": actor, "action": action, "detail": json.dumps(dict(detail), sort_keys=True)}
    connection.execute(insert(audit).values(row))


def latest_audit(connection: Connection, count: int) -> list[dict[str, Any]]:
    """Return the last `count` lines, newest first."""
    rows = connection.execute(select(audit).order_by(audit.c.seq.desc()).limit(count)).mappings()
    return [{**row, "detail": json.loads(row["detail"])} for row in rows]


def add_versions(engine: Engine, registered: Iterable[Version]) -> int:
    """Write the versions that the database lacks; return their number. Raises SQLAlchemyError."""
    with engine.connect() as connection:
        known = set(connection.scalars(select(versions.c.number)))
    rows = [_row(version) for version in registered if version.number not in known]
    if rows:
        with transaction(engine) as connection:
            connection.execute(upsert(connection.dialect.name, versions).on_conflict_do_nothing(), rows)
    return len(rows)


def check_same_registry(engine: Engine, registered: Iterable[Version]) -> None:
    """Raise StoreError if the database has another policy under one of these numbers: events store only numbers."""
    with engine.connect() as connection:
        rows = connection.execute(select(versions.c.number, versions.c.digest)).all()
    known = {row.number: row.digest for row in rows}
    for version in registered:
        if known.get(version.number, version.digest) != version.digest:
            raise StoreError(
                f"{redacted_url(engine)}: version {version.number} is another policy in this database than in the"
                " registry. Either the database belongs to another registry, or the number of a removed version was"
                " used again. Use one database per registry (RECPOLICY_DATABASE_URL), and no number twice"
            )


def _row(version: Version) -> dict[str, Any]:
    plain = {name: getattr(version, name) for name in ("number", "digest", "agent", "registered_at")}
    gate = None if version.gate is None else json.dumps(version.gate, sort_keys=True)
    return {
        **plain,
        "policy_digest": version.policy_digest,
        "lineage": json.dumps(version.lineage, sort_keys=True),
        "gate": gate,
    }
