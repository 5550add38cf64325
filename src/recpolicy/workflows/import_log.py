"""From the log of another system to a log of ours: a folder that `ingest_log` reads like any other."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from recpolicy.core.errors import ArtifactError, ConfigError, DataError, unknown_name_error
from recpolicy.core.files import atomic_directory, file_digest, read_versioned_json, rename_keys, write_json
from recpolicy.data.bandit_log_files import EVENTS, IdVocabulary, write_events
from recpolicy.data.log_import import UNIT, Imported
from recpolicy.data.open_bandit import read_open_bandit
from recpolicy.data.vowpal_wabbit import read_vowpal_wabbit
from recpolicy.workflows.artifacts import refuse_existing

FORMATS: Mapping[str, Callable[..., Imported]] = {"obd": read_open_bandit, "vw": read_vowpal_wabbit}
IMPORT, USERS, ITEMS = "import.json", "users.parquet", "items.parquet"
_KIND, _VERSION = "recpolicy imported log", 2


def _from_version_1(note: dict[str, Any]) -> dict[str, Any]:
    """Return the note with items in place of movies; `paths` and `columns` tell what the table of items has."""
    return {
        **rename_keys(note, {"movies": "items"}),
        "paths": {ITEMS: "movies.parquet"},
        "columns": {"movie_id": "item_id"},
    }


_MIGRATIONS = {1: _from_version_1}


@dataclass(frozen=True)
class ImportReport:
    """What came in, and what did not."""

    rounds: int
    users: int
    """Users that occur."""
    items: int
    """Items that were shown or could be."""
    skipped: int
    """Lines that say of themselves that they are not to be learnt from."""
    lost: tuple[str, ...]
    """What of the file has no place in a log."""
    derived: bool
    """Whether users and items are those of the file, for want of a policy or ratings."""

    def as_dict(self) -> dict[str, Any]:
        """Plain JSON-able values."""
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
    """Read a log in a format of FORMATS and write it as one of ours, rewards included, to the folder `out`.

    tables: the users and items of a policy or of ratings, whose ids the file must use; rewards are then stretched from
    `scale` to theirs. Without, the tables are made of the ids that occur, and written beside (`read_import_tables`).
    user, item: for vw, the dotted names under which ids stand. Raises DataError that names file and line for anything
    wrong, ConfigError for an unknown format or a setting it lacks, ArtifactError when `out` exists; nothing is written.
    """
    if format not in FORMATS:
        raise unknown_name_error("format of logs", format, FORMATS)
    if (user or item) and format != "vw":
        raise ConfigError(f"user and item are names within JSON; the format {format} has columns of its own")
    refuse_existing(Path(out))
    names = {"user": user, "item": item} if format == "vw" else {}
    found = FORMATS[format](Path(file), tables, scale, **names)
    rounds = found.rounds
    report = ImportReport(
        len(rounds), len(pd.unique(rounds.user)), len(rounds.catalogue), found.skipped, found.lost, tables is None
    )
    note = {"format": _KIND, "version": _VERSION, "scale": list(rounds.scale), "digest": file_digest(Path(file))}
    with atomic_directory(Path(out)) as folder:
        write_events(folder / EVENTS, rounds, found.tables, with_rewards=True)
        if tables is None:
            found.tables.users.to_parquet(folder / USERS, index=False)
            found.tables.items.to_parquet(folder / ITEMS, index=False)
        write_json(folder / IMPORT, {**note, "source": format, **report.as_dict()})
    return report


def has_own_tables(folder: str | Path) -> bool:
    """Whether `folder` is an imported log whose users and items are those that occur in it.

    Raises ArtifactError where its note of the import is damaged.
    """
    note = Path(folder) / IMPORT
    return note.is_file() and bool(read_versioned_json(note, _KIND, _VERSION, _MIGRATIONS).get("derived"))


def read_import_tables(folder: str | Path) -> IdVocabulary:
    """The tables that were derived when the log in `folder` was imported.

    Raises DataError where there are none, as a policy or ratings gave them; ArtifactError for no imported log, or a
    damaged one.
    """
    folder = Path(folder)
    metadata = read_versioned_json(folder / IMPORT, _KIND, _VERSION, _MIGRATIONS)
    if not metadata.get("derived"):
        raise DataError(f"{folder}: imported with the users and items of a policy or of ratings; take those")
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
