"""The processes of a server: their open files and connections, the end of workers, and the folder of their metrics."""

import fcntl
import logging
import multiprocessing
import os
import resource
import shutil
import signal
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

MAX_OPEN_FILES = 65_536
_RESERVED_FILES = 128
"""For the database, the spool, the registry, logs and jobs."""
_BACKLOG = 2_048
_SECONDS_TO_FINISH = 15.0
_METRICS = "recpolicy-metrics-"
_LOCK = ".lock"


def raise_open_files() -> int:
    """Raise this process's soft limit of open files to the hard limit; return the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return MAX_OPEN_FILES if soft == resource.RLIM_INFINITY else soft


def connection_bounds(open_files: int) -> tuple[int, int]:
    """Return the largest number of open connections, and of connections that wait for their acceptance.

    A process accepts all waiting connections before it can close one, so it needs open files for both.
    """
    waiting = min(_BACKLOG, max(open_files // 4, 16))
    return max(open_files - waiting - _RESERVED_FILES, 16), waiting


def end_with_parent() -> None:
    """Stop this worker process when its parent dies; its port and its state are free for the next server then."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        logger.error("the parent process has ended, so this worker stops")
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_SECONDS_TO_FINISH)
        os._exit(1)

    threading.Thread(target=watch, name="recpolicy-parent-watch", daemon=True).start()


class MetricsFolder:
    """A new temporary folder in which the workers share their metrics; a killed server's folder goes at the next start.

    The lock lasts as long as the process, so that no other server deletes the folder.
    """

    def __init__(self) -> None:
        _remove_unused_folders()
        while True:
            self.path = Path(tempfile.mkdtemp(prefix=_METRICS))
            self._lock = os.open(self.path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX)
            if self.path.exists():  # else another server has deleted it just before the lock
                return
            os.close(self._lock)

    def remove(self) -> None:
        """Delete the folder."""
        shutil.rmtree(self.path, ignore_errors=True)
        os.close(self._lock)


def _remove_unused_folders() -> None:
    """Delete this user's folders of servers that were killed."""
    for path in Path(tempfile.gettempdir()).glob(f"{_METRICS}*"):
        with suppress(OSError):
            if path.is_symlink() or path.stat().st_uid != os.getuid():
                continue
            descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)  # none yet: it is new
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
            finally:
                os.close(descriptor)
