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
from recpolicy.data.open_bandit import read_open_bandit
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
    users: int
    """Users that occur."""
    items: int
    """Items that were recommended or eligible."""
    skipped: int
    """Lines that are marked as excluded from learning."""
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
    user: str = "",
    item: str = "",
) -> ImportReport:
    """Read a log of another system and write it as a log of recpolicy, rewards included.

    Args:
        file: The log.
        out: The folder to write; it must not exist.
        format: A name in FORMATS.
        tables: The users and items of a policy or of ratings; the file must use their ids, and rewards are mapped from
            `scale` to their scale. Without them, the ids of the file are written to `out` (`read_import_tables`).
        scale: Lowest and highest reward of the file.
        user: For vw, the dotted name of the user id.
        item: For vw, the dotted name of the item id.

    Returns:
        The counts of the import.

    Raises:
        DataError: The file is wrong; names the file and the line.
        ConfigError: The format is unknown, or a setting is missing.
        ArtifactError: `out` exists.
    """
    if format not in FORMATS:
        raise unknown_name_error("format of logs", format, FORMATS)
    if (user or item) and format != "vw":
        raise ConfigError(f"user and item are names within JSON of the format vw; {format} has fixed columns")
    check_absent(Path(out))
    names = {"user": user, "item": item} if format == "vw" else {}
    imported = FORMATS[format](Path(file), tables, scale, **names)
    rounds = imported.rounds
    report = ImportReport(
        len(rounds),
        len(pd.unique(rounds.user)),
        len(rounds.action_items),
        imported.skipped,
        imported.lost,
        tables is None,
    )
    metadata = {"format": _KIND, "version": _VERSION, "scale": list(rounds.scale), "digest": file_digest(Path(file))}
    with atomic_directory(Path(out)) as folder:
        write_events(folder / EVENTS, rounds, imported.tables, with_rewards=True)
        if tables is None:
            imported.tables.users.to_parquet(folder / USERS, index=False)
            imported.tables.items.to_parquet(folder / ITEMS, index=False)
        write_json(folder / IMPORT, {**metadata, "source": format, **report.as_dict()})
    return report


def has_own_tables(folder: str | Path) -> bool:
    """Return True if `folder` is an imported log with users and items derived from it.

    Raises:
        ArtifactError: The metadata of the import is damaged.
    """
    path = Path(folder) / IMPORT
    return path.is_file() and bool(read_versioned_json(path, _KIND, _VERSION, _MIGRATIONS).get("derived"))


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
