"""Opening and closing the state of a server process.

Under the state folder lie server.db (unless RECPOLICY_DATABASE_URL names another database), spool/ and, for a server
of a single trained policy, a registry that holds it as version 1.
"""

import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from recpolicy.core.errors import ArtifactError
from recpolicy.inference.artifact import MANIFEST, manifest_digest
from recpolicy.inference.scorer import load_scorer
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db import versions
from recpolicy.server.db.engine import open_store, sqlite_url
from recpolicy.server.db.schema import rollouts
from recpolicy.server.db.spool import Spool
from recpolicy.server.db.writer import GroupCommitWriter
from recpolicy.server.deps import AppState, Store
from recpolicy.server.live_models import LiveState, LoadedVersion, ModelManager, ReloadHooks
from recpolicy.server.metrics import Metrics
from recpolicy.server.online.checkpoint import CURRENT, folder_of
from recpolicy.server.online.learner import with_latest_checkpoint
from recpolicy.server.settings import Settings

DATABASE_URL = "RECPOLICY_DATABASE_URL"


def state_folder(source: Path) -> Path:
    """Where the server of a run or a registry keeps its state when it is not told."""
    return source.with_name(f"{source.name}.serve") if is_run(source) else source


def is_run(source: Path) -> bool:
    """Whether the folder is one trained policy; else it should be a registry."""
    return (source / MANIFEST).is_file()


def registry_of(source: Path, folder: Path) -> Registry:
    """The registry to serve: `source` itself, or one in `folder` whose champion is the policy in `source`."""
    if not is_run(source):
        registry = Registry(source)
        registry.aliases()  # raises for what is none
        return registry
    registry = Registry(folder / "registry")
    version = registry.register(source)
    if registry.aliases()["champion"] is None:
        registry.promote(version.number)
    return registry


def champion_mismatch_notice(state: AppState, source: Path) -> str | None:
    """What to tell somebody who serves a run while the state folder, used before, has another champion."""
    registry, number = state.policies.registry, state.policies.live.champion.number
    if registry is None or number is None or not is_run(source):
        return None
    digest = manifest_digest(source)
    here = next((version for version in registry.versions() if version.digest == digest), None)
    if here is None or here.number == number:
        return None
    return (
        f"{source} is version {here.number} here; version {number} still serves: recpolicy admin promote {here.number}"
    )


@contextmanager
def open_state(source: Path, folder: Path | None, settings: Settings) -> Iterator[AppState]:
    """The state of a server of a run or registry, closed at the end: what was taken in is written.

    Raises ArtifactError, ConfigError or StoreError for what cannot be served or opened.
    """
    folder = folder or state_folder(source)
    registry = registry_of(source, folder)
    engine = open_store(os.environ.get(DATABASE_URL) or sqlite_url(folder / "server.db"))
    try:
        found = registry.versions()
        versions.refuse_another_registry(engine, found)
        versions.keep(engine, found)
        policies = ModelManager.from_registry(registry, _beside(engine, folder, settings))
        holder: list[AppState] = []
        with closing(GroupCommitWriter(engine, Spool(folder / "spool"), lambda: holder[0].rules())) as writer:
            holder.append(AppState(policies, Store(engine, writer), settings, Metrics(), folder))
            yield holder[0]
    finally:
        engine.dispose()


def stateless_state(source: Path, settings: Settings) -> AppState:
    """The state of a server that keeps nothing: a run, or the champion of a registry as it is now."""
    if not source.is_dir():
        raise ArtifactError(f"{source}: no such folder; expected a run or a registry")
    if not is_run(source):
        return AppState(ModelManager.from_registry(Registry(source)), None, settings, Metrics())
    return AppState(ModelManager(LiveState(LoadedVersion(load_scorer(source), None))), None, settings, Metrics())


def _beside(engine: Engine, folder: Path, settings: Settings) -> ReloadHooks:
    """Where rollouts and what was learnt are looked up."""

    def rollout(number: int) -> int | None:
        return running_rollout(engine, number)

    if not settings.online.enabled:
        return ReloadHooks(rollout)
    return ReloadHooks(
        rollout,
        partial(with_latest_checkpoint, folder),
        lambda scorer: (folder_of(folder, scorer.metadata["content"]) / CURRENT,),
    )


def running_rollout(engine: Engine, challenger: int) -> int | None:
    """The number of a challenger's rollout under way; None where there is none, or the database does not answer."""
    wanted = select(rollouts.c.id).where(rollouts.c.challenger == challenger, rollouts.c.state == "running")
    try:
        with engine.connect() as connection:
            return connection.scalar(wanted.order_by(rollouts.c.id.desc()))
    except SQLAlchemyError:
        return None
