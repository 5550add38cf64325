"""Operators' changes of the routing: made in the registry, loaded by this process, recorded in the database.

The registry is the source of truth and has its own audit, so a change does not wait for the database: a roll-back works
during an outage, and only the database's audit line is missing. A running rollout notices manual changes.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from time import perf_counter
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.inference.feature_artifact import is_feature_policy
from recpolicy.registry.model_registry import Registry
from recpolicy.server.auth.keys import Caller
from recpolicy.server.db import admin
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.rollouts import ConflictError
from recpolicy.server.deps import AppState, Store

logger = logging.getLogger(__name__)

RegistryAction = Callable[[Registry, Mapping[str, Any]], Mapping[str, Any]]
"""Makes a change with a note that names the operator; returns the detail of the audit line."""


_LOADS = ("promote", "roll_back", "traffic")
"""Changes that give a version a role."""


def apply(state: AppState, caller: Caller, name: str, action: RegistryAction) -> dict[str, Any]:
    """Make a change and load it; returns the new routing, and the milliseconds that it took.

    Raises ConfigError for an impossible change, HTTPException 409 for a version that is damaged or cannot answer, which
    changes nothing. Raises HTTPException 503 if a version was sound when the change was made, but could not be loaded.
    """
    registry, start = state.require_registry(), perf_counter()
    try:
        detail = action(registry, {"by": caller.name})
        state.models.refresh()
    except ArtifactError as error:
        raise HTTPException(409, str(error)) from None
    ms = 1e3 * (perf_counter() - start)
    write_audit(state, caller, name, detail)
    if name in _LOADS and state.models.fault is not None:
        raise HTTPException(503, f"the registry has the change, but {state.models.fault}")
    return {"routing": routing(registry), "ms": round(ms, 3)}


def routing(registry: Registry) -> dict[str, Any]:
    """Return the routing as responses show it."""
    return {**asdict(registry.routing()), "previous": registry.aliases()["previous"]}


def write_audit(state: AppState, caller: Caller, action: str, detail: Mapping[str, Any]) -> None:
    """Write the audit line; the change stands even if the database does not answer."""

    def write(store: Store) -> None:
        with transaction(store.engine) as connection:
            admin.write_audit(connection, caller.name, action, detail)

    _try_in_store(state, write)


def sync_versions(state: AppState) -> None:
    """Copy the registry's versions to the database if it answers."""
    registry = state.require_registry()
    _try_in_store(state, lambda store: admin.add_versions(store.engine, registry.versions()))


def promote(number: int, ungated: bool) -> RegistryAction:
    """Return the action that makes a version the champion; the registry loads and tests it first.

    With `ungated`, an operator lets it serve although it passed no gate.
    """

    def action(registry: Registry, note: Mapping[str, Any]) -> Mapping[str, Any]:
        before = registry.routing().champion
        registry.promote(number, ungated=ungated, note=note)
        return {"number": number, "from": before, **({"ungated": True} if ungated else {})}

    return action


def roll_back(registry: Registry, note: Mapping[str, Any]) -> Mapping[str, Any]:
    """Withdraw the challenger or, without one, return to the previous champion."""
    before = registry.routing()
    version = registry.roll_back(note=note)
    return {"number": version.number, "from": before.champion, "challenger": before.challenger}


def set_traffic(number: int | None, fraction: float | None, shadow: bool | None, ungated: bool) -> RegistryAction:
    """Return the action that serves a fraction of the users by a version; None leaves a value unchanged.

    With `ungated`, an operator lets it serve although it passed no gate.
    """

    def action(registry: Registry, note: Mapping[str, Any]) -> Mapping[str, Any]:
        now = registry.routing()
        challenger = now.challenger if number is None else number
        if challenger is None:
            raise ConfigError("there is no challenger; name a version")
        check_comparable(registry, now.champion, challenger)
        same = challenger == now.challenger
        new_fraction = fraction if fraction is not None else (now.traffic_fraction if same else 0.0)
        new_shadow = shadow if shadow is not None else (same and now.shadow)
        registry.set_challenger(challenger, new_fraction, shadow=new_shadow, ungated=ungated, note=note)
        detail = {"number": challenger, "traffic_fraction": new_fraction, "shadow": new_shadow}
        return detail | ({"ungated": True} if ungated else {})

    return action


def check_comparable(registry: Registry, champion: int | None, challenger: int) -> None:
    """Raise ConflictError unless champion and challenger are both policies of ratings, or both of features."""
    if champion is None:
        return
    kinds = {number: is_feature_policy(registry.resolve(number)) for number in (champion, challenger)}
    if kinds[champion] != kinds[challenger]:
        names = {True: "a policy of features", False: "a policy of ratings"}
        raise ConflictError(
            f"version {challenger} is {names[kinds[challenger]]} and the champion, version {champion}, is"
            f" {names[kinds[champion]]}; a challenger answers the same requests as the champion"
        )


def clear_challenger(registry: Registry, note: Mapping[str, Any]) -> Mapping[str, Any]:
    """Serve all users by the champion."""
    before = registry.routing().challenger
    registry.clear_challenger(note=note)
    return {"number": before}


def set_exploration(on: bool) -> RegistryAction:
    """Return the action that resumes or pauses exploration."""

    def action(registry: Registry, note: Mapping[str, Any]) -> Mapping[str, Any]:
        (registry.resume_exploration if on else registry.pause_exploration)(note=note)
        return {}

    return action


def _try_in_store(state: AppState, write: Callable[[Store], Any]) -> None:
    if state.store is None:
        return
    try:
        write(state.store)
    except SQLAlchemyError as error:
        logger.error("the registry has the change, but the database does not answer: %s", type(error).__name__)
