"""The production checklist: what must hold before and while a policy serves users, each item with its figure.

One function behind `recpolicy admin checklist` and the console. An item is kept or not by the state of this server: its
database, registry and settings. It never changes anything.
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, func, select

from recpolicy.core.config import build
from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.core.statistics import Interval
from recpolicy.data.reward_checks import check_reward
from recpolicy.registry.artifact_kinds import read_manifest
from recpolicy.registry.model_registry import Registry
from recpolicy.server.db import rollouts
from recpolicy.server.db.event_windows import rank_window, window
from recpolicy.server.db.events import now_ms
from recpolicy.server.db.feedback import DAY_MS, REWARD_TYPES, FeedbackItem, compute_reward
from recpolicy.server.db.schema import events, rank_events, rank_signals, rewards
from recpolicy.server.deps import AppState
from recpolicy.server.settings import RolloutConfig

_LATEST = 1_000
"""Ranks whose probabilities tell how much the policy explores."""
_ROLLOUTS = 50


@dataclass(frozen=True)
class ChecklistItem:
    """One item of the checklist."""

    name: str
    kept: bool
    figure: str
    expected: str
    command: str
    """The command that shows the figure, or the setting that changes it."""


def production_checklist(state: AppState) -> list[ChecklistItem]:
    """Return the items in the order in which a deployment needs them.

    Raises:
        StoreError: The server stores nothing.
        ConflictError: The server has no registry.
    """
    registry = state.require_registry()
    with state.require_store().engine.connect() as connection:
        if connection.dialect.name == "postgresql":  # some items read many events
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
        return [
            _interactions(state, connection),
            _mean_reward(state, connection),
            _exploration(state, connection),
            _versions(state, registry),
            _comparison(state, connection),
            _rollout(state),
            _alerts(state),
            _roll_back(registry),
            _settings(state, registry),
            _reward_checks(state),
        ]


def as_body(items: list[ChecklistItem]) -> dict[str, Any]:
    """Return the response of the route: whether all items are kept, and the items."""
    return {"kept": all(item.kept for item in items), "items": [asdict(item) for item in items]}


def _interactions(state: AppState, connection: Connection) -> ChecklistItem:
    """Rewards of lists, and ranked events with signals: each counts once."""
    of_lists = connection.scalar(select(func.count()).select_from(rewards)) or 0
    rewarded = select(rank_signals.c.event_id, rank_signals.c.slot).distinct().subquery()
    of_ranks = connection.scalar(select(func.count()).select_from(rewarded)) or 0
    count, least = int(of_lists) + int(of_ranks), state.settings.checklist.min_interactions
    return ChecklistItem(
        "interactions with a reward", count >= least, f"{count:,}", f"at least {least:,}", "recpolicy admin signals"
    )


def _mean_reward(state: AppState, connection: Connection) -> ChecklistItem:
    """The champion's mean reward of the last days, by the lower end of its interval over users."""
    days, floor = state.settings.checklist.days, state.settings.drift.min_mean_reward
    title, command = f"mean reward of the last {days:g} days above the floor", "recpolicy admin drift"
    mean, users = _recent_mean(state, connection, days)
    if mean is None:
        figure = "no rewards of the champion"
    elif not np.isfinite(mean.lo):
        figure = f"{mean.value:.3f} of {users} users, too few for an interval"
    else:
        figure = f"{mean.value:.3f} [{mean.lo:.3f}, {mean.hi:.3f}]"
    if floor is None:
        return ChecklistItem(title, False, f"{figure}; no floor is set", "a floor: [drift] min_mean_reward", command)
    kept = mean is not None and bool(mean.lo >= floor)
    return ChecklistItem(title, kept, figure, f"a lower end of at least {floor:g}", command)


