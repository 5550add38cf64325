"""Train strategy policies from logs: settle rewards, take the window, learn every round once, write the artifact."""

from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.core.files import write_json
from recpolicy.data.feature_log import FeatureLog
from recpolicy.data.feature_log_files import feature_log_part, read_feature_log
from recpolicy.data.feature_log_ingest import ingest_features
from recpolicy.data.log_ingest import IngestConfig
from recpolicy.data.log_parts import log_parts
from recpolicy.data.signal_files import SIGNALS
from recpolicy.strategies.artifact import read_strategy_policy, write_strategy_policy
from recpolicy.strategies.config import StrategyConfig, read_strategy_config, schema_difference
from recpolicy.strategies.log_rounds import rounds_from_log
from recpolicy.strategies.policy import StrategyPolicy
from recpolicy.strategies.training import DAYS_BACK, MIN_INTERACTIONS, TrainingStatistics, train_on_rounds
from recpolicy.workflows.artifacts import LEARNED_EVENTS, LOG_UNTIL, check_absent

STATISTICS = "training.json"


@dataclass(frozen=True)
class StrategyTraining:
    """A trained policy and the statistics of its training."""

    policy: StrategyPolicy
    statistics: TrainingStatistics
    log: FeatureLog
    """The settled log."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        return {"policy_digest": self.policy.policy_digest, **self.statistics.as_dict(), "table": self.policy.stats()}


def read_strategy_log(path: str | Path, config: StrategyConfig) -> FeatureLog:
    """Return the rounds of a log of strategies with their rewards.

    A log with a file of signals gets the rewards of the table [reward], once the windows are closed. The rounds of
    another log have their rewards already; of an ingested log these are the rounds for training.

    Args:
        path: Folder or file of a feature log.
        config: The settings of the engine.

    Raises:
        DataError: The log is wrong or has no rewards yet; a signal has no weight in [reward].
    """
    path = Path(path)
    if path.is_dir() and log_parts(path, SIGNALS):
        settings = IngestConfig(reward=config.reward, evaluation_share=0.0)
        return ingest_features(path, settings, str(path))[0]
    part = feature_log_part(path, "training") if path.is_dir() else path
    return read_feature_log(part, str(path))


def train_strategy(
    log: str | Path | FeatureLog,
    out: str | Path,
    config: StrategyConfig | str | Path | None = None,
    *,
    incumbent: str | Path | StrategyPolicy | None = None,
    days_back: float = DAYS_BACK,
    min_interactions: int = MIN_INTERACTIONS,
    until: int | None = None,
) -> StrategyTraining:
    """Train a strategy policy on the last days of a log and write it to the folder `out`.

    Args:
        log: The log, or its folder.
        out: The folder to write; it must not exist.
        config: The settings or their TOML file; None takes those of the incumbent, or the defaults.
        incumbent: The policy to continue from, or its folder; None starts a new one.
        days_back: Length of the window in days.
        min_interactions: Interactions in the window that a user needs.
        until: End of the window in milliseconds since 1970; None is the time of the last round.

    Returns:
        The policy, as read from `out`, and the statistics.

    Raises:
        ArtifactError: `out` exists, or the incumbent is damaged.
        ConfigError: A setting is wrong, or the incumbent has another schema or other rewards.
        DataError: The log is wrong, or there is nothing new to learn; says why.
    """
    check_absent(Path(out))
    old = read_strategy_policy(incumbent) if isinstance(incumbent, str | Path) else incumbent
    settings = training_settings(config, None if old is None else old.config)
    start = StrategyPolicy(settings) if old is None else replace(old, config=settings)
    settled = read_strategy_log(log, settings) if isinstance(log, str | Path) else log
    learned, statistics = train_on_rounds(
        start, rounds_from_log(settled, settings), days_back=days_back, min_interactions=min_interactions, until=until
    )
    metadata: dict[str, Any] = {
        **({} if old is None else old.metadata),
        "data": settled.name, "log": settled.digest, LOG_UNTIL: statistics.window_end,
        LEARNED_EVENTS: statistics.interactions, "training": {"mode": "log", **statistics.as_dict()},
        "versions": {name: version(name) for name in ("recpolicy", "numpy")},
    }  # fmt: skip
    if old is not None:
        parent = {"policy_digest": old.policy_digest, "log": old.metadata.get("log")}
        metadata["parents"] = [*old.metadata.get("parents", []), parent]
    write_strategy_policy(replace(learned, metadata=metadata), Path(out))
    return StrategyTraining(read_strategy_policy(out), statistics, settled)


def training_settings(config: StrategyConfig | str | Path | None, old: StrategyConfig | None) -> StrategyConfig:
    """Return the settings of a training; raise ConfigError for those that the incumbent cannot continue with."""
    if config is None:
        return StrategyConfig() if old is None else old
    settings = config if isinstance(config, StrategyConfig) else read_strategy_config(config)
    if old is None:
        return settings
    if difference := schema_difference(old, settings):
        raise ConfigError(
            f"the policy to continue from has another schema: {difference}; train a new policy, without it"
        )
    if old.reward != settings.reward:
        raise ConfigError(
            "the policy to continue from learned other rewards than [reward] gives; train a new policy, without it"
        )
    return settings


def write_statistics(training: StrategyTraining, path: str | Path) -> None:
    """Write the statistics of a training as JSON."""
    path = Path(path)
    if path.exists():
        raise ArtifactError(f"{path}: already exists; choose another file")
    write_json(path, training.as_dict())
