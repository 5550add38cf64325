"""Inputs of a pipeline: addresses (s3://, gs://, minio://), or paths that the steps can read.

Kubeflow's importer takes only addresses on a cluster ("unrecognized uri format"), and paths on this machine. So on
a cluster a step that finds an input on a path copies it into its own artifact; the importer reads it from there.
"""

import shutil
from pathlib import Path

from recpolicy.core.errors import DataError
from recpolicy.core.files import atomic_directory


def is_address(uri: str) -> bool:
    """Return True if `uri` is an address. The importer reads it with its own credentials; the steps cannot."""
    return "://" in uri


def importable(source: Path, copy: Path, copy_uri: str) -> str:
    """Return the uri from which an importer can read the folder `source`.

    On this machine, where artifacts have paths, this is `source` itself. On a cluster the folder is copied to `copy`;
    Kubeflow uploads that to `copy_uri` after the step.
    """
    if not is_address(copy_uri):
        return str(source)
    with atomic_directory(copy) as folder:
        # Files that are still being written start with a dot and may disappear during the copy.
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    return copy_uri


def log_folder(log: str) -> Path:
    """Return the folder of a log; raise DataError if it does not exist."""
    folder = Path(log)
    if not folder.is_dir():
        raise DataError(
            f"log {log}: no such folder; expected one with events.parquet and rewards.parquet, on a volume of the steps"
            " (--volume CLAIM:/path), or an address such as s3://bucket/log"
        )
    return folder
