"""Restore a backup into a state folder that no server uses.

The files are first copied to a folder inside the state folder and checked. Then a marker is set, the old parts are
replaced one by one by renames, and the marker is removed. A restore that is killed before the marker changes nothing;
after it, no server starts until a restore has finished.
"""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recpolicy.core.errors import ArtifactError, ConfigError
from recpolicy.core.files import file_digest, read_versioned_json
from recpolicy.server.backup.create import (
    FORMAT,
    FORMAT_VERSION,
    MANIFEST,
    ONLINE,
    SPOOL,
    STRATEGIES,
    Backup,
    copy_file,
)
from recpolicy.server.backup.databases import (
    POSTGRES_FILE,
    SQLITE_FILE,
    SQLITE_FILES,
    check_schema,
    check_sqlite,
    restore_postgres,
)
from recpolicy.server.new_items.allocation import FOLDER as NEW_ITEMS
from recpolicy.server.online.rank_checkpoints import ONLINE_RANKS
from recpolicy.server.state_lock import LOCK, MARKER, restoring

_STAGING = ".restore"


def read_backup(folder: Path) -> Backup:
    """Return the description of a backup; raises ArtifactError for a folder that is none, or a damaged manifest."""
    path = folder / MANIFEST
    body = read_versioned_json(path, FORMAT, FORMAT_VERSION, digest_key="digest", advice="use another backup")
    try:
        files = {str(name): str(digest) for name, digest in body["files"].items()}
        backup = Backup(folder, str(body["database"]), str(body["schema"]), int(body["events"]), files)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{path}: not a complete backup: {error!r}") from None
    for name in files:
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise ArtifactError(f"{path}: {name!r} is not the name of a file in the backup")
    return backup


def restore_backup(folder: Path, state: Path, database_url: str | None = None, force: bool = False) -> Backup:
    """Fill a state folder from a backup.

    Args:
        folder: The backup.
        state: The state folder; with `force` its old content is replaced.
        database_url: URL of the PostgreSQL database of a backup that has a dump; None for SQLite.
        force: Replace a state that exists.

    Raises:
        ArtifactError: The backup is damaged.
        ConfigError: The state exists, or the kinds of the databases differ.
        DataError: The schema of the database is unknown.
        StoreError: A server uses the state folder, or the database fails.
    """
    backup = read_backup(folder)
    check_schema(backup.schema, folder)
    _check_database(backup, database_url)
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with restoring(state):
        if not force and any(path.name not in (LOCK, _STAGING) for path in state.iterdir()):
            raise ConfigError(f"{state}: not empty; --force replaces the state in it")
        staged = state / _STAGING
        with _staging(staged):
            _copy_checked(backup, staged)
            if backup.database == "sqlite":
                check_sqlite(staged / SQLITE_FILE)
            (state / MARKER).touch(0o600)
            if backup.database == "postgresql":
                assert database_url is not None
                restore_postgres(database_url, staged / POSTGRES_FILE, force)
                (staged / POSTGRES_FILE).unlink()
            _replace(staged, state)
            (state / MARKER).unlink()
    return backup


def _check_database(backup: Backup, database_url: str | None) -> None:
    wanted = "sqlite" if database_url is None else database_url.partition(":")[0].partition("+")[0]
    if wanted == "sqlite" and database_url is not None:
        raise ConfigError(
            "RECPOLICY_DATABASE_URL names an SQLite file; unset it to restore server.db to the state folder"
        )
    if backup.database != wanted:
        action = "unset" if wanted == "postgresql" else "set"
        raise ConfigError(f"{backup.folder}: has a {backup.database} database; {action} RECPOLICY_DATABASE_URL")


@contextmanager
def _staging(folder: Path) -> Iterator[None]:
    """Make an empty folder that is gone at the end."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _copy_checked(backup: Backup, target: Path) -> None:
    """Copy all files; raises ArtifactError for one that is missing or differs."""
    for name, digest in backup.files.items():
        source = backup.folder / name
        try:
            copy_file(source, target / name)
        except OSError as error:
            raise ArtifactError(f"{source}: cannot be read: {error.strerror}; use another backup") from None
        if file_digest(target / name) != digest:
            raise ArtifactError(f"{source}: changed since the backup; use another one")


def _replace(staged: Path, state: Path) -> None:
    """Move the staged parts to their places; old parts go first, also those that the backup lacks."""
    new = [path.name for path in staged.iterdir()]
    for name in dict.fromkeys((*SQLITE_FILES, SPOOL, ONLINE, ONLINE_RANKS, STRATEGIES, NEW_ITEMS, *new)):
        old = state / name
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink(missing_ok=True)
    for name in new:
        (staged / name).rename(state / name)
