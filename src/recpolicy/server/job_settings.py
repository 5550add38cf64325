"""Settings of what a server does by itself: rollouts, jobs on a schedule, the alarms of drift."""

from collections.abc import Mapping
from dataclasses import field
from typing import Annotated

from pydantic import Field

from recpolicy.core.config import (
    Count,
    CountOrZero,
    Fraction,
    NonNegativeNumber,
    Number,
    OpenFraction,
    PositiveNumber,
    config_dataclass,
)
from recpolicy.core.errors import ConfigError


@config_dataclass
class RolloutConfig:
    """The plan of a rollout."""

    stages: tuple[Fraction, ...] = (0.1, 0.5, 1.0)
    """Traffic fraction of the challenger in each stage; rising, above 0 and at most 1."""
    promote: bool = True
    """The challenger becomes champion after the last stage; false: an A/B comparison until it is stopped."""
    shadow: bool = False
    """The challenger's lists are computed and compared but not served. It neither advances nor is promoted."""
    min_users: Annotated[int, Field(ge=30, le=10**9)] = 200
    """Users with rewards that each variant needs in a stage before its rewards are compared."""
    min_rewards: Count = 500
    """Rewards that each variant needs in a stage."""
    min_hours: NonNegativeNumber = 24.0
    """Shortest duration of a stage."""
    max_hours: PositiveNumber = 336.0
    """Hours after which a challenger that may not advance is rolled back."""
    margin: NonNegativeNumber = 0.1
    """Tolerated harm, on the scale of the rewards."""
    level: Annotated[float, Field(ge=0.5, le=0.9999)] = 0.95
    """Probability that all statements about the rewards of one rollout hold together."""
    return_days: Annotated[float, Field(ge=0.1, le=90)] | None = None
    """Retention criterion: days within which a user comes back after the first session of the stage; null: off."""
    return_margin: Fraction = 0.02
    """Tolerated loss of the share of users who come back."""
    error_budget: Fraction = 0.01
    """Fraction of the challenger's answers that may fail within the window."""
    latency_budget: Annotated[float, Field(ge=1, le=1e6)] = 2.0
    """Largest ratio of the variants' mean times to choose, challenger / champion."""
    latency_floor_ms: NonNegativeNumber = 5.0
    """Mean time to choose, in milliseconds, that is never too slow."""
    slow_ms: Annotated[float, Field(ge=0.1, le=1e6)] = 25.0
    """An answer that takes longer to choose is slow; read at the start of the server."""
    slow_budget: Fraction = 0.01
    """Fraction of slow answers that the challenger may have beyond the champion's."""
    window_minutes: Annotated[int, Field(ge=1, le=1440)] = 15
    """Minutes of failures and times that count."""
    min_requests: Count = 100
    """Budgets are fractions of at least this many answers."""
    shadow_sample: Fraction = 0.1
    """Fraction of the requests that a shadow challenger also answers; read at the start of the server."""

    def __post_init__(self) -> None:
        rising = all(a < b for a, b in zip(self.stages, self.stages[1:], strict=False))
        if not self.stages or not rising or not all(0 < stage <= 1 for stage in self.stages):
            raise ConfigError(f"stages is {list(self.stages)}; expected rising fractions above 0 and at most 1")
        if not self.min_hours < self.max_hours:
            raise ConfigError(
                f"min_hours is {self.min_hours:g} and max_hours is {self.max_hours:g}; expected min_hours < max_hours"
            )
        if self.return_days is not None and self.return_days * 24 >= self.max_hours:
            raise ConfigError(
                f"return_days is {self.return_days:g} and max_hours is {self.max_hours:g}: no user is followed for so"
                " long within a stage; expected max_hours above 24 return_days"
            )
        if not self.promote and self.stages == (1.0,):
            raise ConfigError(
                "stages is [1.0] and promote is false: all users get the challenger, so there is no comparison"
            )

    @property
    def stage_level(self) -> float:
        """Level of one comparison: all stages and criteria that compare share the error probability of the rollout."""
        comparing = sum(stage < 1 for stage in self.stages) * (1 if self.return_days is None else 2)
        return 1 - (1 - self.level) / max(comparing, 1)


@config_dataclass
class JobsConfig:
    """The schedules of the jobs, and the thresholds of the training job."""

    enabled: bool = True
    """Run jobs on their schedules; an operator can always run them by hand."""
    cron: Mapping[str, str] = field(default_factory=dict)
    """Schedules by job name, in place of the defaults; "off": only by hand."""
    min_interactions_per_user: Count = 5
    """Rewards that a user must have given, ever, to be included in training."""
    min_interactions: Count = 1_000
    """New rewards of such users that a training needs."""
    wait_hours: NonNegativeNumber = 24.0
    """Time after an event during which its rewards count in training and evaluation."""
    places: CountOrZero = 10
    """First positions of an event that become rounds; 0: all."""
    evaluation_share: OpenFraction = 0.2
    """Fraction of the new rounds or sessions, the latest, on which the gate evaluates."""
    min_evaluation_rounds: Count = 100
    """Rounds that the gate needs; of session policies, steps."""
    gate: str | None = None
    """TOML file with the limits of the gate in its table [gate]; null: the defaults."""
    auto_rollout: bool = False
    """Start a rollout of each version that passes its gate."""
    evaluation_days: Annotated[float, Field(gt=0, le=365)] = 7.0
    """Days that the daily evaluation covers."""
    evaluation_events: Annotated[int, Field(ge=100, le=10**9)] = 200_000
    """Events that the estimates of the daily evaluation use; of more, a uniform sample."""


@config_dataclass
class DriftConfig:
    """The windows of the drift job, and its alarm thresholds."""

    recent_hours: PositiveNumber = 24.0
    """Length of the recent window."""
    reference_hours: PositiveNumber = 168.0
    """Length of the reference window before it."""
    min_count: Annotated[int, Field(ge=50, le=10**9)] = 500
    """Users (once per `recent_hours`) or events that both windows need."""
    max_events: Annotated[int, Field(ge=1_000, le=10**9)] = 20_000
    """Events per window that are read, the latest."""
    psi: PositiveNumber = 0.25
    """Alarm above this; 0.1 to 0.25 is usually called a moderate shift."""
    reward_allowance: PositiveNumber = 0.25
    """Tolerated shift of the mean reward in standard deviations: k of the CUSUM."""
    min_mean_reward: Number | None = None
    """Alarm if the mean reward of the recent window lies below this, whatever it was before (the upper end of its 95 %
    interval over users); None: no floor."""
    false_alarms: OpenFraction = 0.01
    """Probability of a false alarm of the reward in one recent window."""
    top_share: OpenFraction = 0.2
    """Alarm if the share of the most frequent item grew by more than this."""
    effective_ratio: OpenFraction = 0.5
    """Alarm if the effective number of items fell below this times the reference."""
