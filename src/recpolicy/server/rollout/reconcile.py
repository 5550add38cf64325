"""Making the registry what the row of a rollout says, and noticing what was changed there by hand.

Everything here may be done twice: a process that was killed between row and registry leaves a row that is not settled,
and the next check settles it.
"""

from dataclasses import replace
from typing import Any

from recpolicy.core.config import build
from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.registry.aliases import Routing
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db import rollouts
from recpolicy.server.db.audit import note
from recpolicy.server.db.clock import now_ms
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.rollouts import Rollout
from recpolicy.server.deps import AppState
from recpolicy.server.rollout.rollout_plan import RolloutConfig


def reconcile(state: AppState, row: Rollout, actor: str) -> Rollout:
    """Bring a stage or an end into the registry, then note that it is there. Hold the turn.

    A version that cannot be served any more ends the rollout.
    """
    registry = state.policies.registry
    assert registry is not None
    told = {"rollout": row.id, "actor": actor, "reason": row.reason}
    if row.state == "running":
        row = _begin_stage(state, registry, row, told)
    if row.state != "running":
        row = _bring_end(state, registry, row, told)
        state.policies.refresh()
    changes: dict[str, Any] = {"stage_at": now_ms()} if row.state == "running" else {"ended_at": now_ms()}
    with transaction(state.require_store().engine) as connection:
        rollouts.move(connection, row, **changes)
    return replace(row, **changes)


def manual_override(routing: Routing, row: Rollout) -> tuple[str, str] | None:
    """How and why a settled rollout is over, where somebody changed the registry by hand; None where nobody did."""
    if routing.champion == row.challenger:
        return "promoted", "promoted by hand"
    if routing.champion != row.champion:
        return "stopped", f"version {routing.champion} was made champion by hand"
    if routing.challenger != row.challenger:
        return "stopped", "the challenger was withdrawn by hand"
    return None


def traffic_override(routing: Routing, row: Rollout, config: RolloutConfig) -> str | None:
    """Why the rollout stays where it is, while the traffic is divided otherwise than its stage says."""
    share = config.stages[row.stage]
    if routing.share == share and routing.shadow == config.shadow:
        return None
    how = "a shadow" if routing.shadow else f"{routing.share:g}"
    return f"the challenger's share was set to {how} by hand; the stage has {share:g}"


def _begin_stage(state: AppState, registry: Registry, row: Rollout, told: dict[str, Any]) -> Rollout:
    config = build(RolloutConfig, row.plan, "rollout")
    by_hand = manual_override(registry.routing(), row) if row.stage > 0 else None
    try:
        if by_hand is None:
            share = config.stages[row.stage]
            registry.set_challenger(row.challenger, share, shadow=config.shadow, note=told | {"stage": row.stage})
            state.policies.refresh()
            return row
    except (ArtifactError, ConfigError) as error:
        by_hand = "rolled_back", str(error)
    return _ended(state, row, *by_hand)


def _bring_end(state: AppState, registry: Registry, row: Rollout, told: dict[str, Any]) -> Rollout:
    routing = registry.routing()
    if row.state == "promoted" and routing.champion == row.champion:
        try:
            registry.promote(row.challenger, note=told)
            return row
        except ArtifactError as error:  # it was damaged since
            row = _ended(state, row, "rolled_back", str(error))
    if routing.challenger == row.challenger:
        registry.clear_challenger(note=told | {"reason": row.reason})
    return row


def _ended(state: AppState, row: Rollout, how: str, reason: str) -> Rollout:
    with transaction(state.require_store().engine) as connection:
        rollouts.move(connection, row, state=how, reason=reason)
        note(connection, "server", f"rollout_{how}", {"rollout": row.id, "reason": reason})
    return replace(row, state=how, reason=reason)
