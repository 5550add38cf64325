"""Opening and closing the state of a server process.

The state folder holds server.db (unless RECPOLICY_DATABASE_URL names another database) and spool/. For a server of a
single trained policy, it also holds a registry with that policy as version 1.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, select
from sqlalchemy.exc import SQLAlchemyError

from recpolicy.core.errors import ArtifactError
from recpolicy.inference.artifact_files import MANIFEST
from recpolicy.inference.feature_policy import FeaturePolicy
from recpolicy.inference.tuned_scorer import TunedScorer
from recpolicy.registry.artifact_kinds import manifest_digest
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db import admin
from recpolicy.server.db.engine import open_store, sqlite_url
from recpolicy.server.db.keyless_feedback import KeylessBound
from recpolicy.server.db.recovery import log_alert
from recpolicy.server.db.schema import rollouts
from recpolicy.server.db.spool import Spool
from recpolicy.server.db.writer import COMMIT_SECONDS, GroupCommitWriter
from recpolicy.server.deps import AppState, Store
from recpolicy.server.jobs.alerts import send_alert
from recpolicy.server.live_models import (
    LiveState,
    LoadedVersion,
    ModelManager,
    Policy,
    ReloadHooks,
    WeightExplorations,
    load_policy,
    with_guardrails,
)
from recpolicy.server.metrics import Metrics
from recpolicy.server.new_items.allocation import NewItemPlaces, allocation_path
from recpolicy.server.online.checkpoints import CURRENT, checkpoint_folder
from recpolicy.server.online.learned_policy import LearnedPolicy
from recpolicy.server.online.rank_checkpoints import rank_checkpoint_folder
from recpolicy.server.online.rank_learner import LearnedRanks
from recpolicy.server.rank.ranker import Ranker
from recpolicy.server.settings import MIB, Settings, UsersConfig
from recpolicy.server.state_files import DATABASE, make_private
from recpolicy.server.state_lock import serving
from recpolicy.server.strategies.service import StrategyService
from recpolicy.server.users.reader import UserReader
from recpolicy.server.users.service import LEARN

DATABASE_URL = "RECPOLICY_DATABASE_URL"


def state_folder(source: Path) -> Path:
    """Return the default state folder of a server: the registry itself, or RUN.server-state next to a run."""
    if not is_run(source):
        return source
    old = source.with_name(f"{source.name}.serve")  # the name in the first servers; still used if it exists
    return old if old.is_dir() else source.with_name(f"{source.name}.server-state")


def is_run(source: Path) -> bool:
    """Return True for the folder of one trained policy, False for a registry."""
    return (source / MANIFEST).is_file()


def open_registry(source: Path, folder: Path, start_uniform: bool = False) -> Registry:
    """Return the registry `source`, or one in `folder` with the policy in `source` as a version.

    The policy becomes champion if there is none yet: serving its folder is an operator's decision, so it needs no gate
    record. With `start_uniform`, an empty folder becomes a registry. Raises ArtifactError for a folder that is neither.
    """
    if not is_run(source):
        registry = Registry(source)
        if start_uniform:
            registry.create()
        registry.aliases()  # raises ArtifactError
        return registry
    registry = Registry(folder / "registry")
    version = registry.register(source)
    if registry.aliases()["champion"] is None:
        registry.promote(version.number, ungated=True)
    return registry


def champion_mismatch_notice(state: AppState, source: Path) -> str | None:
    """Return a notice if the state folder has another champion than the run in `source`."""
    registry, number = state.models.registry, state.models.live.champion.number
    if registry is None or number is None or not is_run(source):
        return None
    digest = manifest_digest(source)
    known = next((version for version in registry.versions() if version.digest == digest), None)
    if known is None or known.number == number:
        return None
    return (
        f"{source} is version {known.number}, but version {number} is the champion; to change that: recpolicy admin"
        f" promote {known.number} --ungated"
    )


@contextmanager
def open_state(source: Path, folder: Path | None, settings: Settings) -> Iterator[AppState]:
    """Open the state of a server of a run or registry; at the end, write what waits and close it.

    Raises ArtifactError, ConfigError or StoreError if the policy cannot be served or the database cannot be opened.
    """
    folder = folder or state_folder(source)
    if not is_run(source) and not settings.rank.start_uniform:
        Registry(source).aliases()  # a folder that is neither is reported before anything is written
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with serving(folder), _open_locked(source, folder, settings) as state:
        yield state


@contextmanager
def _open_locked(source: Path, folder: Path, settings: Settings) -> Iterator[AppState]:
    """Open the state in a folder that no restore is changing."""
    registry = open_registry(source, folder, settings.rank.start_uniform)
    make_private(folder, source)
    seconds = min(COMMIT_SECONDS, settings.limits.seconds / 4)
    engine = open_store(os.environ.get(DATABASE_URL) or sqlite_url(folder / DATABASE), seconds)
    try:
        registered = registry.versions()
        admin.check_same_registry(engine, registered)
        admin.add_versions(engine, registered)
        models = ModelManager.from_registry(registry, _reload_hooks(engine, folder, settings))
        holder: list[AppState] = []

        def alert(alert_type: str, message: str, metrics: Mapping[str, Any]) -> None:
            send_alert(holder[0], alert_type, message, metrics) if holder else log_alert(alert_type, message, metrics)

        spool = Spool(folder / "spool")
        with closing(GroupCommitWriter(engine, spool, lambda: holder[0].reward_rules(), alert, seconds)) as writer:
            bound = KeylessBound(settings.online.keyless_per_hour)
            strategies = StrategyService(settings.strategies, folder) if settings.strategies.enabled else None
            reader = _user_reader(engine, writer, settings.users)
            holder.append(
                AppState(
                    models, Store(engine, writer), settings, Metrics(), folder, bound, strategies=strategies,
                    user_reader=reader,
                )
            )  # fmt: skip
            holder[0].rank.remember_reward(engine)
            holder[0].rank.load(engine)
            models.on_fault = partial(send_alert, holder[0], "registry.version")
            if models.fault is not None:
                models.on_fault(models.fault)
            for name, is_alive in writer.tasks().items():
                holder[0].background.add(name, is_alive)
            with nullcontext() if reader is None else closing(reader):
                if reader is not None:
                    holder[0].background.add("user_reader", reader.is_alive)
                yield holder[0]
    finally:
        engine.dispose()


def _user_reader(engine: Engine, writer: GroupCommitWriter, config: UsersConfig) -> UserReader | None:
    """Return the started reader of the ratings of users; None if no user learns."""
    if config.mode != LEARN:
        return None
    reader = UserReader(engine, lambda: writer.down, config.cache_mib * MIB)
    reader.start()
    return reader


def stateless_state(source: Path, settings: Settings) -> AppState:
    """Return the state of a server that stores nothing: of a run, or of the present champion of a registry."""
    if not source.is_dir():
        raise ArtifactError(f"{source}: the folder does not exist; expected a run or a registry")
    if not is_run(source):
        hooks = ReloadHooks(
            uniform_first=settings.rank.start_uniform, guardrails=settings.guardrails,
            weights=WeightExplorations(settings.tuning), timeout=settings.tuning.timeout_ms / 1e3,
            candidates=settings.candidates.size,
        )  # fmt: skip
        return AppState(ModelManager.from_registry(Registry(source), hooks), None, settings, Metrics())
    policy, explorations = load_policy(source), WeightExplorations(settings.tuning)
    if isinstance(policy, TunedScorer):
        policy.max_seconds = settings.tuning.timeout_ms / 1e3
    version = LoadedVersion(policy, None, weights=explorations(policy), candidates=settings.candidates.size)
    version = with_guardrails(version, settings.guardrails)
    return AppState(ModelManager(LiveState(version)), None, settings, Metrics())


def _reload_hooks(engine: Engine, folder: Path, settings: Settings) -> ReloadHooks:
    """Return the look-ups of running rollouts, of online checkpoints and of the allocation of new items."""

    def rollout(challenger: int) -> int | None:
        return running_rollout(engine, challenger)

    start_uniform, learned, ranks = settings.rank.start_uniform, LearnedPolicy(folder), LearnedRanks(folder)
    places = NewItemPlaces(allocation_path(folder), settings.new_items) if settings.new_items.share > 0 else None
    more = () if places is None else (places.path,)
    common = ReloadHooks(
        rollout, uniform_first=start_uniform, guardrails=settings.guardrails,
        weights=WeightExplorations(settings.tuning), timeout=settings.tuning.timeout_ms / 1e3,
        candidates=settings.candidates.size,
    )  # fmt: skip
    if not settings.online.enabled:
        hooks = common
        if places is None:
            return hooks
        return replace(hooks, watched=lambda _: more, new_items=places, state=places.is_due)

    def with_updates(policy: Policy) -> Policy:
        if isinstance(policy, FeaturePolicy):
            return ranks(policy) if policy.learns_online else policy
        return policy if isinstance(policy, Ranker) else learned(policy)

    def checkpoints(policy: Policy) -> tuple[Path, ...]:
        if isinstance(policy, FeaturePolicy) and policy.learns_online:
            return (rank_checkpoint_folder(folder, policy.policy_digest) / CURRENT,)
        if isinstance(policy, Ranker):
            return ()
        return (checkpoint_folder(folder, policy.metadata["policy_digest"]) / CURRENT, *more)

    hooks = replace(common, learned=with_updates, watched=checkpoints)
    return hooks if places is None else replace(hooks, new_items=places, state=places.is_due)


def running_rollout(engine: Engine, challenger: int) -> int | None:
    """Return the id of the challenger's running rollout; None without one, or if the database does not answer."""
    query = select(rollouts.c.id).where(rollouts.c.challenger == challenger, rollouts.c.state == "running")
    try:
        with engine.connect() as connection:
            return connection.scalar(query.order_by(rollouts.c.id.desc()))
    except SQLAlchemyError:
        return None
