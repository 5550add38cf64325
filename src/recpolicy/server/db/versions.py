"""Versions in the database: a copy of the registry's records, to join events with the version that produced them.

The registry's folder is the source of truth. A version never changes, so a row is written once and stays valid.
"""

import json
from collections.abc import Iterable
from typing import Any

from sqlalchemy import Connection, Engine, select

from recpolicy.core.errors import StoreError
from recpolicy.registry.version_files import Version, migrate_gate
from recpolicy.server.db.engine import redacted_url, transaction, upsert
from recpolicy.server.db.schema import versions


def add_versions(engine: Engine, found: Iterable[Version]) -> int:
    """Write the versions that the database lacks; return their number. Raises SQLAlchemyError."""
    with engine.connect() as connection:
        known = set(connection.scalars(select(versions.c.number)))
    rows = [_row(version) for version in found if version.number not in known]
    if rows:
        with transaction(engine) as connection:
            connection.execute(upsert(connection, versions).on_conflict_do_nothing(), rows)
    return len(rows)


def check_same_registry(engine: Engine, found: Iterable[Version]) -> None:
    """Raise StoreError if the database has another policy under one of these numbers: events store only numbers."""
    with engine.connect() as connection:
        rows = connection.execute(select(versions.c.number, versions.c.digest)).all()
    known = {row.number: row.digest for row in rows}
    for version in found:
        if known.get(version.number, version.digest) != version.digest:
            raise StoreError(
                f"{redacted_url(engine)}: its version {version.number} is another policy than this registry's: it"
                " belongs to another registry, or a version was removed and its number given again; give each registry"
                " a separate database (RECPOLICY_DATABASE_URL), and never give a number twice"
            )


def list_versions(connection: Connection) -> list[dict[str, Any]]:
    """Return all rows, oldest first, with their original lineage and gate record."""
    rows = connection.execute(select(versions).order_by(versions.c.number)).mappings()
    return [
        {
            **row,
            "lineage": json.loads(row["lineage"]),
            "gate": None if row["gate"] is None else migrate_gate(json.loads(row["gate"])),
        }
        for row in rows
    ]


def _row(version: Version) -> dict[str, Any]:
    plain = {name: getattr(version, name) for name in ("number", "digest", "agent", "registered_at")}
    gate = None if version.gate is None else json.dumps(version.gate, sort_keys=True)
    return {
        **plain,
        "policy_digest": version.policy_digest,
        "lineage": json.dumps(version.lineage, sort_keys=True),
        "gate": gate,
    }
