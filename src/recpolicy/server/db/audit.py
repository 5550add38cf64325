"""The audit: one line per change by an operator or the server itself, with actor and time."""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select

from recpolicy.server.db.events import now_ms
from recpolicy.server.db.schema import audit

SERVER = "server"
"""The actor of the server's own changes."""


def write_audit(connection: Connection, actor: str, action: str, detail: Mapping[str, Any]) -> None:
    """Write a line; the caller commits it together with the change."""
    row = {"time": now_ms(), "actor": actor, "action": action, "detail": json.dumps(dict(detail), sort_keys=True)}
    connection.execute(insert(audit).values(row))


def latest(connection: Connection, count: int) -> list[dict[str, Any]]:
    """Return the last `count` lines, newest first."""
    rows = connection.execute(select(audit).order_by(audit.c.seq.desc()).limit(count)).mappings()
    return [{**row, "detail": json.loads(row["detail"])} for row in rows]
