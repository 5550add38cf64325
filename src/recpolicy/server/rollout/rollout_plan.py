"""What a rollout asks for, and what follows from its figures: wait, go a stage on, promote or roll back.

Harm is shown when the whole interval of the difference lies below -margin. That the lower end alone lies below the
champion says nothing yet: before the first reward it lies there for every challenger. But a challenger whose lower end
has not risen above -margin when the stage's time is over is rolled back as well, so that none is promoted which was not
shown to be as good, but for the margin.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Literal

from recpolicy.core.errors import ConfigError
from recpolicy.server.rollout.stage_metrics import StageMetrics, VariantHealth

Action = Literal["wait", "advance", "promote", "roll_back"]


@dataclass(frozen=True, kw_only=True)
class RolloutConfig:
    """The plan of a rollout."""

    stages: tuple[float, ...] = (0.1, 0.5, 1.0)
    """Share of the users that the challenger answers, stage after stage; rising, within 0 (excluded) and 1."""
    promote: bool = True
    """Whether the challenger becomes champion after the last stage; false: an A/B comparison, until it is stopped."""
    shadow: bool = False
    """The challenger answers nobody; what it would have shown is compared. It then neither advances nor is promoted."""
    min_users: int = 200
    """Users with rewards that each variant needs in a stage before anything is said of the rewards; >= 30."""
    min_rewards: int = 500
    """Rewards that each variant needs in a stage."""
    min_hours: float = 24.0
    """Hours that a stage lasts at least."""
    max_hours: float = 336.0
    """Hours after which a challenger that may not advance is rolled back."""
    margin: float = 0.1
    """Harm that is tolerated, on the scale of the rewards."""
    level: float = 0.95
    """Probability with which all statements on the rewards of one rollout hold together."""
    error_budget: float = 0.01
    """Share of the challenger's answers that may fail within the window."""
    latency_budget: float = 2.0
    """How many times the champion's mean time to choose the challenger may take; below `latency_floor_ms` anything."""
    latency_floor_ms: float = 5.0
    """Mean time to choose, in milliseconds, that is never too slow."""
    slow_ms: float = 25.0
    """An answer that takes longer to choose is slow; applies from the start of the server."""
    slow_budget: float = 0.01
    """Share of slow answers that the challenger may have beyond the champion's."""
    window_minutes: int = 15
    """Failures and times of the last minutes count."""
    min_requests: int = 100
    """Budgets are shares of this many answers where there are fewer."""
    shadow_sample: float = 0.1
    """Share of the requests that a shadow challenger answers, too, unseen; applies from the start of the server."""

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.stages, self.stages[1:], strict=False))
        if not self.stages or not rising or not all(0 < share <= 1 for share in self.stages):
            raise ConfigError(f"stages is {list(self.stages)}; expected rising shares, each above 0 and at most 1")
        if not 0 <= self.min_hours < self.max_hours:
            raise ConfigError(f"min_hours {self.min_hours:g}, max_hours {self.max_hours:g}; expected 0 <= min < max")
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            if not low <= value <= high:  # NaN is refused, too
                raise ConfigError(f"{name} is {value!r}; expected {low:g} to {high:g}")
        if not self.promote and self.stages == (1.0,):
            raise ConfigError("stages is [1.0] and promote is false: with all users there is nothing to compare with")

    @property
    def stage_level(self) -> float:
        """Level of one stage: the doubt is shared among the stages that compare rewards, which start afresh."""
        comparing = sum(share < 1 for share in self.stages)
        return 1 - (1 - self.level) / max(comparing, 1)


_RANGES = {
    "min_users": (30, 10**9), "min_rewards": (1, 10**9), "margin": (0, 1e6), "level": (0.5, 0.9999),
    "error_budget": (0, 1), "latency_budget": (1, 1e6), "latency_floor_ms": (0, 1e6), "slow_ms": (0.1, 1e6),
    "slow_budget": (0, 1), "window_minutes": (1, 1440), "min_requests": (1, 10**9), "shadow_sample": (0, 1),
}  # fmt: skip
assert set(_RANGES) < {one.name for one in fields(RolloutConfig)}