def _recent_mean(state: AppState, connection: Connection, days: float) -> tuple[Interval | None, int]:
    served, end = state.models.live.champion, now_ms() + 1
    if served.number is None:
        return None, 0
    begin = end - round(days * DAY_MS)
    if served.ranks:
        reward = state.rank.current.reward
        shift, most = reward.wait_ms, state.settings.drift.max_events
        found = rank_window(connection, served.number, begin - shift, end - shift, most, reward)
    else:
        low, high = served.scorer.scale
        found = window(connection, served.number, begin, end, 1, DAY_MS, high - low)
    return found.mean_reward, found.reward_users


def _exploration(state: AppState, connection: Connection) -> ChecklistItem:
    """The share of choices that are drawn to learn: without any, a log says nothing about other choices."""
    live, limits = state.models.live, state.settings.checklist
    if live.champion.ranks:
        share, how = _rank_exploration(connection, live.champion.number), f"of the last {_LATEST:,} ranks"
        expected, command = f"above 0, at most {limits.max_exploration:.0%}", "recpolicy admin signals"
    else:
        share, how = _list_exploration(state, connection)
        expected = f"above 0, at most {limits.max_exploration:.0%}; not paused"
        command = "recpolicy admin exploration resume" if not live.exploring else "recpolicy admin status"
    if share is None:
        return ChecklistItem("share of exploration", False, "no events of the champion", expected, command)
    kept = 0 < share <= limits.max_exploration and (live.champion.ranks or live.exploring)
    return ChecklistItem("share of exploration", kept, f"{share:.2%} {how}", expected, command)


def _list_exploration(state: AppState, connection: Connection) -> tuple[float, str]:
    lists, slot = state.settings.exploration.share, state.models.live.champion.new_items
    share = lists if slot is None else 1 - (1 - lists) * (1 - slot.share)  # a list with a new item explores, too
    if not state.models.live.exploring:
        return share, "in the settings, but paused"
    since = now_ms() - round(state.settings.checklist.days * DAY_MS)
    drawn = func.sum(events.c.explored.cast(rewards.c.position.type))
    count, explored = connection.execute(select(func.count(), drawn).where(events.c.time >= since)).one()
    measured = f"; {int(explored or 0) / count:.2%} of {count:,} lists" if count else ""
    return share, f"in the settings{measured}"


def _rank_exploration(connection: Connection, version: int | None) -> float | None:
    """Return the mean probability of the choices that are not the most probable one."""
    columns = rank_events.c
    query = select(columns.probabilities).where(columns.version == (version or 0), columns.task.is_(None))
    rows = connection.scalars(query.order_by(columns.seq.desc()).limit(_LATEST)).all()
    if not rows:
        return None
    return float(np.mean([1 - np.frombuffer(row, "<f8").max() for row in rows]))


def _versions(state: AppState, registry: Registry) -> ChecklistItem:
    """The champion is a registered, numbered version, so every event names the policy that made it."""
    count, champion = len(registry.versions()), state.models.live.champion.number
    figure = f"{count} registered, champion {champion if champion is not None else 'none'}"
    return ChecklistItem(
        "versions are registered", champion is not None, figure, "a registered champion", "recpolicy admin versions"
    )


def _comparison(state: AppState, connection: Connection) -> ChecklistItem:
    """An A/B comparison in which both variants served users, of the champion with another version."""
    champion = state.models.live.champion.number
    compared = [
        row for row in rollouts.latest(connection, _ROLLOUTS)
        if champion in (row.champion, row.challenger) and _compares(row.plan)
    ]  # fmt: skip
    figure = "none of the champion"
    if compared:
        row = compared[0]
        figure = f"rollout {row.id}: version {row.challenger} against {row.champion}, {row.state.replace('_', ' ')}"
    expected = "a rollout of the champion with both variants"
    return ChecklistItem("A/B comparison", bool(compared), figure, expected, "recpolicy admin rollout status")


def _compares(plan: Mapping[str, Any]) -> bool:
    try:
        config = build(RolloutConfig, plan, "rollout")
    except ConfigError:
        return False
    return config.stages[0] < 1 and not config.shadow


