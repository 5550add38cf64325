"""Metrics of a rollout stage: rewards of both variants with anytime-valid intervals, failures, times, shadow lists.

Users are the units, each with the mean of their rewards; a user has one variant. The confidence sequences hold at all
looks at once, so one may look at any time and stop at any time. They rest on the central limit theorem, so they are
infinitely wide below a minimum number of users. Everything works element by element: numbers, or arrays of one shape.

Source: Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas 2024, theorem 2.2 (core/statistics.py). The difference is theirs
for a randomized experiment (section 3) with the variants' means as the only regression. A user of a variant with
traffic fraction p has the influence (reward - mean of the variant) / p, so the variance of the difference of
n = n1 + n0 users is n (var1 / n1 + var0 / n0) / n.

If nearly all rewards are equal, a small group may have no variance yet by chance, and then its sequence has no width.
With 2 % ones and otherwise fives, 10 % of the users in the challenger's group and 30 users per variant, 38 of 100
sequences excluded a difference of 0 at some time. So each variant has at least the pooled variance; then none did
(tests/server/test_variant_statistics.py). Where all rewards of both variants are equal, the second part of every
interval remains: one more reward at an end of the range (core/statistics.py). In the difference that reward counts
among the n users of both variants, as in the pooled variance. If none of n users gave it, at most a share c^2 / n of
them does. A variant of n1 users then has the error sqrt(c^2 / (n n1)) range, as from sqrt(n n1) users.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recpolicy.core.json import to_plain
from recpolicy.core.statistics import Interval, confidence_sequence_half_width, largest_step, pooled_variance
from recpolicy.server.live_models import CHALLENGER, CHAMPION

Numbers = NDArray[np.float64] | float


@dataclass(frozen=True)
class VariantHealth:
    """Counts and times of a variant's answers."""

    requests: int = 0
    failures: int = 0
    slow: int = 0
    """Answers that took longer than slow_ms."""
    seconds: float = 0.0
    """Total time to choose."""
    agreement: float = 0.0
    """Shadow: sum over requests of the fraction of the champion's list that is also in the challenger's."""
    rating_difference: float = 0.0
    """Shadow: sum of the mean differences of predicted ratings of the served items, challenger - champion."""
    dropped: int = 0
    """Shadow: requests that were not compared because too many waited."""

    def __add__(self, other: "VariantHealth") -> "VariantHealth":
        pairs = zip(asdict(self).values(), asdict(other).values(), strict=True)
        return VariantHealth(*(mine + its for mine, its in pairs))

    @property
    def mean_ms(self) -> float | None:
        """Mean time to choose in milliseconds; None without requests."""
        return 1e3 * self.seconds / self.requests if self.requests else None


@dataclass(frozen=True)
class VariantStats:
    """Rewards of the users of one variant."""

    users: Numbers
    rewards: Numbers
    """Number of rewards."""
    mean: Numbers
    """Mean over users of each user's mean reward; nan without users."""
    variance: Numbers
    """Sample variance over users; nan below two users."""

    @classmethod
    def from_sums(cls, users: Numbers, rewards: Numbers, total: Numbers, squares: Numbers) -> "VariantStats":
        """Return the statistics from the sums over users of their means and of the squared means."""
        with np.errstate(divide="ignore", invalid="ignore"):
            count = np.asarray(users, np.float64)
            mean = np.asarray(total) / count
            variance = np.maximum(np.asarray(squares) / count - mean**2, 0.0) * count / (count - 1)
        return cls(users, rewards, _scalar(mean), _scalar(np.where(count < 2, np.nan, variance)))


@dataclass(frozen=True)
class ConfidenceSequence:
    """Estimates with anytime-valid intervals; infinitely wide below the minimum number of users."""

    value: Numbers
    lo: Numbers
    hi: Numbers

    def interval(self, level: float) -> Interval:
        """Return the interval of a single estimate."""
        return Interval(float(self.value), float(self.lo), float(self.hi), level)


@dataclass(frozen=True)
class Rewards:
    """Rewards of a variant in a stage."""

    users: int = 0
    rewards: int = 0
    mean: Interval = field(default_factory=Interval.unbounded)


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