@dataclass(frozen=True)
class Decision:
    """What follows, and why, in a sentence for people."""

    action: Action
    reason: str


def decide(figures: StageMetrics, stage: int, config: RolloutConfig) -> Decision:
    """What to do now in the stage with this place in the plan."""
    checks: Sequence[Callable[[StageMetrics, RolloutConfig], str | None]] = (_failures, _slowness, _harm)
    for check in checks:
        why = check(figures, config)
        if why is not None:
            return Decision("roll_back", why)
    missing = _missing(figures, config, alone=config.stages[stage] == 1)
    if config.shadow:
        return Decision("wait", "a shadow challenger answers nobody; it waits until it is stopped")
    if missing is None and stage + 1 < len(config.stages):
        return Decision("advance", f"not worse than the champion by more than {config.margin:g}")
    if not config.promote:
        return Decision("wait", "a comparison runs until it is stopped" + (f"; {missing}" if missing else ""))
    if missing is None:
        return Decision("promote", "the last stage is passed")
    if figures.hours >= config.max_hours:
        return Decision("roll_back", f"{figures.hours:.0f} hours were not enough: {missing}")
    return Decision("wait", missing)


def _failures(figures: StageMetrics, config: RolloutConfig) -> str | None:
    """Whether more of the challenger's answers failed than may."""
    seen = figures.challenger_health
    if seen.failures <= config.error_budget * max(seen.requests, config.min_requests):
        return None
    return f"{seen.failures} of the challenger's {seen.requests} answers failed; {config.error_budget:.1%} may"


def _slowness(figures: StageMetrics, config: RolloutConfig) -> str | None:
    """Whether the challenger chooses more slowly than it may: on average, or too often for long."""
    champion, challenger = figures.champion_health, figures.challenger_health
    usual = _share(champion.slow, champion.requests)
    if challenger.slow > (usual + config.slow_budget) * max(challenger.requests, config.min_requests):
        return (
            f"{challenger.slow} of the challenger's {challenger.requests} answers took longer than"
            f" {config.slow_ms:g} ms; {config.slow_budget:.1%} may, beyond the champion's {usual:.1%}"
        )
    if challenger.requests < config.min_requests or champion.requests < config.min_requests:
        return None
    mean, other = _mean_ms(challenger), _mean_ms(champion)
    if mean <= max(config.latency_budget * other, config.latency_floor_ms):
        return None
    return (
        f"the challenger takes {mean:.1f} ms to choose, the champion {other:.1f}; {config.latency_budget:g} times may"
    )


def _harm(figures: StageMetrics, config: RolloutConfig) -> str | None:
    """Whether the rewards are shown to be lower than the champion's by more than the margin."""
    gap = figures.difference
    if gap.hi >= -config.margin:
        return None
    return f"rewards are lower: {gap.value:.3f} [{gap.lo:.3f}, {gap.hi:.3f}], margin {config.margin:g}"


def _missing(figures: StageMetrics, config: RolloutConfig, alone: bool) -> str | None:
    """What is not there yet for the next step; None: nothing. `alone`: the challenger answers everybody."""
    if figures.hours < config.min_hours:
        return f"{figures.hours:.1f} of {config.min_hours:g} hours"
    variants = {"challenger": figures.challenger} | ({} if alone else {"champion": figures.champion})
    for name, figure in variants.items():
        if figure.users < config.min_users:
            return f"{figure.users} of {config.min_users} users of the {name} gave rewards"
        if figure.rewards < config.min_rewards:
            return f"{figure.rewards} of {config.min_rewards} rewards of the {name}"
    gap = figures.difference
    if alone or gap.lo > -config.margin:
        return None
    return f"the difference {gap.value:.3f} [{gap.lo:.3f}, {gap.hi:.3f}] may still be below -{config.margin:g}"


def _share(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _mean_ms(health: VariantHealth) -> float:
    return 1e3 * health.seconds / health.requests if health.requests else 0.0
