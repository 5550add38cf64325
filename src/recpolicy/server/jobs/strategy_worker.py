"""The jobs of strategies in their own process: learn from new events, register and promote; evaluate the last days.

No version learns from an event twice: its artifact has the hashes of the events that it, or an ancestor, learned. So a
run twice has nothing to do the second time, and says so.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recpolicy.core.config import build
from recpolicy.core.statistics import Interval
from recpolicy.core.types import Array, Bools
from recpolicy.data.reward_signals import summarize_rewards
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db.engine import make_engine
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.feedback import DAY_MS
from recpolicy.server.db.jobs import SKIPPED, JobResult
from recpolicy.server.db.rank_events import logged_choice
from recpolicy.server.db.signal_rates import ratio_from_sums
from recpolicy.server.db.strategy_rounds import StrategyEvents, learnable_rounds, read_strategy_events
from recpolicy.server.jobs.subprocess_jobs import JobRequest
from recpolicy.server.jobs.work_folders import training_folder
from recpolicy.server.settings import StrategiesConfig
from recpolicy.server.strategies.service import FOLDER, with_config
from recpolicy.strategies.artifact import read_strategy_policy, write_strategy_policy
from recpolicy.strategies.config import StrategyConfig, read_strategy_config
from recpolicy.strategies.policy import SOURCES, StrategyPolicy
from recpolicy.strategies.rounds import StrategyRounds
from recpolicy.strategies.training import rounds_to_learn

_NOTE = {"by": "train_strategies"}


def train_strategies(request: JobRequest) -> JobResult:
    """Learn from the new events of the last days, register the version and make it the champion.

    Skipped without enough new events, with the reason. Raises JobError while another process trains.
    """
    settings, config = _settings(request)
    folder = Path(request.folder)
    work = folder / "train_strategies"
    with training_folder(work, "the strategies of this server"):
        return _train(request, settings, config, work)


def _settings(request: JobRequest) -> tuple[StrategiesConfig, StrategyConfig]:
    given = {name: value for name, value in request.parameters.items() if value is not None}
    settings = build(StrategiesConfig, {**request.settings["strategies"], **given}, "strategies")
    return settings, read_strategy_config(settings.config)


def _events(request: JobRequest, config: StrategyConfig, days: float) -> StrategyEvents:
    engine = make_engine(request.database)
    try:
        with engine.connect() as connection:
            return read_strategy_events(connection, config, now_ms() - round(days * DAY_MS))
    finally:
        engine.dispose()


def _train(request: JobRequest, settings: StrategiesConfig, config: StrategyConfig, work: Path) -> JobResult:
    registry = Registry(Path(request.folder).parent / FOLDER)
    registry.create()
    number, policy = _champion(registry, config)
    events = _events(request, config, settings.days_back)
    rounds, left_out = learnable_rounds(events, config)
    parts = rounds_to_learn(policy, rounds, settings.min_interactions_per_user)
    counts = {
        "already_learned": int(parts.already_learned.sum()), "users_with_few": int(parts.few_interactions.sum()),
        **left_out,
    }  # fmt: skip
    rounds = rounds.select(parts.new)
    left_out = {reason: count for reason, count in counts.items() if count}
    users = len(set(rounds.user.tolist()))
    if len(rounds) < settings.min_interactions:
        others = ", ".join(f"{count:,} {reason.replace('_', ' ')}" for reason, count in left_out.items()) or "none"
        reason = (
            f"{len(rounds):,} new events of users with at least {settings.min_interactions_per_user} in the last"
            f" {settings.days_back:g} days; expected {settings.min_interactions:,}. Left out: {others}"
        )
        return JobResult(status=SKIPPED, users=users, records=len(rounds), metadata={"reason": reason})
    trained = policy.updated(rounds)
    lineage = {
        "data": "strategy events of the server", "config": config.as_dict(), "seed": 0, "trained_from": number,
        "days_back": settings.days_back, "log_until": int(rounds.time.max()),
    }  # fmt: skip
    trained = replace(trained, metadata={**lineage, "statistics": training_statistics(events, rounds, trained)})
    write_strategy_policy(trained, work / "policy")
    version = registry.register(work / "policy", note=_NOTE)
    registry.promote(version.number, ungated=True, note=_NOTE)
    metadata = {
        "version": version.number, "from": number, "days_back": settings.days_back,
        **trained.metadata["statistics"], "left_out": left_out,
    }  # fmt: skip
    return JobResult(users=users, records=len(rounds), metadata=metadata)


def _champion(registry: Registry, config: StrategyConfig) -> tuple[int | None, StrategyPolicy]:
    """Return the champion of the registry with the config of the settings; an untrained policy without one."""
    number = registry.aliases()["champion"]
    if number is None:
        return None, StrategyPolicy(config)
    return number, with_config(read_strategy_policy(registry.resolve(number)), config)


def training_statistics(events: StrategyEvents, rounds: StrategyRounds, policy: StrategyPolicy) -> dict[str, Any]:
    """Return the statistics of a training, flat, as SQL reads them from the row of the job."""
    chosen, rewards = (
        np.isin([row.id for row in events.rows], rounds.event_id.tolist()),
        summarize_rewards(rounds.reward),
    )
    return {
        "interactions": len(rounds), "avg_reward": rewards.mean, "reward_std": rewards.std,
        "positive_share": rewards.share_positive, "like_rate": float(events.liked[chosen].mean()),
        **policy.stats(),
    }  # fmt: skip


def evaluate_strategies(request: JobRequest) -> JobResult:
    """Report mean reward, like rate and exploration of the last days, in all and by kind of content."""
    settings, config = _settings(request)
    events = _events(request, config, settings.test_days)
    known = np.isfinite(events.reward)
    if not known.any():
        waiting = events.left_out.get("waiting", 0)
        reason = (
            f"no strategy event of the last {settings.test_days:g} days has a final reward; {waiting:,} wait for one"
        )
        return JobResult(status=SKIPPED, records=0, metadata={"reason": reason})
    kinds = np.array([str(context.get("content_type")) for context in events.context], object)
    metadata = {
        "test_days": settings.test_days, "all": _figures(events, known),
        "by_content_type": {kind: _figures(events, known & (kinds == kind)) for kind in sorted(set(kinds[known]))},
        "sources": _sources(events, known),
    }  # fmt: skip
    users = len(np.unique(events.unit[known]))
    return JobResult(users=users, records=int(known.sum()), metadata=metadata)


def _figures(events: StrategyEvents, rows: Bools) -> dict[str, Any]:
    """Return the mean reward and the like rate of some events with intervals, and the share of exploration."""
    chosen = [float(np.frombuffer(events.rows[at].probabilities, "<f8").max()) for at in np.flatnonzero(rows)]
    drawn = [logged_choice(events.rows[at])[1] for at in np.flatnonzero(rows)]
    explored = np.array(drawn) < np.array(chosen)
    return {
        "events": int(rows.sum()), "users": len(np.unique(events.unit[rows])),
        "mean_reward": _plain(_mean(events.unit, events.reward, rows)),
        "like_rate": _plain(_mean(events.unit, events.liked.astype(np.float64), rows)),
        "explored": float(explored.mean()),
    }  # fmt: skip


def _mean(unit: Any, value: Array, rows: Bools) -> Interval:
    """Return the mean of some events with its interval over users."""
    unit = np.unique(unit[rows], return_inverse=True)[1]
    size, total = np.bincount(unit).astype(np.float64), np.bincount(unit, value[rows])
    return ratio_from_sums(
        len(size), float(size.sum()), float(size @ size), float(total.sum()), float(total @ total), float(total @ size)
    )


def _sources(events: StrategyEvents, rows: Bools) -> dict[str, float]:
    """Return the share of the events by source of their estimate."""
    modes = np.array([row.mode for row in events.rows], object)[rows]
    return {source: float((modes == source).mean()) for source in SOURCES}


def _plain(interval: Interval) -> Mapping[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in interval.as_dict().items()}
