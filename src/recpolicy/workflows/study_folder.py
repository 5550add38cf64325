"""The folder of a study whose parts are stored when they are ready, so that a study that was killed continues."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from recpolicy.core.errors import ArtifactError
from recpolicy.core.files import read_versioned_json, write_json

STUDY_FILE = "study.json"


def open_study(out: Path, file_format: str, version: int, settings: Mapping[str, Any]) -> None:
    """Make the folder of a study, or check that it holds the same study.

    Args:
        out: The folder.
        file_format: Format of its study.json.
        version: Version of the format.
        settings: The settings that all parts share, JSON-able.

    Raises:
        ArtifactError: The folder holds something else, or a study with other settings.
    """
    path = out / STUDY_FILE
    if not path.exists():
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise ArtifactError(f"{out}: exists and holds no study; choose another folder")
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, {"format": file_format, "version": version, "settings": dict(settings)})
        return
    there = read_versioned_json(path, file_format, version)["settings"]
    for name, value in settings.items():
        if there.get(name) != value:
            raise ArtifactError(
                f"{out}: holds a study whose {name} is {there.get(name)!r}, here it is {value!r}; choose another folder"
            )
