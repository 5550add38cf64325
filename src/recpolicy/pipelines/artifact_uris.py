"""Where an input of a pipeline lies: at an address (s3://, gs://, minio://), or on a path that the steps can read.

On a cluster Kubeflow's importer takes addresses alone ("unrecognized uri format"); on this machine it takes paths. So
what lies on a path of a cluster is copied into the artifact of the step that found it, and imported from there.
"""

import shutil
from pathlib import Path

from recpolicy.core.errors import DataError
from recpolicy.core.files import atomic_directory


def is_address(place: str) -> bool:
    """Whether the importer reads it with credentials of its own, and the steps do not."""
    return "://" in place


def importable(source: Path, copy: Path, address: str) -> str:
    """Where the folder `source` can be imported from: `source` itself where artifacts lie on paths, as `address` tells.

    Where they have addresses, it is copied to `copy`, which the cluster uploads to `address` when the step is done.
    """
    if not is_address(address):
        return str(source)
    with atomic_directory(copy) as folder:
        # What is being written beside a log has a name with a dot, and may be gone before it is copied.
        shutil.copytree(source, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".*"))
    return address


def log_folder(log: str) -> Path:
    """The folder of a log; raises DataError where there is none."""
    folder = Path(log)
    if not folder.is_dir():
        raise DataError(
            f"log {log}: no such folder here; expected one with events.parquet and rewards.parquet, on a volume of the"
            " steps (--volume CLAIM:/path), or an address such as s3://bucket/log"
        )
    return folder
