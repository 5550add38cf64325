"""The retention criterion of a rollout: returns of both variants within a window, with anytime-valid intervals.

Users are the units (db/rollout_returns.py). The window is wholly over for every user who counts, so the rate is a plain
mean, and so are the restricted mean days: min(days until the return, window). Intervals are those of rewards.
"""

from collections.abc import Mapping

from recpolicy.server.db.rollout_returns import VariantReturns
from recpolicy.server.live_models import CHALLENGER, CHAMPION
from recpolicy.server.rollout.stage_metrics import (
    ReturnMetrics,
    Returns,
    VariantStats,
    difference,
    mean_reward,
    pooled_variance_floor,
)


def compute_return_metrics(
    stats: Mapping[str, VariantReturns], window_days: float, level: float, min_users: int
) -> ReturnMetrics:
    """Return the metrics from the statistics by variant; an interval is unbounded below `min_users`."""
    rates = [_part(stats, name, "rate") for name in (CHAMPION, CHALLENGER)]
    days = [_part(stats, name, "days") for name in (CHAMPION, CHALLENGER)]
    variants = [
        Returns(
            int(rate.users), mean_reward(rate, level, min_users, 1.0).interval(level),
            mean_reward(day, level, min_users, window_days).interval(level),
        )
        for rate, day in zip(
            pooled_variance_floor(rates[0], rates[1]), pooled_variance_floor(days[0], days[1]), strict=True
        )
    ]  # fmt: skip
    return ReturnMetrics(
        window_days=window_days, champion=variants[0], challenger=variants[1],
        rate_difference=difference(rates[0], rates[1], level, min_users, 1.0).interval(level),
        days_difference=difference(days[0], days[1], level, min_users, window_days).interval(level),
    )  # fmt: skip


def _part(stats: Mapping[str, VariantReturns], variant: str, name: str) -> VariantStats:
    found = stats.get(variant)
    if found is None:
        return VariantStats.from_sums(0, 0, 0.0, 0.0)
    return found.rate if name == "rate" else found.days