def _rollout(state: AppState) -> ChecklistItem:
    """New versions reach users step by step, and a job takes the steps."""
    config, jobs = state.settings.rollout, state.settings.jobs
    checked = jobs.enabled and jobs.cron.get("check_rollout") != "off"
    stages = " → ".join(f"{stage:.0%}" for stage in config.stages)
    figure = f"{stages}; the job check_rollout is {'on' if checked else 'off'}"
    kept = config.stages[0] < 1 and checked
    expected = "a first stage below 100 %, and the job on"
    return ChecklistItem("gradual rollout", kept, figure, expected, "[rollout] stages, [jobs] of the settings")


def _alerts(state: AppState) -> ChecklistItem:
    """Somebody is told: a webhook, and the job that looks for drift."""
    watched = state.settings.jobs.enabled and state.settings.jobs.cron.get("drift") != "off"
    try:
        url = bool(state.settings.alerts.webhook())
        receiver = "a webhook is set" if url else "alerts only go to the log"
    except ConfigError as error:
        url, receiver = False, str(error)
    figure = f"{receiver}; the job drift is {'on' if watched else 'off'}"
    return ChecklistItem("alerts", url and watched, figure, "a webhook, and the job on", "[alerts] url of the settings")


def _roll_back(registry: Registry) -> ChecklistItem:
    """There is a version to return to."""
    previous = registry.aliases()["previous"]
    figure = "no previous champion" if previous is None else f"to version {previous}"
    return ChecklistItem(
        "roll-back is possible", previous is not None, figure, "a previous champion", "recpolicy admin roll-back"
    )


def _settings(state: AppState, registry: Registry) -> ChecklistItem:
    """The champion says which settings and which data made it."""
    number = state.models.live.champion.number
    try:
        metadata = {} if number is None else read_manifest(registry.resolve(number))["metadata"]
    except (ArtifactError, ConfigError) as error:
        metadata, fault = {}, f"; {str(error).replace(f'{registry.folder}/', '')}"
    else:
        fault = ""
    recorded = [name for name in ("config", "seed", "data", "log") if metadata.get(name) is not None]
    figure = (", ".join(recorded) or "nothing is recorded") + fault
    kept = "config" in recorded and len(recorded) > 1
    command = f"GET /v1/admin/versions/{number}" if number is not None else "recpolicy admin versions"
    return ChecklistItem("settings are recorded", kept, figure, "the config, and the data or the log", command)


def _reward_checks(state: AppState) -> ChecklistItem:
    """The reward pays what its settings say; tested now, with the settings in effect."""
    checks = [(check.passed, f"{check.name}: {check.detail}") for check in check_reward(state.rank.current.reward)]
    if not state.models.live.champion.ranks:
        checks += _list_reward_checks(state.models.live.champion.scorer.scale)
    failed = [detail for passed, detail in checks if not passed]
    figure = f"{len(checks) - len(failed)} of {len(checks)} pass" + (f"; {failed[0]}" if failed else "")
    return ChecklistItem("tests of the reward", not failed, figure, "all pass", "[reward] of the settings")


def _list_reward_checks(scale: tuple[float, float]) -> list[tuple[bool, str]]:
    """Return the checks of feedback on lists: each type pays within the scale, and liked items more than skipped."""
    low, high = scale
    value: Callable[[str], float] = lambda name: {"rating": high, "watch_fraction": 0.5}.get(name, 1.0)  # noqa: E731
    paid = {name: compute_reward(FeedbackItem("", None, name, value(name)), scale) for name in REWARD_TYPES}
    expected = {"rating": high, "watch_fraction": (low + high) / 2, "skip": low}
    return [
        (paid[name] == expected.get(name, high), f"{name}: {paid[name]:g}; expected {expected.get(name, high):g}")
        for name in REWARD_TYPES
    ]
