"""Starting, stopping, advancing and inspecting rollouts; jobs/rollout_job.py calls these on a schedule.

A change is first written to the database with its audit line and then made in the registry (reconcile.py). The caller
of a change holds `rollout_lock`, and the row must still be the one that it read.
"""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy.exc import SQLAlchemyError

from recpolicy.core.config import as_dict, build
from recpolicy.core.errors import ArtifactError, StoreError
from recpolicy.inference.artifact import read_users
from recpolicy.inference.feature_artifact import is_feature_policy
from recpolicy.registry.model_registry import Registry
from recpolicy.registry.version_files import find_fault
from recpolicy.server.db import rollouts
from recpolicy.server.db.admin import SERVER, write_audit
from recpolicy.server.db.engine import transaction
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.rank_events import ONLINE
from recpolicy.server.db.rank_rewards import rank_variant_stats
from recpolicy.server.db.rollout_returns import VariantReturns, variant_returns
from recpolicy.server.db.rollouts import ConflictError, Rollout
from recpolicy.server.deps import AppState
from recpolicy.server.registry_actions import check_comparable
from recpolicy.server.rollout.reconcile import reconcile, traffic_override
from recpolicy.server.rollout.return_metrics import compute_return_metrics
from recpolicy.server.rollout.rollout_plan import Decision, decide
from recpolicy.server.rollout.signal_metrics import compare_signals, read_unit_signals, segments
from recpolicy.server.rollout.stage_metrics import ReturnMetrics, StageMetrics, compute_stage_metrics
from recpolicy.server.settings import RolloutConfig

logger = logging.getLogger(__name__)

SETTLE_MS = 2_000
"""Events of the first moments of a stage do not count: other processes may still divide the users as before."""
_HEALTH_KEPT = 20
"""Rollouts whose counts are kept."""
_LOCK_SECONDS = 10.0


@dataclass(frozen=True)
class RolloutStatus:
    """A running rollout at this time."""

    rollout: Rollout
    metrics: StageMetrics
    decision: Decision
    """The next check would make this decision."""


def start(
    state: AppState, challenger: int | str, actor: str, plan: Mapping[str, Any] | None = None, *, ungated: bool = False
) -> Rollout:
    """Begin the first stage of a rollout.

    Args:
        plan: settings in place of those in [rollout].
        ungated: also roll out a version that passed no gate. A shadow serves nobody and needs none.

    Raises:
        ConflictError: the version is the champion or passed no gate, or another rollout runs.
        ConfigError: an unknown version or an invalid plan.
        ArtifactError: a damaged version.
    """
    registry, engine = state.require_registry(), state.require_store().engine
    config = build(RolloutConfig, {**as_dict(state.settings.rollout), **(plan or {})}, "rollout")
    with rollout_lock(registry):
        _finish_interrupted_end(state)
        champion, number = _resolve_versions(registry, challenger, ungated or config.shadow)
        if is_feature_policy(registry.resolve(number)):
            _check_rewards_of_ranks(state, config)
        with transaction(engine) as connection:
            row = rollouts.add(connection, champion, number, as_dict(config))
            rollouts.forget_health(connection, row.id - _HEALTH_KEPT)
            detail = {"rollout": row.id, "champion": champion, "challenger": number, "plan": as_dict(config)}
            write_audit(connection, actor, "start_rollout", detail | ({"ungated": True} if ungated else {}))
        return reconcile(state, row, actor)


def stop(state: AppState, actor: str, reason: str = "stopped by an operator") -> Rollout:
    """Serve all users by the champion at once, even if the database does not answer; returns the stopped rollout.

    Raises ConflictError if none runs. Raises StoreError if the challenger was withdrawn but the database could not be
    updated; the next check does that.
    """
    registry, engine = state.require_registry(), state.require_store().engine
    detail = {"actor": actor, "reason": reason}
    try:
        with engine.connect() as connection:
            row = rollouts.unfinished(connection)
        if row is None or row.state != "running":
            raise ConflictError("no rollout is running")
        registry.clear_challenger(note=detail | {"rollout": row.id})
        state.models.refresh()
        with rollout_lock(registry), transaction(engine) as connection:
            now = rollouts.unfinished(connection)
            if now is not None and now.id == row.id and now.state == "running":
                rollouts.move(connection, now, state="stopped", reason=reason, ended_at=now_ms())
                write_audit(connection, actor, "stop_rollout", {"rollout": row.id, "reason": reason})
            return rollouts.latest(connection, 1)[0]
    except SQLAlchemyError as error:
        registry.clear_challenger(note=detail)
        state.models.refresh()
        raise StoreError(
            f"the champion serves all users, but the database does not answer ({type(error).__name__}); the next check"
            " records the stop"
        ) from None


