"""Bringing the registry to the state of a rollout's row, and noticing manual changes there.

Every function may run twice: a process that was killed between row and registry leaves a row that is not reconciled,
and the next check reconciles it.
"""

from dataclasses import replace
from typing import Any

from recpolicy.core.config import build
from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.registry.aliases import Routing
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db import rollouts
from recpolicy.server.db.admin import SERVER, write_audit
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.rollouts import Rollout
from recpolicy.server.deps import AppState
from recpolicy.server.settings import RolloutConfig


def reconcile(state: AppState, row: Rollout, actor: str) -> Rollout:
    """Apply a stage or an end to the registry, then record that it is applied. The caller holds `rollout_lock`.

    A version that can no longer be served ends the rollout.
    """
    registry = state.require_registry()
    note = {"rollout": row.id, "actor": actor, "reason": row.reason}
    if row.state == "running":
        row = _begin_stage(state, registry, row, note)
    if row.state != "running":
        row = _apply_end(state, registry, row, note)
        state.models.refresh()
    changes: dict[str, Any] = {"stage_at": now_ms()} if row.state == "running" else {"ended_at": now_ms()}
    with transaction(state.require_store().engine) as connection:
        rollouts.move(connection, row, **changes)
    return replace(row, **changes)


def manual_override(registry: Registry, row: Rollout) -> tuple[str, str] | None:
    """Return outcome and reason if a change of the registry from elsewhere ended the rollout; otherwise None."""
    routing = registry.routing()
    if routing.champion == row.challenger:
        return "promoted", f"promoted {_author(registry, 'promote')}"
    if routing.champion != row.champion:
        return "stopped", f"version {routing.champion} was made champion {_author(registry, 'promote', 'roll_back')}"
    if routing.challenger != row.challenger:
        changes = ("clear_challenger", "roll_back", "set_challenger")
        return "stopped", f"the challenger was withdrawn {_author(registry, *changes)}"
    return None


def _author(registry: Registry, *changes: str) -> str:
    """Return who made the last of these changes, as the registry's audit says: "by ann", or "in the registry"."""
    line: dict[str, Any] = next((line for line in reversed(registry.audit()) if line.get("change") in changes), {})
    author = (line.get("note") or {}).get("by")
    return "in the registry, by a command or a program" if author is None else f"by {author}"


def traffic_override(routing: Routing, row: Rollout, config: RolloutConfig) -> str | None:
    """Return the reason to wait while an operator has set other traffic than the stage; otherwise None."""
    fraction = config.stages[row.stage]
    if routing.traffic_fraction == fraction and routing.shadow == config.shadow:
        return None
    current = "shadow" if routing.shadow else f"{routing.traffic_fraction:g}"
    return f"an operator set the challenger's traffic fraction to {current}; the stage has {fraction:g}"


def _begin_stage(state: AppState, registry: Registry, row: Rollout, note: dict[str, Any]) -> Rollout:
    config = build(RolloutConfig, row.plan, "rollout")
    override = manual_override(registry, row) if row.stage > 0 else None
    try:
        if override is None:
            fraction = config.stages[row.stage]
            # The start of the rollout has checked the gate.
            registry.set_challenger(
                row.challenger, fraction, shadow=config.shadow, ungated=True, note=note | {"stage": row.stage}
            )
            state.models.refresh()
            return row
    except (ArtifactError, ConfigError) as error:
        override = "rolled_back", str(error)
    return _end_row(state, row, *override)


def _apply_end(state: AppState, registry: Registry, row: Rollout, note: dict[str, Any]) -> Rollout:
    routing = registry.routing()
    if row.state == "promoted" and routing.champion == row.champion:
        try:
            registry.promote(row.challenger, ungated=True, note=note)
            return row
        except ArtifactError as error:  # damaged since the decision
            row = _end_row(state, row, "rolled_back", str(error))
    if routing.challenger == row.challenger:
        registry.clear_challenger(note=note | {"reason": row.reason})
    return row


def _end_row(state: AppState, row: Rollout, outcome: str, reason: str) -> Rollout:
    with transaction(state.require_store().engine) as connection:
        rollouts.move(connection, row, state=outcome, reason=reason)
        write_audit(connection, SERVER, f"rollout_{outcome}", {"rollout": row.id, "reason": reason})
    return replace(row, state=outcome, reason=reason)
