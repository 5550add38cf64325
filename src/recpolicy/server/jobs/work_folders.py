"""The folder in which a job trains: one process at a time, empty before and gone after."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from recpolicy.server.jobs.subprocess_jobs import JobError


@contextmanager
def training_folder(work: Path, purpose: str = "for this server") -> Iterator[None]:
    """Hold the lock of a folder, without the files of a killed training; remove the folder afterwards.

    Args:
        work: The folder, which the caller makes; its lock is beside it.
        purpose: End of the message "another process is training ...".

    Raises:
        JobError: Another process trains here.
    """
    try:
        with FileLock(f"{work}.lock", timeout=0):
            shutil.rmtree(work, ignore_errors=True)
            try:
                yield
            finally:
                shutil.rmtree(work, ignore_errors=True)
    except Timeout:
        raise JobError(f"another process is training {purpose}") from None
