"""What an operator changes of who serves whom: made in the registry, taken over by this process, noted in the store.

The registry is the truth and has an audit of its own, so that a change does not wait for the database: a roll-back
works while that is down, and only the store's line about it is missing then. A rollout under way notices by itself
what is changed by hand.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict
from time import perf_counter
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.registry.model_registry import Registry
from recpolicy.server.auth.keys import Caller
from recpolicy.server.db import audit, versions
from recpolicy.server.db.engine import transaction
from recpolicy.server.deps import AppState

logger = logging.getLogger(__name__)

Change = Callable[[Registry, Mapping[str, Any]], Mapping[str, Any]]
"""Makes a change with a note of who asked for it; returns what the audit tells of it."""


def registry_of(here: AppState) -> Registry:
    """The registry that is served; raises HTTPException 409 where the server has none."""
    if here.policies.registry is None:
        raise HTTPException(409, "this server has no registry; serve one, or a run without --no-store")
    return here.policies.registry


def change(here: AppState, caller: Caller, action: str, make: Change) -> dict[str, Any]:
    """Make a change and take it over; returns who serves whom now, and the milliseconds that it took.

    Raises ConfigError for what cannot be, HTTPException 409 for a version that is damaged.
    """
    registry, begun = registry_of(here), perf_counter()
    try:
        detail = make(registry, {"by": caller.name})
        here.policies.refresh()
    except ArtifactError as error:
        raise HTTPException(409, str(error)) from None
    took = 1e3 * (perf_counter() - begun)
    note(here, caller, action, detail)
    return {"routing": routing(registry), "ms": round(took, 3)}


def routing(registry: Registry) -> dict[str, Any]:
    """Who serves whom, as answers tell it."""
    return {**asdict(registry.routing()), "previous": registry.aliases()["previous"]}


def note(here: AppState, caller: Caller, action: str, detail: Mapping[str, Any]) -> None:
    """Write the store's audit line; the change stands where the database does not take it."""
    _in_store(here, lambda store: _note(store, caller, action, detail))


def remember(here: AppState) -> None:
    """Let the store know the registry's versions, when it answers."""
    registry = registry_of(here)
    _in_store(here, lambda store: versions.keep(store.engine, registry.versions()))


def promote(number: int) -> Change:
    """Make a version the champion. One that does not load is refused before anything moves."""

    def make(registry: Registry, by: Mapping[str, Any]) -> Mapping[str, Any]:
        from recpolicy.inference.scorer import load_scorer

        load_scorer(registry.resolve(number))
        before = registry.routing().champion
        registry.promote(number, note=by)
        return {"number": number, "from": before}

    return make


def roll_back(registry: Registry, by: Mapping[str, Any]) -> Mapping[str, Any]:
    """Withdraw the challenger or, without one, go back to the champion before this one."""
    before = registry.routing()
    version = registry.roll_back(note=by)
    return {"number": version.number, "from": before.champion, "challenger": before.challenger}


def divide(number: int | None, share: float | None, shadow: bool | None) -> Change:
    """Let a version answer a share of the users; what is None stays as it is."""

    def make(registry: Registry, by: Mapping[str, Any]) -> Mapping[str, Any]:
        from recpolicy.inference.scorer import load_scorer

        now = registry.routing()
        chosen = now.challenger if number is None else number
        if chosen is None:
            raise ConfigError("there is no challenger whose share could change; name a version")
        load_scorer(registry.resolve(chosen))
        same = chosen == now.challenger
        new_share = share if share is not None else (now.share if same else 0.0)
        new_shadow = shadow if shadow is not None else (same and now.shadow)
        registry.set_challenger(chosen, new_share, shadow=new_shadow, note=by)
        return {"number": chosen, "share": new_share, "shadow": new_shadow}

    return make


def withdraw(registry: Registry, by: Mapping[str, Any]) -> Mapping[str, Any]:
    """Let the champion answer everybody."""
    before = registry.routing().challenger
    registry.clear_challenger(note=by)
    return {"number": before}


def explore(on: bool) -> Change:
    """Let slates be drawn to learn, or not."""

    def make(registry: Registry, by: Mapping[str, Any]) -> Mapping[str, Any]:
        (registry.resume_exploration if on else registry.pause_exploration)(note=by)
        return {}

    return make


def _note(store: Any, caller: Caller, action: str, detail: Mapping[str, Any]) -> None:
    with transaction(store.engine) as connection:
        audit.note(connection, caller.name, action, detail)


def _in_store(here: AppState, do: Callable[[Any], Any]) -> Any:
    if here.store is None:
        return None
    try:
        return do(here.store)
    except SQLAlchemyError as error:
        logger.error("the database did not answer; the registry has the change: %s", type(error).__name__)
        return None
