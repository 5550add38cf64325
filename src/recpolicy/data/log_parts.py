"""The files of a log: one file of a name, or numbered parts beside it.

`events.parquet` comes first, then `events-000001.parquet`, `events-000002.parquet` and so on. A part is written once,
by a rename, and never changed.
"""

import re
from pathlib import Path

EVENTS, REWARDS = "events.parquet", "rewards.parquet"
ROUNDS, ACTIONS = "rounds.parquet", "actions.parquet"
"""Files of feature logs."""
_DIGITS = 6


def log_parts(folder: Path, name: str) -> list[Path]:
    """Return the existing files of EVENTS or REWARDS in `folder`, in order; none if there is no such folder."""
    paths = folder.iterdir() if folder.is_dir() else ()
    parts = sorted((number, path) for path in paths if (number := part_number(path, name)) is not None)
    return [path for _, path in parts]


def part_path(folder: Path, name: str, number: int) -> Path:
    """Return the path of a part; 0 is the file without a number."""
    stem, _, suffix = name.rpartition(".")
    return folder / (f"{stem}-{number:0{_DIGITS}d}.{suffix}" if number else name)


def part_number(path: Path, name: str) -> int | None:
    """Return the number of a part from its file name; None for other files."""
    stem, _, suffix = name.rpartition(".")
    found = re.fullmatch(rf"{re.escape(stem)}(?:-(\d{{{_DIGITS},}}))?\.{re.escape(suffix)}", path.name)
    return None if found is None else int(found[1] or 0)


def has_events(folder: Path) -> bool:
    """Return True if `folder` is a raw log of rounds."""
    return bool(log_parts(folder, EVENTS))
