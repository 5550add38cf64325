"""Starting, stopping and looking at rollouts. What moves them on by itself is check.py.

A change is written to the store first, with its audit line, and then made in the registry (settling.py). Whoever
changes a rollout holds a lock beside the registry, and the row must still be the one that was seen.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy.exc import SQLAlchemyError

from recpolicy.core.config import as_dict, build
from recpolicy.core.errors import ArtifactError, ConfigError, StoreError
from recpolicy.registry.model_registry import Registry
from recpolicy.registry.version_files import damage_of
from recpolicy.server.db import rollouts
from recpolicy.server.db.audit import note
from recpolicy.server.db.clock import now_ms
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.rollouts import ConflictError, Rollout
from recpolicy.server.deps import AppState
from recpolicy.server.rollout.reconcile import reconcile, traffic_override
from recpolicy.server.rollout.rollout_plan import Decision, RolloutConfig, decide
from recpolicy.server.rollout.stage_metrics import StageMetrics, compute_stage_metrics

logger = logging.getLogger(__name__)

SETTLE_MS = 2_000
"""Events of the first moments of a stage do not count: other processes may still divide the users as before."""
_HEALTH_KEPT = 20
"""Rollouts whose counts are kept."""
_TURN_SECONDS = 10.0


@dataclass(frozen=True)
class Status:
    """A running rollout as it is now."""

    rollout: Rollout
    figures: StageMetrics
    decision: Decision
    """What the next check would do, and why."""


def start(
    state: AppState, challenger: int | str, actor: str, plan: Mapping[str, Any] | None = None, *, force: bool = False
) -> Rollout:
    """Begin the first stage; `plan` replaces some of the settings [rollout].

    Raises ConflictError for the champion, for a version whose gate failed (but with `force`) and while another rollout
    runs; ConfigError for a version that is not there or a plan that cannot be; ArtifactError for a damaged version.
    """
    registry, engine = serving_registry(state), state.require_store().engine
    config = build(RolloutConfig, {**as_dict(state.settings.rollout), **(plan or {})}, "rollout")
    with rollout_lock(registry):
        _finish_what_was_begun(state)
        champion, number = _resolve_versions(registry, challenger, force)
        with transaction(engine) as connection:
            row = rollouts.add(connection, champion, number, as_dict(config))
            rollouts.forget_health(connection, row.id - _HEALTH_KEPT)
            told = {"rollout": row.id, "champion": champion, "challenger": number, "plan": as_dict(config)}
            note(connection, actor, "start_rollout", told | ({"forced": True} if force else {}))
        return reconcile(state, row, actor)


def stop(state: AppState, actor: str, reason: str = "stopped by hand") -> Rollout:
    """Have the champion serve all: at once, and whether or not the database answers. Returns the rollout that ended.

    Raises ConflictError where none runs, StoreError where the challenger was withdrawn, but that could not be noted (it
    is by the next check).
    """
    registry, engine = serving_registry(state), state.require_store().engine
    told = {"actor": actor, "reason": reason}
    try:
        with engine.connect() as connection:
            row = rollouts.unfinished(connection)
        if row is None or row.state != "running":
            raise ConflictError("no rollout is running")
        registry.clear_challenger(note=told | {"rollout": row.id})
        state.policies.refresh()
        with rollout_lock(registry), transaction(engine) as connection:
            now = rollouts.unfinished(connection)
            if now is not None and now.id == row.id and now.state == "running":
                changes = {"state": "stopped", "reason": reason, "ended_at": now_ms()}
                rollouts.move(connection, now, **changes)
                note(connection, actor, "stop_rollout", {"rollout": row.id, "reason": reason})
            return next(one for one in rollouts.latest(connection, 1))
    except SQLAlchemyError as error:
        registry.clear_challenger(note=told)
        state.policies.refresh()
        raise StoreError(
            f"the challenger was withdrawn, but the database does not answer ({type(error).__name__}); it will be noted"
        ) from None


def status(state: AppState) -> Status | None:
    """The rollout that runs, with its figures; None where none does."""
    with state.require_store().engine.connect() as connection:
        row = rollouts.unfinished(connection)
    if row is None or row.state != "running":
        return None
    config = build(RolloutConfig, row.plan, "rollout")
    figures = current_metrics(state, row, config)
    if not row.reconciled:
        return Status(row, figures, Decision("wait", "the stage begins with the next check"))
    decision = decide(figures, row.stage, config)
    held = traffic_override(serving_registry(state).routing(), row, config)
    if held is not None and decision.action != "roll_back":
        decision = Decision("wait", held)
    return Status(row, figures, decision)


def current_metrics(state: AppState, row: Rollout, config: RolloutConfig) -> StageMetrics:
    """The figures of a rollout's stage."""
    with state.require_store().engine.connect() as connection:
        groups = rollouts.groups(connection, row.id, row.stage_at + SETTLE_MS) if row.reconciled else {}
        health = rollouts.health(connection, row.id, config.window_minutes)
    hours = max(now_ms() - row.stage_at, 0) / 3.6e6 if row.reconciled else 0.0
    return compute_stage_metrics(groups, health, hours, config.stage_level, config.min_users)


