"""The file of an open SQLite database: a server notices that it was removed or replaced, for example by a backup.

SQLite itself would go on writing to the removed file, and everything acknowledged since would be lost. A new file must
not meet the WAL of the old one either, because SQLite would apply it: such a WAL is renamed first.
"""

import os
import sqlite3
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Engine, event
from sqlalchemy.exc import OperationalError

from recpolicy.core.errors import StoreError

Identity = tuple[int, int] | None
"""Device and inode; None without a file."""
_WITHOUT_ACCESS = getattr(os, "O_PATH", os.O_RDONLY) | os.O_CLOEXEC
"""Such a descriptor keeps an inode from being used again; to close it does not end SQLite's locks."""
REMOVED = "the database file was removed; put it back, or restart the server to begin with an empty database"
REPLACED = "the database file was replaced"
EMPTY = "the database file is empty; put a database of recpolicy in its place, or remove it and restart the server"
WAL_REMOVED = "the WAL of the database was removed; restart the server"


class DatabaseFile:
    """The identity of the database file that this process has opened; PostgreSQL has none, and never changes.

    The engine opens no other file, and creates none: a statement fails instead.
    """

    def __init__(self, engine: Engine):
        name = engine.url.database if engine.dialect.name == "sqlite" else None
        self._path = None if name is None else Path(name)
        self._main, self._wal, self._shm = (_HeldFile(f"{self._path}{suffix}") for suffix in ("", "-wal", "-shm"))
        self._main.hold()
        self._wal_removed, self._closed = False, False
        self._candidate: Identity = None
        if self._path is not None:
            event.listen(engine, "do_connect", self._connect)
            event.listen(engine, "checkout", lambda *_: self._refuse_other_file())

    def opened(self) -> None:
        """Note the other files of the writer's connection; they are the same as long as it is open."""
        self._wal.hold()
        self._shm.hold()

    def check(self, writing: bool = False) -> None:
        """Raise StoreError if the file is not the open one; with `writing`, also if its WAL is not."""
        if self._path is None or self._closed:
            return
        if self._main.has_changed():
            raise StoreError(REPLACED if self._main.on_disk() else REMOVED)
        if writing and self._wal.has_changed():
            self._wal_removed = True
        if self._wal_removed:
            raise StoreError(WAL_REMOVED)

    def adopt(self) -> bool:
        """Accept the file that has replaced the open one; return True if there is one.

        The file must have been there at the call before, too: its own WAL may arrive later. Raises StoreError if there
        is no file, an empty one, or one that arrived since.
        """
        assert self._path is not None, "only a file can be replaced"
        found = self._main.on_disk()
        candidate, self._candidate = self._candidate, found
        if not self._main.has_changed():
            return False
        if found is None:
            raise StoreError(REMOVED)
        if not self._path.stat().st_size:
            raise StoreError(EMPTY)
        if candidate != found:
            raise StoreError(REPLACED)
        for file in (self._wal, self._shm):
            file.set_aside()
        self._main.hold()
        self._wal_removed = False
        return True

    def close(self) -> None:
        """Forget the files, and check them no more."""
        self._closed = True
        for file in (self._main, self._wal, self._shm):
            file.release()

    def _connect(self, _dialect: Any, _record: Any, arguments: list[Any], parameters: dict[str, Any]) -> None:
        self._refuse_other_file()
        arguments[0] = f"file:{quote(str(self._path))}?mode=rw"
        parameters["uri"] = True

    def _refuse_other_file(self) -> None:
        with suppress(StoreError):
            self.check()
            return
        raise OperationalError("", None, sqlite3.OperationalError(REPLACED))


class _HeldFile:
    """A path, and the file that it named when it was held last."""

    def __init__(self, path: str):
        self._path = path
        self._held: Identity = None
        self._descriptor: int | None = None

    def hold(self) -> None:
        """Note the present file."""
        self.release()
        with suppress(OSError):
            self._descriptor = os.open(self._path, _WITHOUT_ACCESS)
            state = os.fstat(self._descriptor)
            self._held = state.st_dev, state.st_ino

    def release(self) -> None:
        """Forget the file."""
        descriptor, self._descriptor, self._held = self._descriptor, None, None
        if descriptor is not None:
            os.close(descriptor)

    def on_disk(self) -> Identity:
        """Return the identity of the file at the path."""
        try:
            state = os.stat(self._path)  # noqa: PTH116 - runs for each commit; Path takes twice as long
        except OSError:
            return None
        return state.st_dev, state.st_ino

    def has_changed(self) -> bool:
        """Return True if the path does not name the held file."""
        return self.on_disk() != self._held

    def set_aside(self) -> None:
        """Rename the held file if the path still names it, and forget it."""
        if self._held is not None and not self.has_changed():
            os.replace(self._path, f"{self._path}.replaced")  # noqa: PTH105
        self.release()
