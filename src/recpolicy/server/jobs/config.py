"""What an operator can set about jobs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from recpolicy.core.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class JobsConfig:
    """When jobs run, and what the training job asks for."""

    enabled: bool = True
    """Whether jobs run by themselves; by hand they always can."""
    cron: Mapping[str, str] = field(default_factory=dict)
    """Other times than a job's own, by its name; "off": only by hand."""
    min_interactions_per_user: int = 5
    """Rewards that a user must have given, ever, to be learnt from; >= 1."""
    min_interactions: int = 1_000
    """New rewards of such users below which there is no training; >= 1."""
    wait_hours: float = 24.0
    """How long after its event a reward counts in training and evaluation; >= 0."""
    places: int = 10
    """How many of an event's first places become rounds; 0: all of them."""
    evaluation_share: float = 0.2
    """Share of the new rounds, the latest, that the gate judges by; within 0 and 1."""
    min_evaluation_rounds: int = 100
    """Rounds for the gate below which it is not asked; >= 1."""
    gate: str | None = None
    """TOML file with the gate's limits in its table [gate]; null: the defaults."""
    auto_rollout: bool = False
    """Whether a version that passed its gate is rolled out without being asked for."""
    evaluation_days: float = 7.0
    """Days that the daily evaluation looks at; > 0."""

    def __post_init__(self) -> None:
        for name in ("min_interactions_per_user", "min_interactions", "min_evaluation_rounds"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 1 or more")
        for name in ("wait_hours", "places"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0 or more")
        if not 0 < self.evaluation_share < 1:
            raise ConfigError(f"evaluation_share is {self.evaluation_share:g}; expected within 0 and 1")
        if not 0 < self.evaluation_days <= 365:
            raise ConfigError(f"evaluation_days is {self.evaluation_days:g}; expected within 0 (excluded) and 365")
