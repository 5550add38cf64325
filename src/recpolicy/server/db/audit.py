"""Who did what, when: a record of every change that an operator or the server itself makes."""

import json
from collections.abc import Mapping
from typing import Any

from sqlalchemy import Connection, insert, select

from recpolicy.server.db.events import now_ms
from recpolicy.server.db.schema import audit

SERVER = "server"
"""The actor of what the server does by itself."""


def write_audit(connection: Connection, actor: str, action: str, detail: Mapping[str, Any]) -> None:
    """Write a line; the caller commits it together with what it tells of."""
    row = {"time": now_ms(), "actor": actor, "action": action, "detail": json.dumps(dict(detail), sort_keys=True)}
    connection.execute(insert(audit).values(row))


def latest(connection: Connection, count: int) -> list[dict[str, Any]]:
    """The last `count` lines, newest first."""
    rows = connection.execute(select(audit).order_by(audit.c.seq.desc()).limit(count)).mappings()
    return [{**row, "detail": json.loads(row["detail"])} for row in rows]
