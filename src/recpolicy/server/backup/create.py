"""Create a backup of a state folder whose server may run.

The order of the copies makes them agree: the spool first, because its events may move into the database, never out of
it. Then online learning, which must not know rewards that the database lacks. Then the database, then the registry,
because events name versions. So each event that was acknowledged before the backup is in the spool or in the database.
"""

import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from recpolicy.core.errors import ConfigError, DataError
from recpolicy.core.files import atomic_directory, content_digest, file_digest, write_json
from recpolicy.registry.aliases import STATE as ALIASES
from recpolicy.registry.audit_log import AUDIT
from recpolicy.server.backup.databases import POSTGRES_FILE, SQLITE_FILE, copy_sqlite, describe, dump_postgres
from recpolicy.server.db.engine import sqlite_url
from recpolicy.server.new_items.allocation import allocation_path
from recpolicy.server.online.checkpoints import CURRENT, read_current
from recpolicy.server.online.rank_checkpoints import ONLINE_RANKS, read_rank_checkpoint

MANIFEST = "backup.json"
FORMAT, FORMAT_VERSION = "recpolicy backup", 1
SPOOL, ONLINE, REGISTRY, VERSIONS, STRATEGIES = "spool", "online", "registry", "versions", "strategies"
_TRIES = 5


@dataclass(frozen=True)
class Backup:
    """A backup that was created or read."""

    folder: Path
    database: str
    """sqlite or postgresql."""
    schema: str
    """Step of the migrations."""
    events: int
    """Events in the database; those in the spool come on top."""
    files: dict[str, str]
    """SHA-256 by path."""

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum((self.folder / name).stat().st_size for name in self.files)


def create_backup(state: Path, out: Path, registry: Path | None = None, database_url: str | None = None) -> Backup:
    """Copy the state of a server to a new folder that only its owner may read; it appears complete or not at all.

    Args:
        state: The state folder.
        out: The folder of the backup, which must not exist.
        registry: The registry, if it is neither the state folder nor `registry` in it.
        database_url: URL of the database; None: server.db in the state folder.

    Raises:
        ConfigError: `out` exists, or a program is missing.
        DataError: The folders are not those of a server.
        StoreError: The database does not answer or is damaged.
    """
    registry = _registry_of(state, registry)
    if out.exists():
        raise ConfigError(f"{out}: already exists; choose a new folder for the backup")
    if out.absolute().is_relative_to(state.absolute()):
        raise ConfigError(f"{out}: lies in the state folder; choose a folder outside of it")
    postgres = database_url is not None and not database_url.startswith("sqlite")
    with atomic_directory(out) as folder:
        folder.chmod(0o700)
        # A spool file that is gone has been written to the database, which comes later.
        _copy_files(state / SPOOL, folder / SPOOL, _spool_files(state / SPOOL), may_disappear=True)
        _copy_online(state / ONLINE, folder / ONLINE, _learned_arms)
        _copy_online(state / ONLINE_RANKS, folder / ONLINE_RANKS, _learned_policy)
        if postgres:
            assert database_url is not None
            dump_postgres(database_url, folder / POSTGRES_FILE)
            described = describe(database_url)
        else:
            copy_sqlite(_sqlite_path(state, database_url), folder / SQLITE_FILE)
            described = describe(sqlite_url(folder / SQLITE_FILE))
        allocation = allocation_path(state)
        _copy_files(state, folder, [allocation] if allocation.is_file() else [], may_disappear=True)
        if (state / STRATEGIES / ALIASES).is_file():
            _copy_files(state / STRATEGIES, folder / STRATEGIES, _registry_files(state / STRATEGIES))
        place = folder if registry.resolve() == state.resolve() else folder / REGISTRY
        _copy_files(registry, place, _registry_files(registry))
        files = {str(path.relative_to(folder)): file_digest(path) for path in sorted(_files_in(folder))}
        kind = "postgresql" if postgres else "sqlite"
        body = {
            "format": FORMAT, "version": FORMAT_VERSION, "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "database": kind, **described, "files": files,
        }  # fmt: skip
        write_json(folder / MANIFEST, {**body, "digest": content_digest(body)})
        (folder / MANIFEST).chmod(0o600)
    out.chmod(0o700)
    return Backup(out, kind, str(described["schema"]), int(described["events"]), files)


def copy_file(source: Path, target: Path) -> None:
    """Copy a file for its owner only, durably; a read-only file stays read-only."""
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with source.open("rb") as old:
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as new:  # noqa: PTH123 - a descriptor, not a path
            shutil.copyfileobj(old, new, 1 << 20)
            new.flush()
            os.fsync(new.fileno())
    target.chmod(source.stat().st_mode & 0o700)


def _registry_of(state: Path, registry: Path | None) -> Path:
    places = [registry] if registry is not None else [state, state / REGISTRY]
    for place in places:
        if (place / ALIASES).is_file():
            return place
    raise DataError(f"{places[-1]}: not a registry; name the server's registry with --registry")


def _sqlite_path(state: Path, database_url: str | None) -> Path:
    if database_url is None:
        return state / SQLITE_FILE
    from sqlalchemy import make_url

    return Path(str(make_url(database_url).database))


def _spool_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jsonl"))


def _registry_files(registry: Path) -> Iterator[Path]:
    """Yield the files of a registry: first the aliases, whose versions exist before them."""
    yield registry / ALIASES
    if (registry / AUDIT).exists():
        yield registry / AUDIT
    yield from sorted(_files_in(registry / VERSIONS))


def _files_in(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder, without temporary ones."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.is_file() and not path.is_symlink() and not hidden:
            yield path


def _copy_files(source: Path, target: Path, files: Iterable[Path], *, may_disappear: bool = False) -> None:
    for path in files:
        try:
            copy_file(path, target / path.relative_to(source))
        except FileNotFoundError:
            if not may_disappear:
                raise DataError(f"{path}: disappeared during the backup; run it again") from None


def _copy_online(source: Path, target: Path, named: Callable[[Path], str]) -> None:
    """Copy the checkpoints of all policies; a step may replace the files in between.

    Args:
        source: The folder of the checkpoints, one folder a policy.
        target: The folder of the copies.
        named: Returns the file or folder that the current state in a folder names; "" if it names none.
    """
    for folder in sorted(source.iterdir()) if source.is_dir() else ():
        for attempt in range(_TRIES):
            try:
                _copy_checkpoint(folder, target / folder.name, named)
                break
            except FileNotFoundError:
                if attempt == _TRIES - 1:
                    raise DataError(f"{folder}: changes all the time; run the backup again") from None


def _copy_checkpoint(folder: Path, target: Path, named: Callable[[Path], str]) -> None:
    """Copy current.json and then what it names, which may have grown; raise FileNotFoundError if that is gone."""
    shutil.rmtree(target, ignore_errors=True)
    if not (folder / CURRENT).is_file():
        return
    copy_file(folder / CURRENT, target / CURRENT)
    name = named(target)
    if not name:
        return
    if not (folder / name).exists():
        raise FileNotFoundError(folder / name)
    for path in _files_in(folder / name) if (folder / name).is_dir() else [folder / name]:
        copy_file(path, target / path.relative_to(folder))


def _learned_arms(folder: Path) -> str:
    """Return the file of the arms in the current state of online learning."""
    state = read_current(folder)
    return "" if state is None else state.file


def _learned_policy(folder: Path) -> str:
    """Return the folder of the policy in the current state of online learning from ranks."""
    checkpoint = read_rank_checkpoint(folder)
    return "" if checkpoint is None else checkpoint.folder
