"""The figures of a stage: rewards of both variants with intervals, failures and times, and what a shadow would show."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from recpolicy.server.live_models import CHALLENGER, CHAMPION
from recpolicy.server.rollout import variant_statistics
from recpolicy.server.rollout.variant_statistics import VariantStats


@dataclass(frozen=True)
class VariantHealth:
    """How a variant answered."""

    requests: int = 0
    failures: int = 0
    slow: int = 0
    """Answers that took longer than slow_ms."""
    seconds: float = 0.0
    """Time to choose, of all requests together."""
    agreement: float = 0.0
    """Shadow: sum over requests of the share of the champion's list that is in the challenger's, too."""
    gap: float = 0.0
    """Shadow: sum of the mean difference of the predicted ratings of the items shown, challenger - champion."""
    dropped: int = 0
    """Shadow: requests that were to be compared when too many waited."""

    def __add__(self, other: "VariantHealth") -> "VariantHealth":
        return VariantHealth(*(mine + its for mine, its in zip(_values(self), _values(other), strict=True)))


def _values(health: VariantHealth) -> list[Any]:
    return list(asdict(health).values())


@dataclass(frozen=True)
class Estimate:
    """A number with its interval, which is infinitely wide while nothing can be said."""

    value: float = math.nan
    lo: float = -math.inf
    hi: float = math.inf


@dataclass(frozen=True)
class Rewards:
    """Rewards of a variant in a stage."""

    users: int = 0
    rewards: int = 0
    mean: Estimate = field(default_factory=Estimate)


@dataclass(frozen=True, kw_only=True)
class StageMetrics:
    """All that a decision rests on."""

    hours: float = 0.0
    """Since the stage began."""
    champion: Rewards = field(default_factory=Rewards)
    challenger: Rewards = field(default_factory=Rewards)
    difference: Estimate = field(default_factory=Estimate)
    """Challenger - champion."""
    champion_health: VariantHealth = field(default_factory=VariantHealth)
    challenger_health: VariantHealth = field(default_factory=VariantHealth)

    def shown(self) -> dict[str, Any]:
        """As JSON; null where there is no number yet."""
        plain: dict[str, Any] = _finite(asdict(self))
        return plain


def compute_stage_metrics(
    groups: dict[str, VariantStats], health: dict[str, VariantHealth], hours: float, level: float, min_users: int
) -> StageMetrics:
    """Figures of the variants by name; a variant that is left out has nothing yet."""
    none = VariantStats.of_sums(0, 0, 0.0, 0.0)
    champion, challenger = groups.get(CHAMPION, none), groups.get(CHALLENGER, none)
    first, second = variant_statistics.pooled_variance_floor(champion, challenger)
    return StageMetrics(
        hours=hours,
        champion=_rewards(first, level, min_users),
        challenger=_rewards(second, level, min_users),
        difference=_estimate(variant_statistics.difference(champion, challenger, level, min_users)),
        champion_health=health.get(CHAMPION, VariantHealth()),
        challenger_health=health.get(CHALLENGER, VariantHealth()),
    )


def _rewards(group: VariantStats, level: float, min_users: int) -> Rewards:
    return Rewards(int(group.users), int(group.rewards), _estimate(variant_statistics.mean_of(group, level, min_users)))


def _estimate(found: variant_statistics.ConfidenceSequence) -> Estimate:
    return Estimate(float(found.value), float(found.lo), float(found.hi))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value
