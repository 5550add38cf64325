"""Convert the log of another system into a folder that `ingest_log` reads."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from recpolicy.core.errors import ArtifactError, ConfigError, DataError, unknown_name_error
from recpolicy.core.files import atomic_directory, file_digest, read_versioned_json, rename_keys, write_json
from recpolicy.data.bandit_log_files import IdVocabulary, write_events
from recpolicy.data.log_import import UNIT, Imported
from recpolicy.data.log_parts import EVENTS
from recpolicy.data.log_vocabulary import own_vocabulary
from recpolicy.data.open_bandit import read_open_bandit
from recpolicy.data.slate_log_files import SLATES, write_slates
from recpolicy.data.vowpal_wabbit import read_vowpal_wabbit
from recpolicy.workflows.artifacts import check_absent

FORMATS: Mapping[str, Callable[..., Imported]] = {"obd": read_open_bandit, "vw": read_vowpal_wabbit}
IMPORT, USERS, ITEMS = "import.json", "users.parquet", "items.parquet"
_KIND, _VERSION = "recpolicy imported log", 2


def _from_version_1(body: dict[str, Any]) -> dict[str, Any]:
    """Return the metadata with items in place of movies; `paths` and `columns` map the old table of items."""
    return {
        **rename_keys(body, {"movies": "items"}),
        "paths": {ITEMS: "movies.parquet"},
        "columns": {"movie_id": "item_id"},
    }


_MIGRATIONS = {1: _from_version_1}


@dataclass(frozen=True)
class ImportReport:
    """Counts of an import."""

    rounds: int
    """Rounds; of lines with slots, one for each slot."""
    slates: int
    """Slates, if the log was written as a slate log; else 0."""
    slots: int
    """Largest number of slots of a line; 1 if a line is one choice."""
    users: int
    """Users that occur."""
    items: int
    """Items that were recommended or eligible."""
    skipped: int
    """Lines that are marked as excluded from learning."""
    dangling: int
    """Lines without a label, such as rewards that came without their event."""
    damaged: int
    """Lines that are no JSON, left out because `skip_damaged` was set."""
    unit: str
    """user, or round or slate if every round or slate counts as another person."""
    lost: tuple[str, ...]
    """Fields of the file that a log cannot hold."""
    derived: bool
    """True if users and items were derived from the file, because no policy or ratings were given."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values for JSON."""
        return asdict(self) | {"lost": list(self.lost)}


def import_log(
    file: str | Path,
    out: str | Path,
    format: str,
    tables: IdVocabulary | None = None,
    scale: tuple[float, float] = UNIT,
    *,
    columns: Mapping[str, str] | None = None,
    separator: str | None = None,
    unit: str = "",
    skip_damaged: bool = False,
) -> ImportReport:
    """Read a log of another system and write it as a log of recpolicy, rewards included.

    Lines of Vowpal Wabbit with several slots (CCB, slates) become a slate log. Lines of CCB with different numbers of
    slots, or with lists of actions for single slots, become rounds, one for each slot.

    Args:
        file: The log.
        out: The folder to write; it must not exist.
        format: A name in FORMATS.
        tables: The users and items of a policy or of ratings; the file must use their ids, and rewards are mapped from
            `scale` to their scale. Without them, the ids of the file are written to `out` (`read_import_tables`).
        scale: Lowest and highest reward of the file.
        columns: Names by meaning. For obd columns: time, user, item, reward and propensity. For vw the dotted names of
            user and item.
        separator: For obd, the separator of the file; a comma if None.
        unit: user or round: the independent parts of the log. By default round, unless the file names its users.
        skip_damaged: For vw, leave out and count lines that are no JSON.

    Returns:
        The counts of the import.

    Raises:
        DataError: The file is wrong; names the file and the line.
        ConfigError: The format is unknown, or a setting is missing.
        ArtifactError: `out` exists.
    """
    if format not in FORMATS:
        raise unknown_name_error("format of logs", format, FORMATS)
    options = _reader_options(format, dict(columns or {}), separator, skip_damaged)
    check_absent(Path(out))
    imported = FORMATS[format](Path(file), tables, scale, unit=unit, **options)
    rounds = imported.rounds
    report = ImportReport(
        len(rounds),
        0 if imported.slates is None else len(imported.slates),
        imported.slots,
        len(pd.unique(rounds.user)),
        len(rounds.action_items),
        **asdict(imported.left_out),
        unit=rounds.unit or "user",
        lost=imported.lost,
        derived=tables is None,
    )
    metadata = {"format": _KIND, "version": _VERSION, "scale": list(rounds.scale), "digest": file_digest(Path(file))}
    with atomic_directory(Path(out)) as folder:
        if imported.slates is None:
            write_events(folder / EVENTS, rounds, imported.tables, with_rewards=True)
        else:
            write_slates(folder / SLATES, imported.slates, imported.tables)
        if tables is None:
            imported.tables.users.to_parquet(folder / USERS, index=False)
            imported.tables.items.to_parquet(folder / ITEMS, index=False)
        write_json(folder / IMPORT, {**metadata, "source": format, **report.as_dict()})
    return report


