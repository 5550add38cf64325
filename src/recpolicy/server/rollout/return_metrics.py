"""The retention criterion of a rollout: returns of both variants within a window, with anytime-valid intervals.

Users are the units (db/rollout_returns.py). The window is wholly over for every user who counts, so the rate is a plain
mean, and so are the restricted mean days: min(days until the return, window). Intervals are those of rewards.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from recpolicy.core.statistics import Interval
from recpolicy.server.live_models import CHALLENGER, CHAMPION
from recpolicy.server.rollout.stage_metrics import VariantStats, difference, mean_reward, pooled_variance_floor

if TYPE_CHECKING:
    from recpolicy.server.db.rollout_returns import VariantReturns


@dataclass(frozen=True)
class Returns:
    """Returns of a variant's users in a stage."""

    users: int = 0
    """Users whose first session of the stage ended a whole window ago."""
    rate: Interval = field(default_factory=Interval.unbounded)
    days: Interval = field(default_factory=Interval.unbounded)


@dataclass(frozen=True, kw_only=True)
class ReturnMetrics:
    """The returns that a rollout decision rests on."""

    window_days: float
    champion: Returns = field(default_factory=Returns)
    challenger: Returns = field(default_factory=Returns)
    rate_difference: Interval = field(default_factory=Interval.unbounded)
    """Challenger - champion."""
    days_difference: Interval = field(default_factory=Interval.unbounded)
    """Challenger - champion: below 0, users come back sooner."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values; unbounded ends are infinite."""
        plain = asdict(self)
        for part in (plain, plain["champion"], plain["challenger"]):
            for value in part.values():
                if isinstance(value, dict):
                    value.pop("level", None)
        return plain


def compute_return_metrics(
    stats: "Mapping[str, VariantReturns]", window_days: float, level: float, min_users: int
) -> ReturnMetrics:
    """Return the metrics from the statistics by variant; an interval is unbounded below `min_users`."""
    rates = [_part(stats, name, "rate") for name in (CHAMPION, CHALLENGER)]
    days = [_part(stats, name, "days") for name in (CHAMPION, CHALLENGER)]
    variants = [
        Returns(
            int(rate.users), mean_reward(rate, level, min_users, 1.0).interval(level),
            mean_reward(day, level, min_users, window_days).interval(level),
        )
        for rate, day in zip(pooled_variance_floor(*rates), pooled_variance_floor(*days), strict=True)
    ]  # fmt: skip
    return ReturnMetrics(
        window_days=window_days, champion=variants[0], challenger=variants[1],
        rate_difference=difference(*rates, level, min_users, 1.0).interval(level),
        days_difference=difference(*days, level, min_users, window_days).interval(level),
    )  # fmt: skip


def _part(stats: "Mapping[str, VariantReturns]", variant: str, name: str) -> VariantStats:
    found = stats.get(variant)
    return VariantStats.from_sums(0, 0, 0.0, 0.0) if found is None else getattr(found, name)