def status(state: AppState) -> RolloutStatus | None:
    """Return the running rollout with its metrics; None without one."""
    with state.require_store().engine.connect() as connection:
        row = rollouts.unfinished(connection)
    if row is None or row.state != "running":
        return None
    config = build(RolloutConfig, row.plan, "rollout")
    metrics = current_metrics(state, row, config)
    if not row.reconciled:
        return RolloutStatus(row, metrics, Decision("wait", "the next check starts the stage"))
    return RolloutStatus(row, metrics, next_decision(state, row, config, metrics))


def current_metrics(state: AppState, row: Rollout, config: RolloutConfig) -> StageMetrics:
    """Return the metrics of a rollout's stage: of lists by the rewards of their items, of ranks by those of events."""
    since, ranks, reward = row.stage_at + SETTLE_MS, state.models.live.champion.ranks, state.rank.current.reward
    with state.require_store().engine.connect() as connection:
        if not row.reconciled:
            stats = {}
        elif ranks:
            stats = rank_variant_stats(connection, row.id, since, reward)
        else:
            stats = rollouts.variant_stats(connection, row.id, since)
        health = rollouts.health(connection, row.id, config.window_minutes)
    hours = max(now_ms() - row.stage_at, 0) / 3.6e6 if row.reconciled else 0.0
    low, high = (reward.reward_range or (0.0, 0.0)) if ranks else state.reward_rules().scale
    metrics = compute_stage_metrics(stats, health, hours, config.stage_level, config.min_users, high - low)
    if config.return_days is None or ranks:
        return metrics
    return replace(metrics, returns=_returns(state, row, config, config.return_days))


def _returns(state: AppState, row: Rollout, config: RolloutConfig, days: float) -> ReturnMetrics:
    """Return the returns of both variants in the stage."""
    gap = round(state.settings.sessions.gap_minutes * 60_000)
    stats: Mapping[str, VariantReturns] = {}
    if row.reconciled:
        with state.require_store().engine.connect() as connection:
            stats = variant_returns(connection, row.id, row.stage_at + SETTLE_MS, days, gap, now_ms())
    return compute_return_metrics(stats, days, config.stage_level, config.min_users)


def signals(state: AppState) -> list[dict[str, Any]] | None:
    """Return the signals of the running rollout's variants in its stage, by segment of users; None without one."""
    with state.require_store().engine.connect() as connection:
        row = rollouts.unfinished(connection)
        if row is None or row.state != "running" or not row.reconciled:
            return None
        units = read_unit_signals(connection, row.id, row.stage_at + SETTLE_MS)
    champion = state.models.live.champion
    if champion.ranks or champion.number is None:
        return compare_signals(units, segments(units.key))
    scorer, folder = champion.trained, state.require_registry().resolve(champion.number)
    return compare_signals(units, segments(units.key, scorer, read_users(folder, len(scorer.user_ids))))


def next_decision(state: AppState, row: Rollout, config: RolloutConfig, metrics: StageMetrics) -> Decision:
    """Return the decision for a stage; it waits while an operator has changed the traffic, but still rolls back."""
    decision = decide(metrics, row.stage, config)
    override = traffic_override(state.require_registry().routing(), row, config) or ranks_unchosen(state)
    if override is not None and decision.action != "roll_back":
        return Decision("wait", override)
    return decision


def end(
    state: AppState, row: Rollout, outcome: str, actor: str, reason: str, metrics: StageMetrics | None = None
) -> Rollout | None:
    """End a rollout as promoted, rolled_back or stopped; returns None if another process changed it.

    The caller holds `rollout_lock`.
    """
    detail = {"rollout": row.id, "champion": row.champion, "challenger": row.challenger, "reason": reason}
    with transaction(state.require_store().engine) as connection:
        if not rollouts.move(connection, row, state=outcome, reason=reason):
            return None
        detail |= {"metrics": metrics.as_dict()} if metrics else {}
        write_audit(connection, actor, f"rollout_{outcome}", detail)
    logger.info("rollout %d: %s: %s", row.id, outcome, reason)
    return reconcile(state, replace(row, state=outcome, reason=reason), actor)


