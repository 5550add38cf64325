"""The decision of a rollout's stage from its metrics: wait, advance, promote or roll back.

Harm is shown if the whole interval of the difference lies below -margin. A lower end below the champion's mean shows
nothing: before the first reward it lies there for every challenger. A challenger whose lower end has not risen above
-margin when the stage's time is over is rolled back as well. So no version is promoted without evidence that it is as
good as the champion, up to the margin. With a retention criterion (return_metrics.py) the same holds for the share of
users who come back; before enough users were followed for the window, nobody can tell, and the stage waits.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from recpolicy.server.rollout.stage_metrics import StageMetrics
from recpolicy.server.settings import RolloutConfig

Action = Literal["wait", "advance", "promote", "roll_back"]


@dataclass(frozen=True)
class Decision:
    """An action and its reason, a sentence."""

    action: Action
    reason: str


def decide(metrics: StageMetrics, stage: int, config: RolloutConfig) -> Decision:
    """Return the decision for a stage (0 is the first)."""
    checks: Sequence[Callable[[StageMetrics, RolloutConfig], str | None]] = (
        _failures,
        _slowness,
        _harm,
        _fewer_returns,
    )
    for check in checks:
        problem = check(metrics, config)
        if problem is not None:
            return Decision("roll_back", problem)
    alone = config.stages[stage] == 1
    missing = _missing(metrics, config, alone) or (None if alone else _missing_returns(metrics, config))
    if config.shadow:
        return Decision("wait", "a shadow rollout runs until it is stopped")
    if missing is None and stage + 1 < len(config.stages):
        return Decision("advance", f"not worse than the champion by more than {config.margin:g}")
    if not config.promote:
        return Decision("wait", "a comparison runs until it is stopped" + (f"; {missing}" if missing else ""))
    if missing is None:
        return Decision("promote", "the challenger passed the last stage")
    if metrics.hours >= config.max_hours:
        return Decision("roll_back", f"the stage did not pass within {metrics.hours:.0f} hours: {missing}")
    return Decision("wait", missing)


def _failures(metrics: StageMetrics, config: RolloutConfig) -> str | None:
    """Return the problem if too many of the challenger's answers failed."""
    health = metrics.challenger_health
    if health.failures <= config.error_budget * max(health.requests, config.min_requests):
        return None
    return f"{health.failures} of the challenger's {health.requests} answers failed, limit {config.error_budget:.1%}"


def _slowness(metrics: StageMetrics, config: RolloutConfig) -> str | None:
    """Return the problem if the challenger is too slow: on average, or in too many answers."""
    champion, challenger = metrics.champion_health, metrics.challenger_health
    usual = champion.slow / champion.requests if champion.requests else 0.0
    if challenger.slow > (usual + config.slow_budget) * max(challenger.requests, config.min_requests):
        return (
            f"{challenger.slow} of the challenger's {challenger.requests} answers took longer than"
            f" {config.slow_ms:g} ms; the limit is {config.slow_budget:.1%} more than the champion's {usual:.1%}"
        )
    if challenger.requests < config.min_requests or champion.requests < config.min_requests:
        return None
    mean, other = challenger.mean_ms or 0.0, champion.mean_ms or 0.0
    if mean <= max(config.latency_budget * other, config.latency_floor_ms):
        return None
    return (
        f"the challenger takes {mean:.1f} ms to choose, the champion {other:.1f} ms; the limit is a ratio of"
        f" {config.latency_budget:g}"
    )


def _harm(metrics: StageMetrics, config: RolloutConfig) -> str | None:
    """Return the problem if the rewards are shown to be lower than the champion's by more than the margin."""
    difference = metrics.difference
    if difference.hi >= -config.margin:
        return None
    return (
        f"rewards are lower: {difference.value:.3f} [{difference.lo:.3f}, {difference.hi:.3f}],"
        f" margin {config.margin:g}"
    )


def _fewer_returns(metrics: StageMetrics, config: RolloutConfig) -> str | None:
    """Return the problem if fewer of the challenger's users are shown to come back, by more than the margin."""
    returns = metrics.returns
    if returns is None or returns.rate_difference.hi >= -config.return_margin:
        return None
    return (
        f"fewer users come back within {returns.window_days:g} days: {returns.rate_difference},"
        f" margin {config.return_margin:g}"
    )


def _missing_returns(metrics: StageMetrics, config: RolloutConfig) -> str | None:
    """Return the evidence on returns that the next step lacks; None without a retention criterion."""
    returns = metrics.returns
    if returns is None:
        return None
    for name, variant in (("challenger", returns.challenger), ("champion", returns.champion)):
        if variant.users < config.min_users:
            return (
                f"returns: cannot tell: {variant.users} of {config.min_users} users of the {name} were followed for"
                f" {returns.window_days:g} days"
            )
    if returns.rate_difference.lo > -config.return_margin:
        return None
    return f"the difference {returns.rate_difference} of the return rates may still be below -{config.return_margin:g}"


def _missing(metrics: StageMetrics, config: RolloutConfig, alone: bool) -> str | None:
    """Return the evidence that the next step lacks, or None; `alone`: the challenger serves all users."""
    if metrics.hours < config.min_hours:
        return f"{metrics.hours:.1f} of {config.min_hours:g} hours"
    variants = {"challenger": metrics.challenger} | ({} if alone else {"champion": metrics.champion})
    for name, rewards in variants.items():
        if rewards.users < config.min_users:
            return f"{rewards.users} of {config.min_users} users of the {name} gave rewards"
        if rewards.rewards < config.min_rewards:
            return f"{rewards.rewards} of {config.min_rewards} rewards of the {name}"
    difference = metrics.difference
    if alone or difference.lo > -config.margin:
        return None
    return (
        f"the difference {difference.value:.3f} [{difference.lo:.3f}, {difference.hi:.3f}] may still be below"
        f" -{config.margin:g}"
    )
