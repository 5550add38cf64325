"""The drift job: compares recent users, rewards and choices of the champion with older ones.

Windows hold events of the champion's version only, so a promotion is no drift. Known users are compared by their
activity in the training data of the version, other users by their context vectors. A metric is null if its windows are
too small. Of ranked events, rewards and choices are compared; both windows end once the rewards are final.

The floor of the mean reward is absolute: it also finds a policy that was never good.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from sqlalchemy import Connection

from recpolicy.core.errors import ConfigError
from recpolicy.inference.lookup_tables import row_index
from recpolicy.inference.scorer import Scorer
from recpolicy.server.db.event_windows import Window, rank_window, window
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.feedback import DAY_MS
from recpolicy.server.db.jobs import JobResult
from recpolicy.server.db.signal_rates import signal_rates
from recpolicy.server.deps import AppState
from recpolicy.server.jobs.alerts import send_alert
from recpolicy.server.jobs.drift_statistics import action_concentration, activity_groups, cusum, psi, psi_by_dimension
from recpolicy.server.jobs.scheduler import Job
from recpolicy.server.metrics import Metrics
from recpolicy.server.settings import DriftConfig

HOUR_MS = 3_600_000
NAME = "drift"


def check(state: AppState, _: Mapping[str, Any]) -> JobResult:
    """Compare the windows and alert if a metric exceeds its limit; raises ConfigError without a registry."""
    served, config, now = state.models.live.champion, state.settings.drift, now_ms()
    if served.number is None:
        raise ConfigError("drift: this server has no registry, so its events do not name their versions")
    recent_ms = round(config.recent_hours * HOUR_MS)
    reward = state.rank.current.reward
    end = now + 1 - (reward.wait_ms if served.ranks else 0)
    middle = end - recent_ms
    begin = middle - round(config.reference_hours * HOUR_MS)
    with state.require_store().engine.connect() as connection:
        if served.ranks:
            recent, older = (
                rank_window(connection, served.number, *times, config.max_events, reward)
                for times in ((middle, end), (begin, middle))
            )
        else:
            low, high = served.scorer.scale
            recent, older = (
                window(connection, served.number, *times, config.max_events, recent_ms, high - low)
                for times in ((middle, end), (begin, middle))
            )
        set_signal_rates(state.metrics, connection, now)
    metrics = compute_drift_metrics(recent, older, None if served.ranks else served.scorer, config)
    alarms = alarms_in(metrics, config)
    for kind, message in alarms.items():
        send_alert(state, f"drift.{kind}", message, metrics[kind])
    users = recent.reward_users if served.ranks else len(recent.users) + len(recent.contexts)
    metadata = {"version": served.number, "metrics": metrics, "alarms": alarms}
    return JobResult(users=users, records=len(recent.items), metadata=metadata)


def set_signal_rates(metrics: Metrics, connection: Connection, now: int) -> None:
    """Set the gauges of today's rates of signals; those of yesterday's that nothing replaces become NaN."""
    today = now // DAY_MS
    rates = signal_rates(connection, today * DAY_MS)
    metrics.set_signal_rates({(rate.version, rate.task, rate.type): rate.rate.value for rate in rates})


def compute_drift_metrics(recent: Window, older: Window, scorer: Scorer | None, config: DriftConfig) -> dict[str, Any]:
    """Return the metrics of users, contexts, reward, actions and the floor; None if a window is too small.

    Without a scorer, as for ranked events, users are not compared.
    """
    return {
        "users": None if scorer is None else _users(recent, older, scorer, config),
        "contexts": _contexts(recent, older, config),
        "reward": _reward(recent, older, config),
        "actions": _actions(recent, older, config),
        "floor": _floor(recent, config),
    }


def alarms_in(metrics: Mapping[str, Any], config: DriftConfig) -> dict[str, str]:
    """Return the alarms by name, with one sentence each."""
    alarms: dict[str, str] = {}
    users, contexts, reward, actions = (metrics[name] for name in ("users", "contexts", "reward", "actions"))
    if users and users["psi"] > config.psi:
        alarms["users"] = f"the activity of the users has shifted: PSI {users['psi']:.3f}, limit {config.psi:g}"
    if contexts and contexts["psi"] > config.psi:
        alarms["contexts"] = f"the vectors of new users have shifted: PSI {contexts['psi']:.3f}, limit {config.psi:g}"
    if reward and reward["direction"] != "none":
        alarms["reward"] = (
            f"the mean reward went {reward['direction']} from {reward['reference']:.3f} to {reward['recent']:.3f}"
        )
    floor = metrics.get("floor")
    if floor and floor["hi"] is not None and floor["hi"] < floor["limit"]:
        alarms["floor"] = (
            f"the mean reward is {floor['mean']:.3f} [{floor['lo']:.3f}, {floor['hi']:.3f}], below the floor of"
            f" {floor['limit']:g}"
        )
    if actions and actions["top_share"] - actions["top_share_before"] > config.top_share:
        alarms["actions"] = f"one item has {actions['top_share']:.0%} of the first positions"
    elif actions and actions["effective"] < config.effective_ratio * actions["effective_before"]:
        alarms["actions"] = (
            f"the choices have narrowed from {actions['effective_before']:.1f} to {actions['effective']:.1f} effective"
            " items"
        )
    return alarms


def _users(recent: Window, older: Window, scorer: Scorer, config: DriftConfig) -> dict[str, Any] | None:
    """Return the drift of known users, grouped by their activity in the training data."""
    if min(len(recent.users), len(older.users)) < config.min_count:
        return None
    artifact = scorer.artifact
    group = activity_groups(np.bincount(artifact.rated_user, minlength=len(artifact.context)))  # [U]
    row = row_index(scorer.user_ids)
    size = int(group.max()) + 1
    count = [np.bincount(group[[row[user] for user in window.users]], minlength=size) for window in (older, recent)]
    return {"psi": psi(*count), "groups": size, "users": len(recent.users)}


def _contexts(recent: Window, older: Window, config: DriftConfig) -> dict[str, Any] | None:
    """Return the drift of users that the version does not know: the index of the dimension that changed most."""
    if min(len(recent.contexts), len(older.contexts)) < config.min_count:
        return None
    by_dimension = psi_by_dimension(older.contexts, recent.contexts)
    worst = int(by_dimension.argmax())
    return {"psi": float(by_dimension[worst]), "dimension": worst, "users": len(recent.contexts)}


def _reward(recent: Window, older: Window, config: DriftConfig) -> dict[str, Any] | None:
    if min(len(recent.rewards), len(older.rewards)) < config.min_count:
        return None
    mean, std = float(older.rewards.mean()), float(older.rewards.std())
    change = cusum(recent.rewards, mean, std, config.reward_allowance, config.false_alarms)
    return {
        "recent": float(recent.rewards.mean()), "reference": mean, "direction": change.direction, "at": change.at,
        "sum": change.largest, "limit": change.limit, "events": len(recent.rewards),
    }  # fmt: skip


def _floor(recent: Window, config: DriftConfig) -> dict[str, Any] | None:
    """Return the mean reward with its interval, and the floor; None without a floor or rewards."""
    if config.min_mean_reward is None or recent.mean_reward is None:
        return None
    mean = recent.mean_reward
    ends = {name: value if np.isfinite(value) else None for name, value in (("lo", mean.lo), ("hi", mean.hi))}
    return {"mean": mean.value, **ends, "limit": config.min_mean_reward, "users": recent.reward_users}


def _actions(recent: Window, older: Window, config: DriftConfig) -> dict[str, Any] | None:
    count = min(len(recent.items), len(older.items))  # of equal size: small samples look narrower than large ones
    if count < config.min_count:
        return None
    now, before = action_concentration(recent.items[-count:]), action_concentration(older.items[-count:])
    return {
        "top_share": now.top_share, "top_share_before": before.top_share, "effective": now.effective,
        "effective_before": before.effective, "events": count,
    }  # fmt: skip


DRIFT = Job(
    name=NAME,
    description="Compare recent users, rewards and choices with older ones, and alert after a change.",
    cron="*/15 * * * *",
    run=check,
)