@dataclass(frozen=True, kw_only=True)
class StageMetrics:
    """The metrics that a rollout decision rests on."""

    hours: float = 0.0
    """Hours since the stage began."""
    champion: Rewards = field(default_factory=Rewards)
    challenger: Rewards = field(default_factory=Rewards)
    difference: Interval = field(default_factory=Interval.unbounded)
    """Challenger - champion."""
    champion_health: VariantHealth = field(default_factory=VariantHealth)
    challenger_health: VariantHealth = field(default_factory=VariantHealth)
    returns: ReturnMetrics | None = None
    """Returns of the users; None: the plan has no retention criterion."""

    def as_dict(self) -> dict[str, Any]:
        """Return the metrics as JSON; null where there is no number yet."""
        metrics: dict[str, Any] = to_plain(asdict(replace(self, returns=None)))
        metrics["returns"] = None if self.returns is None else to_plain(self.returns.as_dict())
        for interval in (metrics["difference"], metrics["champion"]["mean"], metrics["challenger"]["mean"]):
            del interval["level"]
        return metrics


def compute_stage_metrics(
    stats: dict[str, VariantStats],
    health: dict[str, VariantHealth],
    hours: float,
    level: float,
    min_users: int,
    width: float,
) -> StageMetrics:
    """Return the metrics of a stage.

    Args:
        stats: statistics by variant; a missing variant has no data yet. health: the same of its answers.
        hours: since the stage began. level: probability that all intervals hold at all looks.
        min_users: users below which an interval is infinite. width: range of the rewards, maximum - minimum.
    """
    none = VariantStats.from_sums(0, 0, 0.0, 0.0)
    champion, challenger = stats.get(CHAMPION, none), stats.get(CHALLENGER, none)
    first, second = pooled_variance_floor(champion, challenger)
    return StageMetrics(
        hours=hours,
        champion=_rewards(first, level, min_users, width),
        challenger=_rewards(second, level, min_users, width),
        difference=difference(champion, challenger, level, min_users, width).interval(level),
        champion_health=health.get(CHAMPION, VariantHealth()),
        challenger_health=health.get(CHALLENGER, VariantHealth()),
    )


def pooled_variance_floor(champion: VariantStats, challenger: VariantStats) -> tuple[VariantStats, VariantStats]:
    """Return both variants, each with at least the pooled variance within both."""
    groups = (champion, challenger)
    raised = pooled_variance([group.variance for group in groups], [group.users for group in groups])
    first, second = (replace(group, variance=_scalar(variance)) for group, variance in zip(groups, raised, strict=True))
    return first, second


def mean_reward(stats: VariantStats, level: float, min_users: int, width: float = 0.0) -> ConfidenceSequence:
    """Return the mean reward of a variant's users, for rewards in a range of this width."""
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(np.asarray(stats.variance) / np.asarray(stats.users, np.float64))
    enough = np.asarray(stats.users) >= max(min_users, 2)
    return _sequence(stats.mean, error, stats.users, enough, level, largest_step(width, stats.users))


def difference(
    champion: VariantStats, challenger: VariantStats, level: float, min_users: int, width: float = 0.0
) -> ConfidenceSequence:
    """Return the mean of the challenger's users minus that of the champion's; each needs `min_users`.

    `width` is the range of the rewards; without it, equal rewards have intervals without a width.
    """
    groups = pooled_variance_floor(champion, challenger)
    with np.errstate(divide="ignore", invalid="ignore"):
        error = np.sqrt(sum(np.asarray(group.variance) / np.asarray(group.users, np.float64) for group in groups))
    fewest = np.minimum(champion.users, challenger.users)
    users = np.asarray(champion.users, np.float64) + challenger.users
    value = np.asarray(challenger.mean) - champion.mean
    sizes = [np.sqrt(users * np.asarray(group.users, np.float64)) for group in groups]  # see the module's docstring
    step = largest_step(width, *sizes)
    return _sequence(_scalar(value), error, users, fewest >= max(min_users, 2), level, step)


def _rewards(stats: VariantStats, level: float, min_users: int, width: float) -> Rewards:
    return Rewards(int(stats.users), int(stats.rewards), mean_reward(stats, level, min_users, width).interval(level))


def _sequence(value: Numbers, error: Any, users: Numbers, enough: Any, level: float, step: Any) -> ConfidenceSequence:
    users = np.asarray(np.maximum(users, 1), np.float64)
    half = confidence_sequence_half_width(np.asarray(error), users, level, step=step)
    half = np.where(enough & np.isfinite(half), half, np.inf)
    middle = np.where(np.isfinite(value), value, 0.0)
    return ConfidenceSequence(value, _scalar(middle - half), _scalar(middle + half))


def _scalar(values: Any) -> Numbers:
    """Return a float for an array without dimensions."""
    array = np.asarray(values, np.float64)
    return float(array) if array.ndim == 0 else array