def end(
    state: AppState, row: Rollout, how: str, actor: str, reason: str, figures: StageMetrics | None = None
) -> Rollout | None:
    """End a rollout: promoted, rolled_back or stopped; None where somebody else changed it. Hold the turn."""
    told = {"rollout": row.id, "champion": row.champion, "challenger": row.challenger, "reason": reason}
    with transaction(state.require_store().engine) as connection:
        if not rollouts.move(connection, row, state=how, reason=reason):
            return None
        note(connection, actor, f"rollout_{how}", told | ({"figures": figures.shown()} if figures else {}))
    logger.info("rollout %d: %s: %s", row.id, how, reason)
    return reconcile(state, replace(row, state=how, reason=reason), actor)


def advance(state: AppState, row: Rollout, actor: str, reason: str, figures: StageMetrics) -> Rollout | None:
    """Begin the next stage; None where somebody else changed the rollout. Hold the turn."""
    with transaction(state.require_store().engine) as connection:
        if not rollouts.move(connection, row, stage=row.stage + 1, stage_at=0):
            return None
        told = {"rollout": row.id, "stage": row.stage + 1, "reason": reason, "figures": figures.shown()}
        note(connection, actor, "rollout_advance", told)
    logger.info("rollout %d: stage %d: %s", row.id, row.stage + 1, reason)
    return reconcile(state, replace(row, stage=row.stage + 1, stage_at=0), actor)


def serving_registry(state: AppState) -> Registry:
    """The registry of the server; raises ConfigError for one without."""
    if state.policies.registry is None:
        raise ConfigError("this server serves a single policy without a registry; there is nothing to roll out")
    return state.policies.registry


@contextmanager
def rollout_lock(registry: Registry, seconds: float = _TURN_SECONDS) -> Iterator[None]:
    """One at a time, over all processes; raises StoreError where another one takes longer than that."""
    lock = FileLock(registry.folder / ".rollout.lock")
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise StoreError("another process is changing the rollout; try again") from None
    try:
        yield
    finally:
        lock.release()


def _finish_what_was_begun(state: AppState) -> None:
    """Bring an end into the registry that a killed process could only write down."""
    with state.require_store().engine.connect() as connection:
        row = rollouts.unfinished(connection)
    if row is not None and row.state == "running":
        raise ConflictError(f"rollout {row.id} of version {row.challenger} is running; stop it first")
    if row is not None:
        reconcile(state, row, "server")


def _resolve_versions(registry: Registry, challenger: int | str, force: bool) -> tuple[int, int]:
    """The numbers of champion and challenger."""
    routing, version = registry.routing(), registry.version(challenger)
    number = version.number
    if routing.champion is None:
        raise ConflictError("there is no champion to challenge; promote a version first")
    if number == routing.champion:
        raise ConflictError(f"version {number} is the champion; name another one")
    if routing.challenger not in (None, number):
        raise ConflictError(f"version {routing.challenger} was made challenger by hand; withdraw it first")
    verdict = (version.gate or {}).get("verdict")
    if verdict == "fail" and not force:
        raise ConflictError(f"version {number} did not pass its gate; `force` rolls it out nevertheless")
    damage = damage_of(registry.resolve(number).parent)
    if damage is not None:
        raise ArtifactError(f"version {number} is damaged: {damage}")
    return routing.champion, number