def advance(state: AppState, row: Rollout, actor: str, reason: str, metrics: StageMetrics) -> Rollout | None:
    """Begin the next stage; returns None if another process changed the rollout. The caller holds `rollout_lock`."""
    with transaction(state.require_store().engine) as connection:
        if not rollouts.move(connection, row, stage=row.stage + 1, stage_at=0):
            return None
        detail = {"rollout": row.id, "stage": row.stage + 1, "reason": reason, "metrics": metrics.as_dict()}
        write_audit(connection, actor, "rollout_advance", detail)
    logger.info("rollout %d: stage %d: %s", row.id, row.stage + 1, reason)
    return reconcile(state, replace(row, stage=row.stage + 1, stage_at=0), actor)


@contextmanager
def rollout_lock(registry: Registry, seconds: float = _LOCK_SECONDS) -> Iterator[None]:
    """Hold the lock on rollouts among all processes; raises StoreError if another process holds it that long."""
    lock = FileLock(registry.folder / ".rollout.lock")
    try:
        lock.acquire(timeout=seconds)
    except Timeout:
        raise StoreError("another process is changing the rollout; try again") from None
    try:
        yield
    finally:
        lock.release()


def _finish_interrupted_end(state: AppState) -> None:
    """Complete the end of a rollout that a killed process wrote to the database only."""
    with state.require_store().engine.connect() as connection:
        row = rollouts.unfinished(connection)
    if row is not None and row.state == "running":
        raise ConflictError(f"rollout {row.id} of version {row.challenger} is running; stop it first")
    if row is not None:
        reconcile(state, row, SERVER)


def ranks_unchosen(state: AppState) -> str | None:
    """Return the reason why no version chooses among the actions of ranks, so that none can be compared; or None."""
    service, champion = state.rank.current, state.models.live.champion
    if not champion.ranks:
        return None
    if service.mode != ONLINE:
        return f"the learning mode is {service.mode}: the baseline is chosen, whichever version ranks"
    if service.reset_version is not None and service.reset_version == champion.number:
        return "the champion was reset: ranks are drawn at random until another version is promoted"
    return None


def _check_rewards_of_ranks(state: AppState, config: RolloutConfig) -> None:
    """Raise ConflictError if ranks cannot be compared: nothing chooses, or no range of rewards gives a verdict."""
    reason = ranks_unchosen(state)
    if reason is not None:
        raise ConflictError(f"{reason}; a rollout needs the mode online and a champion that ranks")
    bounds = state.rank.current.reward.reward_range
    if config.return_days is not None:
        raise ConflictError("return_days is for lists: a rank may be of any caller, so it is no session; leave it out")
    if config.shadow:
        return
    if bounds is None:
        raise ConflictError(
            "[reward] has no min_reward and max_reward, and no comparison of rewards has a verdict without them; set"
            " both, or start a shadow"
        )
    if config.margin >= bounds[1] - bounds[0]:
        raise ConflictError(
            f"margin is {config.margin:g}, and rewards lie in {bounds[0]:g}..{bounds[1]:g}: every challenger would"
            " pass; set a smaller margin"
        )


def _resolve_versions(registry: Registry, challenger: int | str, ungated: bool) -> tuple[int, int]:
    """Return the numbers of champion and challenger."""
    routing, version = registry.routing(), registry.version(challenger)
    number = version.number
    if routing.champion is None:
        raise ConflictError("the registry has no champion; promote a version first")
    if number == routing.champion:
        raise ConflictError(f"version {number} is the champion; name another version")
    if routing.challenger not in (None, number):
        raise ConflictError(f"version {routing.challenger} is already the challenger; clear the challenger first")
    check_comparable(registry, routing.champion, number)
    if version.verdict != "pass" and not ungated:
        record = "has no gate record" if version.verdict is None else f"has a gate record that says {version.verdict}"
        raise ConflictError(f"version {number} {record}; set `ungated` (--ungated) to roll it out anyway")
    fault = find_fault(registry.resolve(number).parent)
    if fault is not None:
        raise ArtifactError(f"version {number} {fault}")
    return routing.champion, number
