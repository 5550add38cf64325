"""Rollouts in the database: one row each, the rewards of its users, and the health of its variants.

A row changes only by `move`; if several processes read the same row, one of them succeeds. At most one row is
`running`, also across processes. A change is first written here and then made in the registry. A row with stage_at = 0,
or without ended_at although it is not running, is not in the registry yet.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Connection, Row, delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError

from recpolicy.core.errors import ConfigError
from recpolicy.server.db.engine import upsert
from recpolicy.server.db.events import first_event_id, now_ms
from recpolicy.server.db.schema import rewards, rollouts, variant_health
from recpolicy.server.rollout.stage_metrics import VariantHealth, VariantStats

MINUTE_MS = 60_000


class ConflictError(ConfigError):
    """An action that is impossible in the present state, but may be possible later."""


@dataclass(frozen=True, kw_only=True)
class Rollout:
    """A row of the table."""

    id: int
    champion: int
    challenger: int
    state: str
    stage: int
    plan: Mapping[str, Any]
    started_at: int
    stage_at: int
    ended_at: int | None
    reason: str | None

    @property
    def reconciled(self) -> bool:
        """Return True if the registry agrees with the row."""
        return self.stage_at > 0 if self.state == "running" else self.ended_at is not None


def add(connection: Connection, champion: int, challenger: int, plan: Mapping[str, Any]) -> Rollout:
    """Add a running rollout in its first stage; raises ConflictError while another one runs. The caller commits."""
    row = {"champion": champion, "challenger": challenger, "state": "running", "stage": 0, "plan": json.dumps(plan)}
    statement = insert(rollouts).values(**row, started_at=now_ms(), stage_at=0).returning(rollouts)
    try:
        return _of(connection.execute(statement).one())
    except IntegrityError:
        raise ConflictError("another rollout is running; stop it first") from None


def unfinished(connection: Connection) -> Rollout | None:
    """Return the running rollout, or one whose end is not in the registry yet."""
    due = rollouts.c.ended_at.is_(None)
    row = connection.execute(select(rollouts).where(due).order_by(rollouts.c.id).limit(1)).first()
    return None if row is None else _of(row)


def latest(connection: Connection, count: int) -> list[Rollout]:
    """Return the last rollouts, newest first."""
    return [_of(row) for row in connection.execute(select(rollouts).order_by(rollouts.c.id.desc()).limit(count))]


def move(connection: Connection, seen: Rollout, **changes: Any) -> bool:
    """Change the row unless another process changed it; return True if it was changed. The caller commits."""
    same = [getattr(rollouts.c, name) == getattr(seen, name) for name in ("id", "state", "stage", "stage_at")]
    statement = update(rollouts).where(*same, rollouts.c.ended_at.is_(None)).values(**changes)
    return bool(connection.execute(statement).rowcount == 1)


def variant_stats(connection: Connection, rollout: int, since: int) -> dict[str, VariantStats]:
    """Return the users' rewards per variant, from greedy events after `since` (milliseconds)."""
    by_user = (
        select(rewards.c.variant, func.avg(rewards.c.reward).label("mean"), func.count().label("count"))
        .where(rewards.c.rollout == rollout, rewards.c.explored.is_(False), rewards.c.event_id >= first_event_id(since))
        .group_by(rewards.c.variant, rewards.c.user_key)
        .subquery()
    )
    sums = (
        func.count(),
        func.sum(by_user.c.count),
        func.sum(by_user.c.mean),
        func.sum(by_user.c.mean * by_user.c.mean),
    )
    rows = connection.execute(select(by_user.c.variant, *sums).group_by(by_user.c.variant))
    return {
        variant: VariantStats.from_sums(int(n), int(count), total, squares)
        for variant, n, count, total, squares in rows
    }


def add_health(connection: Connection, worker: str, counted: Mapping[tuple[int, str], VariantHealth]) -> None:
    """Add the counts of a process by rollout and variant. The caller commits."""
    key = {"worker": worker, "minute": now_ms() // MINUTE_MS}
    for (rollout, variant), health in counted.items():
        numbers = asdict(health)
        row = upsert(connection.dialect.name, variant_health).values(rollout=rollout, variant=variant, **key, **numbers)
        grown = {name: variant_health.c[name] + row.excluded[name] for name in numbers}
        connection.execute(
            row.on_conflict_do_update(index_elements=["rollout", "variant", "worker", "minute"], set_=grown)
        )


def health(connection: Connection, rollout: int, minutes: int | None = None) -> dict[str, VariantHealth]:
    """Return the health of the variants over all processes; only that of the last minutes if `minutes` is not None."""
    names = tuple(asdict(VariantHealth()))
    sums = [func.sum(variant_health.c[name]) for name in names]
    wanted = [variant_health.c.rollout == rollout]
    if minutes is not None:
        wanted.append(variant_health.c.minute > now_ms() // MINUTE_MS - minutes)
    query = select(variant_health.c.variant, *sums).where(*wanted).group_by(variant_health.c.variant)
    return {
        variant: VariantHealth(**dict(zip(names, values, strict=True)))
        for variant, *values in connection.execute(query)
    }


def forget_health(connection: Connection, keep: int) -> None:
    """Delete the counts of all rollouts before `keep`. The caller commits."""
    connection.execute(delete(variant_health).where(variant_health.c.rollout < keep))


def _of(row: Row[Any]) -> Rollout:
    fields = dict(row._mapping)
    return Rollout(**{**fields, "plan": json.loads(fields["plan"])})