def _reader_options(format: str, columns: dict[str, str], separator: str | None, skip_damaged: bool) -> dict[str, Any]:
    """Return the arguments of the reader; raise ConfigError for options that the format does not have."""
    if format == "vw":
        unknown = [*(f"--{meaning}" for meaning in columns if meaning not in ("user", "item"))]
        unknown += [] if separator is None else ["--separator"]
        if unknown:
            raise ConfigError(f"{', '.join(unknown)}: options of the format obd; vw has --user, --item")
        return {**columns, "skip_damaged": skip_damaged}
    if skip_damaged:
        raise ConfigError("--skip-damaged: an option of the format vw, whose lines are independent")
    return {"columns": columns, **({} if separator is None else {"separator": separator})}


def log_vocabulary(folder: str | Path, scale: tuple[float, float] = UNIT) -> IdVocabulary:
    """Return the users and items of a log that no policy and no ratings describe.

    Args:
        folder: An imported log, or a log of one's own, whose ids then come from its events or slates.
        scale: Lowest and highest reward of a log of one's own whose file does not say.

    Raises:
        DataError: The log is missing or wrong, or was imported with the users and items of a policy or of ratings.
        ArtifactError: The metadata of the import are damaged.
    """
    if (Path(folder) / IMPORT).is_file():
        return read_import_tables(folder)
    return own_vocabulary(Path(folder), scale)


def read_import_tables(folder: str | Path) -> IdVocabulary:
    """Return the users and items that were derived when the log in `folder` was imported.

    Raises:
        DataError: The log was imported with the users and items of a policy or of ratings.
        ArtifactError: The folder is not an imported log, or is damaged.
    """
    folder = Path(folder)
    metadata = read_versioned_json(folder / IMPORT, _KIND, _VERSION, _MIGRATIONS)
    if not metadata.get("derived"):
        raise DataError(f"{folder}: imported with the users and items of a policy or ratings: use --policy or --data")
    paths, old_names = metadata.get("paths", {}), metadata.get("columns", {})
    users = _read_ids(folder / USERS, "user_id", {})
    items = _read_ids(folder / paths.get(ITEMS, ITEMS), "item_id", old_names)
    return IdVocabulary(users, items, (metadata["scale"][0], metadata["scale"][1]))


def _read_ids(path: Path, column: str, old_names: Mapping[str, str]) -> pd.DataFrame:
    """Return a table that the import wrote, under the current names of its columns."""
    try:
        table = pd.read_parquet(path).rename(columns=dict(old_names))
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise ArtifactError(f"{path}: not readable as Parquet: {reason}; import the log again") from None
    if column not in table:
        raise ArtifactError(f"{path}: no column {column}; import the log again")
    return table
