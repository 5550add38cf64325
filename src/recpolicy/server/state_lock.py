"""A lock between the servers of a state folder and a restore: any number of servers, or one restore.

The operating system releases the lock at the end of a process. A restore that was killed leaves a marker, and no server
starts on such a folder.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recpolicy.core.errors import StoreError

LOCK, MARKER = ".server.lock", ".restoring"


@contextmanager
def serving(folder: Path) -> Iterator[None]:
    """Hold the lock of a server; raises StoreError during a restore, or after one that did not finish."""
    with _locked(folder, fcntl.LOCK_SH) as locked:
        if not locked:
            raise StoreError(f"{folder}: a restore is running; start the server after it")
        if (folder / MARKER).exists():
            raise StoreError(f"{folder}: a restore did not finish; run recpolicy admin restore --force again")
        yield


@contextmanager
def restoring(folder: Path) -> Iterator[None]:
    """Hold the lock of a restore; raises StoreError while a server uses the folder."""
    with _locked(folder, fcntl.LOCK_EX) as locked:
        if not locked:
            raise StoreError(f"{folder}: a server, or another restore, uses this state folder; stop it first")
        yield


@contextmanager
def _locked(folder: Path, kind: int) -> Iterator[bool]:
    """Yield True with the lock, False if another process holds it."""
    descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
    finally:
        os.close(descriptor)
