"""All settings of a server: a TOML file with one table a component, each beside what it sets."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from recpolicy.core.config import build, read_toml, reject_unknown_tables
from recpolicy.core.errors import ConfigError
from recpolicy.inference.slate_selection import ExplorationConfig
from recpolicy.server.jobs.alerts import AlertsConfig
from recpolicy.server.jobs.config import JobsConfig
from recpolicy.server.jobs.drift_statistics import DriftConfig
from recpolicy.server.online.learner import OnlineConfig
from recpolicy.server.rate_limit import LimitsConfig
from recpolicy.server.rollout.rollout_plan import RolloutConfig


@dataclass(frozen=True, kw_only=True)
class FeedbackConfig:
    """How feedback becomes rewards."""

    window_days: float = 7.0
    """Feedback on events older than this gives no reward; > 0."""

    def __post_init__(self) -> None:
        if not 0 < self.window_days <= 365:
            raise ConfigError(f"window_days is {self.window_days:g}; expected within 0 (excluded) and 365")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The settings of a server."""

    feedback: FeedbackConfig = field(default_factory=FeedbackConfig)
    exploration: ExplorationConfig = field(default_factory=ExplorationConfig)
    limits: LimitsConfig = field(default_factory=LimitsConfig)
    online: OnlineConfig = field(default_factory=OnlineConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    jobs: JobsConfig = field(default_factory=JobsConfig)
    drift: DriftConfig = field(default_factory=DriftConfig)
    alerts: AlertsConfig = field(default_factory=AlertsConfig)


_TABLES: Mapping[str, Any] = {one.name: one.type for one in fields(Settings)}


def read_settings(path: Path | None) -> Settings:
    """The settings in a TOML file, defaults for what it leaves out; raises ConfigError that names file and key."""
    if path is None:
        return Settings()
    tables = read_toml(path)
    reject_unknown_tables(tables, tuple(_TABLES), str(path))
    return Settings(**{name: build(_TABLES[name], table, f"{path}: [{name}]") for name, table in tables.items()})
