"""Import and ingest logs of rounds with features."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from recpolicy.core.errors import ConfigError, unknown_name_error
from recpolicy.core.files import atomic_directory, file_digest, write_json
from recpolicy.data.feature_import import ImportedFeatureLog, read_vowpal_wabbit_features
from recpolicy.data.feature_log_files import EVALUATION, TRAINING, write_feature_log
from recpolicy.data.feature_log_ingest import FeatureIngestReport, ingest_features
from recpolicy.data.feature_tables import read_feature_table, read_open_bandit_features
from recpolicy.data.log_import import UNIT
from recpolicy.data.log_ingest import IngestConfig
from recpolicy.data.reward_signals import RewardSummary, summarize_rewards
from recpolicy.workflows.artifacts import check_absent
from recpolicy.workflows.training_data import coerce

FEATURE_FORMATS: Mapping[str, Callable[..., ImportedFeatureLog]] = {
    "obd": read_open_bandit_features,
    "table": read_feature_table,
    "vw": read_vowpal_wabbit_features,
}
"""Readers of logs of other systems that keep all features, by the name of the format."""
IMPORT, REPORT = "import.json", "ingest.json"
_VW_COLUMNS = ("user", "item")


@dataclass(frozen=True)
class FeatureImportReport:
    """Counts and names of an import that keeps features."""

    rounds: int
    users: int
    """Users that occur; 0 if the file names none."""
    slots: int
    """Largest number of slots of a line; 1 if a line is one choice."""
    actions: int
    """Ids of actions that were offered."""
    contents: int
    """Distinct actions: an id with other features counts again."""
    context: tuple[str, ...]
    """Names of the features of contexts."""
    features: tuple[str, ...]
    """Names of the features of actions."""
    skipped: int
    """Lines that are marked as excluded from learning."""
    dangling: int
    """Lines without a label."""
    damaged: int
    """Lines that are no JSON."""
    weighted: bool
    """True if rounds have weights (`pdrop`)."""
    lost: tuple[str, ...]
    """Fields of the file that the log does not have."""
    rewards: RewardSummary

    def as_dict(self) -> dict[str, Any]:
        """Return plain JSON-able values."""
        names = {name: list(getattr(self, name)) for name in ("context", "features", "lost")}
        return asdict(self) | names | {"rewards": self.rewards.as_dict()}


def import_feature_log(
    file: str | Path,
    out: str | Path,
    format: str,
    scale: tuple[float, float] = UNIT,
    *,
    columns: Mapping[str, str] | None = None,
    separator: str | None = None,
    unit: str = "",
    skip_damaged: bool = False,
    context: tuple[str, ...] | None = None,
    items: str | Path | None = None,
    actions: str | None = None,
) -> FeatureImportReport:
    """Read a log of another system with all its features, and write it as a feature log.

    Args:
        file: The log.
        out: The folder to write; it must not exist.
        format: A name in FEATURE_FORMATS.
        scale: Lowest and highest reward of the file.
        columns: Names by meaning: time, user, item, reward and propensity; for vw the dotted names of user and item.
        separator: Separator of a CSV file; a comma if None.
        unit: user or round: the independent parts of the log. By default round, unless the file names its users.
        skip_damaged: For vw, leave out and count lines that are no JSON.
        context: Columns that are features of the context; None takes all that have no other meaning.
        items: Table of the actions with their features.
        actions: Column with the actions of each round.

    Returns:
        The counts of the import.

    Raises:
        DataError: The file is wrong; names the file and the line.
        ConfigError: The format is unknown, or an option is of another format.
        ArtifactError: `out` exists.
    """
    if format not in FEATURE_FORMATS:
        raise unknown_name_error("format of logs with features", format, FEATURE_FORMATS)
    options: dict[str, Any] = {
        "separator": separator, "context": context, "items": None if items is None else Path(items), "actions": actions,
    }  # fmt: skip
    options = {name: value for name, value in options.items() if value is not None}
    if format == "vw":
        options |= {key: value for key, value in (columns or {}).items() if key not in _VW_COLUMNS}
        if options:
            names = ", ".join(f"--{name}" for name in options)
            raise ConfigError(f"{names}: options of the formats obd and table; vw has --user, --item")
        options = {**(columns or {}), "skip_damaged": skip_damaged}
    elif skip_damaged:
        raise ConfigError("--skip-damaged: an option of the format vw, whose lines are independent")
    else:
        options["columns"] = dict(columns or {})
    check_absent(Path(out))
    imported = FEATURE_FORMATS[format](Path(file), scale, unit=unit, **options)
    log = imported.log
    report = FeatureImportReport(
        rounds=len(log), users=0 if log.user is None or not imported.named else len(set(log.units.tolist())),
        slots=imported.slots,
        actions=len({(type(identifier), identifier) for identifier in log.action_id.tolist()}),
        contents=len(log.action_id), context=tuple(sorted(log.context)), features=tuple(sorted(log.actions)),
        **asdict(imported.left_out), weighted=log.weight is not None, lost=imported.lost,
        rewards=summarize_rewards(log.reward, log.reward_range),
    )  # fmt: skip
    with atomic_directory(Path(out)) as folder:
        write_feature_log(log, folder)
        write_json(folder / IMPORT, {"source": format, "digest": file_digest(Path(file)), **report.as_dict()})
    return report


def ingest_feature_log(
    folder: str | Path, out: str | Path, config: IngestConfig | Mapping[str, Any] | None = None
) -> FeatureIngestReport:
    """Settle the rewards of a feature log, split it by time, and write both parts to `out`.

    Args:
        folder: Folder or file of a raw feature log.
        out: The folder to write; it must not exist. It gets the folders TRAINING and EVALUATION, which is left out with
            `evaluation_share = 0`.
        config: An IngestConfig or its settings, also with the table `reward`.

    Returns:
        Counts of all events and signals.

    Raises:
        DataError: The log is wrong; names the file and the row.
        ConfigError: A setting is out of range.
        ArtifactError: `out` exists.
    """
    check_absent(Path(out))
    settings = coerce(IngestConfig, config, "ingest")
    training, evaluation, report = ingest_features(Path(folder), settings, Path(folder).name)
    with atomic_directory(Path(out)) as tmp:
        write_feature_log(training, tmp / TRAINING)
        if evaluation is not None:
            write_feature_log(evaluation, tmp / EVALUATION)
        write_json(tmp / REPORT, report.as_dict())
    return report
